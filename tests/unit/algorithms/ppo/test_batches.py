"""Which experience is learnt from next: from anyone, fresh enough, once, and without waiting."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from soulsai.algorithms.ppo.batches import QUIET, Ages, Batches
from tests.unit.algorithms.ppo.ppo_cases import fragment

STEPS, DEADLINE = 100, 10.0


class Clock:
    def __init__(self):
        self.now = 50.0

    def __call__(self):
        return self.now


def batches(*, max_lag=2, pace="free", clock=None):
    clock = clock if clock is not None else Clock()
    return Batches(steps=STEPS, max_lag=max_lag, deadline=DEADLINE, pace=pace, clock=clock)


def number(count, *, steps=10, first=0, **what):
    """Fragments of ``count`` episodes, all different."""
    return [fragment(steps, episode=first + i, **what) for i in range(count)]


def iterate(waiting, times=1):
    """Let iterations pass whose batches come from a faster client."""
    for _ in range(times):
        waiting.take()
        waiting.updated()


def test_a_full_batch_is_ready_and_the_rest_waits():
    waiting = batches()
    waiting.arrived(number(9))
    assert not waiting.ready
    waiting.arrived(number(3, client="b"))
    assert waiting.ready
    taken, lags = waiting.take()
    assert len(taken) == 10
    assert lags == [0] * 10
    assert len(waiting) == 20
    assert not waiting.ready


def test_after_the_deadline_most_of_a_batch_will_do():
    clock = Clock()
    waiting = batches(clock=clock)
    waiting.arrived(number(5))
    clock.now += 2 * DEADLINE
    assert not waiting.ready  # half is not most
    waiting.arrived(number(1, client="b"))
    assert waiting.ready


def test_before_the_deadline_it_will_not():
    clock = Clock()
    waiting = batches(clock=clock)
    clock.now += 99 * DEADLINE  # counts from the first fragment, not from the beginning
    waiting.arrived(number(9))
    clock.now += 0.9 * DEADLINE
    assert not waiting.ready
    clock.now += 0.1 * DEADLINE
    assert waiting.ready
    waiting.take()
    waiting.updated()
    clock.now += 2 * DEADLINE
    assert not waiting.ready  # of nothing


def test_10_what_comes_twice_changes_nothing_but_a_counter():
    waiting = batches()
    fragments = number(5)
    waiting.arrived(fragments)
    before = waiting.state_dict()
    waiting.arrived(fragments[::-1])
    after = waiting.state_dict()
    assert waiting.dropped.duplicates == 5
    assert after.pop("dropped") != before.pop("dropped")
    assert len(after.pop("waiting")) == len(before.pop("waiting"))
    assert after == before


def test_10_nor_after_it_was_learnt_from():
    waiting = batches()
    fragments = number(10)
    waiting.arrived(fragments)
    iterate(waiting, 2)
    waiting.arrived(fragments)
    assert (len(waiting), waiting.dropped.duplicates, waiting.dropped.stale) == (0, 10, 0)
    iterate(waiting, 1)  # now they are forgotten, because they would be too old
    waiting.arrived(fragments)
    assert (len(waiting), waiting.dropped.stale) == (0, 100)


def test_10_experience_may_be_so_many_iterations_old():
    waiting = batches(max_lag=2)
    waiting.arrived(number(1, version=1))
    waiting.updated()
    waiting.updated()
    waiting.arrived(number(1, version=1, first=1))
    assert len(waiting) == 20
    waiting.updated()
    assert (len(waiting), waiting.dropped.stale) == (0, 20)
    waiting.arrived(number(1, version=1, first=2))
    assert (len(waiting), waiting.dropped.stale) == (0, 30)


def test_10_a_late_one_of_a_version_that_nobody_else_played_is_as_old_as_newer_ones_are():
    waiting = batches(max_lag=2)
    for version in (3, 4, 5):
        waiting.arrived(number(1, version=version, client=f"c{version}"))
        waiting.updated()
    waiting.arrived(number(1, version=2))  # at least three iterations old, like version 3
    assert waiting.dropped.stale == 20
    waiting.arrived(number(1, version=9))
    assert waiting.dropped.stale == 20


def test_a_version_published_twice_is_not_older_for_that():
    ages = Ages()
    for version in (1, 2, 3):
        ages.record((1, version))
    assert [ages.lag((1, version)) for version in (1, 2, 3)] == [0, 0, 0]
    ages.iteration += 1
    assert [ages.lag((1, version)) for version in (1, 2, 3, 4)] == [1, 1, 1, 0]


def test_a_new_generation_s_versions_are_newer_whatever_their_numbers():
    ages = Ages()
    ages.record((1, 50))
    ages.iteration += 1
    ages.record((2, 7))
    ages.iteration += 1
    assert (ages.lag((1, 50)), ages.lag((1, 99)), ages.lag((2, 7)), ages.lag((2, 8))) == (
        2,
        1,
        1,
        0,
    )


@given(st.lists(st.tuples(st.integers(1, 6), st.booleans()), max_size=60))
def test_an_age_is_never_said_too_great_and_newer_versions_are_never_older(events):
    ages, published, newest = Ages(), {1: 0}, 1
    for back, happens in events:
        if happens:
            ages.iteration += 1
            newest += 1
            published[newest] = ages.iteration
            ages.forget(3)
        version = max(1, newest - back + 1)
        ages.record((1, version))
        lags = [ages.lag((1, v)) for v in range(1, newest + 1)]
        assert lags == sorted(lags, reverse=True)
        for v, lag in enumerate(lags, 1):
            assert lag <= ages.iteration - published[v] or lag > 3
            assert (lag > 3) <= (ages.iteration - published[v] > 3)


def test_evaluation_episodes_are_counted_and_not_learnt_from():
    waiting = batches()
    waiting.arrived(number(20, greedy=True))
    assert len(waiting) == 0
    assert waiting.dropped.greedy == 200
    assert waiting.arrived_steps == 200
    assert not waiting.ready


def test_a_fleet_that_is_too_fast_fills_no_memory():
    waiting = batches(max_lag=2)
    waiting.arrived(number(100))
    assert len(waiting) == 300
    assert waiting.dropped.overflow == 700
    assert waiting.take()[0][0].episode == 70  # the freshest are kept


def test_a_held_fleet_gets_at_most_a_batch_ahead():
    waiting = batches(pace="hold")
    assert waiting.quota == 200
    waiting.arrived(number(15))
    waiting.take()
    waiting.updated()
    assert len(waiting) == 50
    assert waiting.quota == 150


def test_what_a_version_on_its_way_granted_is_still_to_be_played():
    waiting = batches(pace="hold")
    waiting.published((1, 1), 200)
    assert waiting.quota == 200  # another one now would take its place
    waiting.arrived(number(15))
    iterate(waiting)
    assert (len(waiting), waiting.quota) == (50, 100)  # with the 50 that version 1 still grants
    waiting.published((1, 2), 100)
    waiting.arrived(number(5, first=15))
    iterate(waiting)
    assert (len(waiting), waiting.quota) == (0, 100)  # version 2 has not been heard of yet
    waiting.arrived(number(1, first=20, version=2))
    assert (len(waiting), waiting.quota) == (10, 100)
    waiting.published((1, 3), 100)
    waiting.arrived(number(9, first=21, version=3))
    iterate(waiting)
    assert waiting.quota == 200 - 10  # who has version 3 plays no more under version 2


def test_a_version_in_the_same_iteration_takes_the_place_of_the_one_before():
    waiting = batches(pace="hold")
    waiting.published((1, 1), 200)
    waiting.published((1, 2), 120)
    waiting.arrived(number(10))
    iterate(waiting)
    assert waiting.quota == 80


def test_the_same_version_is_noted_once():
    waiting = batches(pace="hold")
    for _ in range(3):
        waiting.published((1, 1), 200)
    waiting.arrived(number(10, version=0))
    iterate(waiting)
    waiting.published((1, 1), 200)
    assert (waiting.ages.lag((1, 1)), waiting.quota) == (1, 0)


def test_grants_that_never_arrive_are_given_up():
    clock = Clock()
    waiting = batches(pace="hold", clock=clock)
    waiting.published((1, 1), 200)
    waiting.arrived(number(10, version=0))
    iterate(waiting)
    assert waiting.quota == 0
    clock.now += QUIET * DEADLINE - 1
    assert not waiting.ready
    clock.now += 1
    assert waiting.ready
    iterate(waiting)
    assert waiting.quota == 200


def test_a_version_is_as_old_as_the_iterations_since_it_came_out():
    """Whoever gets it late plays with old weights, though nobody has played with them before."""
    waiting = batches(pace="hold")
    waiting.published((1, 1), 200)
    waiting.arrived(number(20))
    iterate(waiting, 2)
    waiting.arrived(number(10, first=20))
    assert waiting.take()[1] == [2] * 10


@given(st.data())
def test_no_step_is_older_than_an_iteration_however_late_versions_come_to_all_at_once(data):
    waiting = batches(pace="hold", max_lag=9)
    coming, version, quota, played, ages = [(1, 200)], 0, 0, 0, []
    waiting.published((1, 1), waiting.quota)
    newest = 1
    for _ in range(data.draw(st.integers(10, 60))):
        late = data.draw(st.integers(0, 3))
        if coming and not late:
            version, quota = coming.pop(0)
        if quota and version:
            steps = min(quota, data.draw(st.sampled_from((0, 10, 50, 200))))
            if steps:
                waiting.arrived(number(1, steps=steps, first=played, version=version))
                played, quota = played + 1, quota - steps
        if waiting.ready:
            ages += waiting.take()[1]
            waiting.updated()
            if waiting.quota:
                newest += 1
                waiting.published((1, newest), waiting.quota)
                coming.append((newest, waiting.quota))
        assert quota or coming or waiting.ready, "nobody waits for ever"
    assert all(age <= 1 for age in ages)


def test_clients_that_wait_for_the_weights_get_one_batch():
    waiting = batches(pace="synchronous", max_lag=0)
    assert waiting.quota == 100
    waiting.arrived(number(11))
    assert len(waiting.take()[0]) == 11  # all of it: later it is too old
    waiting.updated()
    assert waiting.quota == 100
    waiting.arrived(number(1, first=50))
    assert waiting.dropped.stale == 10


def test_what_evaluation_takes_of_the_quota_is_not_waited_for():
    waiting = batches(pace="synchronous", max_lag=0)
    waiting.published((1, 1), waiting.quota)
    waiting.arrived(number(3, greedy=True))
    waiting.arrived(number(6, first=3))
    assert not waiting.ready
    waiting.arrived(number(1, first=9))
    assert waiting.ready
    assert len(waiting.take()[0]) == 7


def test_nor_what_is_lost_when_a_quota_is_divided():
    waiting = batches(pace="synchronous", max_lag=0)
    waiting.published((1, 1), waiting.quota)
    for client in "abc":
        waiting.arrived(number(1, steps=33, client=client))
    assert waiting.ready


@pytest.mark.parametrize("greedy", [False, True])
def test_a_fleet_that_fell_silent_is_released(greedy):
    """Half of it may be gone, and the others wait for a version that would never come."""
    clock = Clock()
    waiting = batches(pace="hold", clock=clock)
    waiting.arrived(number(3, greedy=greedy))
    clock.now += QUIET * DEADLINE - 1
    assert not waiting.ready
    clock.now += 1
    assert waiting.ready
    assert len(waiting.take()[0]) == (0 if greedy else 3)
    waiting.updated()
    clock.now += 99 * DEADLINE
    assert not waiting.ready  # once is enough


def test_experience_must_be_younger_if_batch_after_batch_hardly_counts():
    waiting = batches(max_lag=8)
    said = [waiting.limit_lag(0.4) for _ in range(4)]
    assert not waiting.limit_lag(0.6)  # then the count begins again
    said += [waiting.limit_lag(0.4) for _ in range(4)]
    assert not any(said)
    assert waiting.limit_lag(0.4)
    assert (waiting.max_lag, waiting.metrics["max_lag"]) == (4, 4.0)
    resumed = batches(max_lag=16)  # asked for since
    resumed.load_state_dict(waiting.state_dict())
    assert resumed.max_lag == 8
    assert [resumed.limit_lag(0.1) for _ in range(20)].count(True) == 3
    assert resumed.max_lag == 1


def test_who_waits_for_each_version_is_never_too_old():
    waiting = batches(pace="synchronous", max_lag=0)
    assert not any(waiting.limit_lag(0.0) for _ in range(20))


@pytest.mark.parametrize("pace", ["free", "hold", "synchronous"])
def test_everything_survives(pace):
    one = batches(pace=pace, max_lag=0 if pace == "synchronous" else 2)
    one.arrived(number(12, memory=2))
    iterate(one)
    one.arrived(number(5, first=10, version=2))
    one.arrived(number(2, first=30, version=2, greedy=True))
    other = batches(pace=pace, max_lag=one.max_lag)
    other.load_state_dict(one.state_dict())
    for each in (one, other):
        each.arrived(number(12, first=12, version=2))
    assert other.metrics == one.metrics
    assert (other.ready, other.quota, len(other)) == (one.ready, one.quota, len(one))
    taken = [[(f.episode, len(f)) for f in each.take()[0]] for each in (one, other)]
    assert taken[0] == taken[1]
