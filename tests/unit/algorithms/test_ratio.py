"""The account between env steps and updates."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from soulsai.replay.ratio import PHASE_STEPS, Pace


def work_off(pace):
    done = 0
    while pace.due:
        pace.updated()
        done += 1
    return done


@settings(deadline=None)
@given(
    ratio=st.sampled_from([0.03, 0.1, 0.3, 1.0, 2.5]),
    arrivals=st.lists(st.integers(0, 100), max_size=40),
    starts=st.integers(0, 200),
)
def test_what_is_owed_is_the_ratio_times_the_steps_after_the_first(ratio, arrivals, starts):
    pace = Pace("hold", ratio=ratio, starts=starts, slack=50)
    done = 0
    for steps in arrivals:
        pace.arrived(steps)
        done += work_off(pace)
    assert done == int(ratio * max(0, sum(arrivals) - starts) + 1e-6)


def test_without_new_steps_there_is_no_learning():
    pace = Pace("hold", ratio=1.0, starts=0, slack=50)
    assert not pace.due
    pace.arrived(3)
    assert work_off(pace) == 3
    assert not pace.due


def test_hold_grants_the_first_steps_and_then_what_the_learner_is_not_behind():
    pace = Pace("hold", ratio=0.5, starts=100, slack=80)
    assert pace.quota() == 180
    pace.arrived(100)
    assert not pace.warming_up
    assert pace.quota() == 80
    pace.arrived(60)
    assert pace.quota() == 20
    pace.arrived(60)  # clients may have been on their way
    assert pace.quota() == 0
    assert work_off(pace) == 60
    assert pace.quota() == 80


def test_hold_forgets_nothing():
    pace = Pace("hold", ratio=1.0, starts=0, slack=50)
    pace.arrived(100_000)
    assert work_off(pace) == 100_000


def test_free_asks_nobody_to_wait_and_owes_no_more_than_its_slack():
    pace = Pace("free", ratio=1.0, starts=10, slack=50)
    assert pace.quota() is None
    pace.arrived(10_000)
    assert work_off(pace) == 50
    pace.arrived(20)
    assert work_off(pace) == 20


@pytest.mark.parametrize("ratio", [0.003, 0.01, 0.07, 0.3, 1.0, 4.0])
@pytest.mark.parametrize("kind", ["hold", "lockstep"])
@pytest.mark.parametrize("starts", [0, 7, 1000])
def test_a_fleet_that_uses_up_its_quota_always_gets_a_new_version(kind, ratio, starts):
    pace = Pace(kind, ratio=ratio, starts=starts, slack=1)
    for _ in range(200):
        pace.arrived(pace.quota())
        assert work_off(pace) > 0, "no update, no new version, no new quota"


def test_lockstep_takes_turns():
    pace = Pace("lockstep", ratio=1.0, starts=100, slack=50)
    assert pace.quota() == 100 + PHASE_STEPS
    pace.arrived(100 + PHASE_STEPS - 1)
    assert not pace.due
    pace.arrived(1)
    for _ in range(PHASE_STEPS - 1):
        assert pace.quota() == 0
        pace.updated()
        assert pace.due
    pace.updated()
    assert not pace.due
    assert pace.quota() == PHASE_STEPS


@pytest.mark.parametrize("kind", ["hold", "free", "lockstep"])
def test_the_account_is_saved_and_restored(kind):
    first, second = (Pace(kind, ratio=0.7, starts=10, slack=20) for _ in range(2))
    first.arrived(90)
    first.updated()
    second.load_state_dict(first.state_dict())
    for pace in (first, second):
        pace.arrived(100)
    assert (first.debt, first.due, first.quota()) == (second.debt, second.due, second.quota())
    assert work_off(first) == work_off(second)


@pytest.mark.parametrize("kind", ["hold", "free", "lockstep"])
@pytest.mark.parametrize("before", [0, 60, 100, 500])
def test_an_empty_replay_is_filled_again_before_anything_is_due(kind, before):
    first = Pace(kind, ratio=2.0, starts=100, slack=50)
    first.arrived(before)
    pace = Pace(kind, ratio=2.0, starts=100, slack=50)
    pace.load_state_dict(first.state_dict())
    pace.refill()
    missing = 100 - before if before < 100 else 0
    filling = missing + min(before, 100)
    for _ in range(filling):
        assert not pace.due
        assert pace.quota() is None or pace.quota() > 0
        pace.arrived(1)
    while not pace.due:  # in lockstep, as many as in any other turn
        pace.arrived(1)
        filling += 1
    assert filling <= 100 + PHASE_STEPS
