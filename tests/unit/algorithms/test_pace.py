"""The account of updates and env steps: what is owed, what is granted, and to whom."""

from collections import deque
from typing import NamedTuple

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from soulsai.algorithms.pace import PHASE_STEPS, InFlight, Pace, divide
from tests.unit.algorithms.ppo.ppo_cases import fragment

SLACK, STARTS, EVERY = 400, 200, 20


def account(ratio, buffer, starts, kind="hold"):
    return Pace(kind, samples_per_insert=ratio, error_buffer=buffer, learning_starts=starts)


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
    pace = account(ratio, 50, starts)
    done = 0
    for steps in arrivals:
        pace.arrived(steps)
        done += work_off(pace)
    assert done == int(ratio * max(0, sum(arrivals) - starts) + 1e-6)


def test_without_new_steps_there_is_no_learning():
    pace = account(1.0, 50, 0)
    assert not pace.due
    pace.arrived(3)
    assert work_off(pace) == 3
    assert not pace.due


def test_hold_grants_the_first_steps_and_then_what_the_learner_is_not_behind():
    pace = account(0.5, 80, 100)
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
    pace = account(1.0, 50, 0)
    pace.arrived(100_000)
    assert work_off(pace) == 100_000


def test_free_asks_nobody_to_wait_and_owes_no_more_than_its_slack():
    pace = account(1.0, 50, 10, "free")
    assert pace.quota() is None
    pace.arrived(10_000)
    assert work_off(pace) == 50
    pace.arrived(20)
    assert work_off(pace) == 20


@pytest.mark.parametrize("ratio", [0.003, 0.01, 0.07, 0.3, 1.0, 4.0])
@pytest.mark.parametrize("kind", ["hold", "lockstep"])
@pytest.mark.parametrize("starts", [0, 7, 1000])
def test_a_fleet_that_uses_up_its_quota_always_gets_a_new_version(kind, ratio, starts):
    pace = account(ratio, 1, starts, kind)
    for _ in range(200):
        pace.arrived(pace.quota())
        assert work_off(pace) > 0, "no update, no new version, no new quota"


def test_lockstep_takes_turns():
    pace = account(1.0, 50, 100, "lockstep")
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
    first, second = (account(0.7, 20, 10, kind) for _ in range(2))
    first.arrived(90)
    first.updated()
    second.load_state_dict(first.state_dict())
    for pace in (first, second):
        pace.arrived(100)
    assert (first.owed, first.due, first.quota()) == (second.owed, second.due, second.quota())
    assert work_off(first) == work_off(second)


@pytest.mark.parametrize("kind", ["hold", "free", "lockstep"])
@pytest.mark.parametrize("before", [0, 60, 100, 500])
def test_an_empty_replay_is_filled_again_before_anything_is_due(kind, before):
    first = account(2.0, 50, 100, kind)
    first.arrived(before)
    pace = account(2.0, 50, 100, kind)
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


class Sent:
    """As much of a fragment as an account looks at; thousands are sent."""

    generation, greedy = 1, False

    def __init__(self, version, steps):
        self.version, self._steps = version, steps

    def __len__(self):
        return self._steps


class Seen(NamedTuple):
    ahead: float  # the most updates that were owed at once
    learnt: int  # updates
    idle: int  # ticks in which the learner owed nothing, once it had begun
    held: int  # ticks in which the fleet waited, once the learner had begun


def play(*, late, speed, ticks=3_000, counted=True):
    """Let a fleet play ``speed`` steps a tick, and a learner update once; versions come late."""
    pace, in_flight = account(1.0, SLACK, STARTS), InFlight()
    flights, version, left, newest, due = deque(), 0, 0, 0, True
    ahead, idle, held = 0.0, 0, 0
    for tick in range(ticks):
        quota = pace.quota(in_flight.steps if counted else 0)
        if due and quota:
            newest, due = newest + 1, False
            in_flight.published((1, newest), quota)
            flights.append((tick + late, newest, quota))
        while flights and flights[0][0] <= tick:
            _, version, left = flights.popleft()
        steps = min(left, int(speed * (tick + 1)) - int(speed * tick))
        held += pace.updates > 0 and not left
        if steps:
            left -= steps
            pace.arrived(steps)
            in_flight.arrived(Sent(version, steps))
        ahead = max(ahead, pace.owed)
        idle += pace.updates > 0 and not pace.due
        if pace.due:
            pace.updated()
            in_flight.updated()
            due = due or pace.updates % EVERY == 0 or not pace.due
    return Seen(ahead, pace.updates, idle, held)


