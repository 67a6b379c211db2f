"""How far a held fleet runs ahead of a learner that replays, however late versions come."""

from collections import deque
from typing import NamedTuple

import pytest
from hypothesis import given
from hypothesis import strategies as st

from soulsai.algorithms.grants import Grants
from soulsai.replay.ratio import Pace
from tests.unit.algorithms.ppo.ppo_cases import fragment

SLACK, STARTS, EVERY = 400, 200, 20


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
    pace, grants = Pace("hold", ratio=1.0, starts=STARTS, slack=SLACK), Grants()
    flights, version, left, newest, due = deque(), 0, 0, 0, True
    ahead, idle, held = 0.0, 0, 0
    for tick in range(ticks):
        quota = pace.quota(grants.coming if counted else 0)
        if due and quota:
            newest, due = newest + 1, False
            grants.published((1, newest), quota)
            flights.append((tick + late, newest, quota))
        while flights and flights[0][0] <= tick:
            _, version, left = flights.popleft()
        steps = min(left, int(speed * (tick + 1)) - int(speed * tick))
        held += pace.updates > 0 and not left
        if steps:
            left -= steps
            pace.arrived(steps)
            grants.came(Sent(version, steps))
        ahead = max(ahead, pace.debt)
        idle += pace.updates > 0 and not pace.due
        if pace.due:
            pace.updated()
            grants.updated()
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
    grants = Grants()
    grants.published((1, 1), 100)
    grants.updated()
    grants.published((1, 2), 50)
    grants.updated()
    grants.came(fragment(30, episode=0, version=1))
    assert grants.coming == 70 + 50
    grants.came(fragment(30, episode=1, version=2))
    assert grants.coming == 20
    grants.came(fragment(30, episode=2, version=1))  # of a client that got it later
    assert grants.coming == 20


def test_a_version_of_this_iteration_is_about_to_be_replaced():
    grants = Grants()
    grants.published((1, 1), 100)
    grants.published((1, 2), 50)
    assert grants.coming == 0
    grants.updated()
    assert grants.coming == 50


def test_a_greedy_episode_s_steps_are_those_of_the_oldest_version():
    grants = Grants()
    grants.published((1, 7), 100)
    grants.updated()
    grants.came(fragment(30, episode=0, version=2, greedy=True))
    assert grants.coming == 70


def test_a_fleet_that_may_do_as_it_likes_is_granted_nothing():
    grants = Grants()
    assert grants.published((1, 1), None)
    assert not grants.published((1, 1), None)
    grants.updated()
    assert grants.coming == 0