@given(late=st.integers(0, SLACK // 2 - EVERY), speed=st.sampled_from((2.0, 5.0, 1000.0)))
def test_a_fast_fleet_is_at_most_the_slack_ahead_and_the_learner_never_waits(late, speed):
    seen = play(late=late, speed=speed)
    assert seen.ahead <= SLACK
    assert seen.idle == 0


def test_which_it_would_not_be_if_what_is_on_its_way_did_not_count():
    assert play(late=150, speed=1000.0, counted=False).ahead > 1.5 * SLACK


@pytest.mark.parametrize("late", [SLACK // 2, SLACK, 3 * SLACK])
def test_if_versions_come_even_later_a_fast_fleet_is_ahead_by_less_than_without_an_account(late):
    with_account, without = (play(late=late, speed=1000.0, counted=c) for c in (True, False))
    assert with_account.ahead <= 2 * SLACK < without.ahead
    assert with_account.learnt >= 0.99 * without.learnt


@given(late=st.integers(0, SLACK // 2), speed=st.floats(0.1, 0.9))
def test_a_fleet_slower_than_the_learner_is_never_held(late, speed):
    assert play(late=late, speed=speed).held == 0


def test_a_newer_version_takes_the_place_of_older_ones_once_somebody_has_played_with_it():
    in_flight = InFlight()
    in_flight.published((1, 1), 100)
    in_flight.updated()
    in_flight.published((1, 2), 50)
    in_flight.updated()
    in_flight.arrived(fragment(30, episode=0, version=1))
    assert in_flight.steps == 70 + 50
    in_flight.arrived(fragment(30, episode=1, version=2))
    assert in_flight.steps == 20
    in_flight.arrived(fragment(30, episode=2, version=1))  # of a client that got it later
    assert in_flight.steps == 20


def test_a_version_of_this_iteration_is_about_to_be_replaced():
    in_flight = InFlight()
    in_flight.published((1, 1), 100)
    in_flight.published((1, 2), 50)
    assert in_flight.steps == 0
    in_flight.updated()
    assert in_flight.steps == 50


def test_a_greedy_episode_s_steps_are_those_of_the_oldest_version():
    in_flight = InFlight()
    in_flight.published((1, 7), 100)
    in_flight.updated()
    in_flight.arrived(fragment(30, episode=0, version=2, greedy=True))
    assert in_flight.steps == 70


def test_a_fleet_that_may_do_as_it_likes_is_granted_nothing():
    in_flight = InFlight()
    assert in_flight.published((1, 1), None)
    assert not in_flight.published((1, 1), None)
    in_flight.updated()
    assert in_flight.steps == 0


@pytest.mark.parametrize(
    ("quota", "clients", "each"),
    [(None, 3, None), (0, 3, 0), (10, 3, 3), (2, 3, 1), (10, 1, 10)],
)
def test_a_share_is_never_nothing_of_something(quota, clients, each):
    assert divide(quota, [0] * clients, None) == each


def test_who_is_fast_does_not_wait_for_what_others_leave():
    granted = divide(1000, [0] * 10, None)
    assert granted == 100
    granted = divide(1000, [100, *[3] * 9], granted)
    assert granted == 1000 - 9 * 6
    assert divide(1000, [granted, *[3] * 9], granted) == granted
    assert divide(1000, [40, *[3] * 9], 100) == 80 + (1000 - 9 * 6 - 80) // 10
    assert divide(100, [100, 100], 100) == 50
    assert divide(7, [5], 100) == 7


@given(
    quota=st.integers(1, 10**6),
    taken=st.lists(st.integers(0, 10**4), min_size=1, max_size=50),
    granted=st.none() | st.integers(1, 10**4),
)
def test_shares_use_up_the_quota_and_nobody_gets_less_than_an_equal_part(quota, taken, granted):
    each = divide(quota, taken, granted)
    assert max(1, quota // len(taken)) <= each <= quota
    spent = [granted is None or steps >= 0.75 * granted for steps in taken]
    served = sum(
        each if all_ else min(each, 2 * steps) for all_, steps in zip(spent, taken, strict=True)
    )
    assert served <= max(quota, len(taken))
