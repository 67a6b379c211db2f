"""A schedule of arguments: every kind of environment takes them between two episodes."""

import random

import msgspec
import numpy as np
import pytest

from soulsai.client.in_process import InProcessEnvironment
from soulsai.client.isolation.environment import IsolatedEnvironment, start
from soulsai.client.isolation.watchdog import EnvironmentBroken
from soulsai.client.own_values import for_record, numbered, with_own
from soulsai.client.player_link import Instructions
from soulsai.client.probe import open_offer
from soulsai.client.take_over import TakenOverEnvironment
from soulsai.config.schema import ClientSettings, WatchdogSettings
from soulsai.types import EnvironmentOffer, Pointer, ScheduleStage
from tests.contract import staged_env
from tests.unit.client.player_cases import stage as scene

FILE = f"{staged_env.__file__}:{staged_env.Staged.__name__}"
OFFER = EnvironmentOffer(
    FILE,
    {"reward": 1.0, "steps": 4},
    schedule=(
        ScheduleStage(100, {"reward": 2.0}),
        ScheduleStage(200, {"reward": 3.0, "steps": 6}),
    ),
)
STAGES = range(len(OFFER.schedule) + 1)
VALUES = [for_record(OFFER, stage) for stage in STAGES]
LIMITS, RNG = WatchdogSettings(), random.Random(1)


class Nobody:
    """A person who touches nothing."""

    def poll(self):
        return None

    def show(self, frame, *, person):
        pass

    def close(self):
        pass


def in_process(offer=OFFER):
    return InProcessEnvironment(
        lambda stage: open_offer(FILE, offer.at_stage(stage), masked=False), LIMITS, rng=RNG
    )


def isolated(offer=OFFER):
    spec = open_offer(FILE, offer, masked=False).spec
    environment = IsolatedEnvironment(FILE, offer, spec, LIMITS, stopped=lambda: False, rng=RNG)
    start(environment, lambda: False)
    return environment


def taken_over(offer=OFFER):
    inner = in_process(offer)
    return TakenOverEnvironment(inner, inner.adapted.spec.action, Nobody(), lambda: inner.adapted)


KINDS = {"in process": in_process, "isolated": isolated, "taken over": taken_over}


def until_ready(environment):
    while not environment.ready(0.5):
        pass


def at(line, begun):
    """Publish a version with the number of stages that have begun."""
    actor = line.instructions.actor
    pointer = Pointer("r", 1, 1, 0, "", exploration={"stage": float(begun)})
    line.instructions = Instructions(pointer, actor)


@pytest.mark.parametrize("count", [1, 2])
@pytest.mark.parametrize("kind", KINDS)
def test_a_stage_holds_from_the_next_episode_on_and_is_recorded_with_it(kind, count):
    environments = [KINDS[kind]() for _ in range(count)]
    environments[0].spec = open_offer(FILE, OFFER, masked=False).spec
    try:
        player, line, _, progress = scene(environments, values=VALUES, offer=OFFER)

        def played():
            """Begin the first stage in the middle of an episode, the second one later."""
            due = sum(progress.steps >= steps * count for steps in (2, 40))
            if due > line.instructions.stage:
                at(line, due)
            return progress.steps >= 100 * count

        player.run(played)
    finally:
        for environment in environments:
            environment.close()
    told = [(episode.reward / episode.steps, episode.steps) for episode in line.episodes]
    by_stage = {1.0: 4, 2.0: 4, 3.0: 6}
    assert dict(told) == by_stage
    order = [reward for reward, _ in told]
    if count == 1:
        assert order == sorted(order)
        assert order.count(1.0) == 1, "the episode that had begun goes on as it began"
    for episode in line.episodes:
        reward = episode.reward / episode.steps
        # From a stage on its arguments replace those of the run, not those of the stage before.
        assert episode.kwargs == {"reward": reward, "steps": by_stage[reward]}
    assert progress.kwargs == {"reward": 3.0, "steps": 6}
    assert progress.restarts == 0
    assert progress.faults == {}
    for fragment in line.fragments:
        assert len(set(fragment.reward.tolist())) == 1, "a fragment never crosses a stage"


def test_a_client_that_comes_late_plays_the_stage_of_now():
    environment = in_process()
    environment.spec = open_offer(FILE, OFFER, masked=False).spec
    _, line, go, _ = scene([environment], values=VALUES, offer=OFFER)
    at(line, 2)
    go(12)
    assert {episode.reward for episode in line.episodes} == {18.0}


@pytest.mark.parametrize(
    ("published", "begun"), [(np.nan, 0), (-1.0, 0), (1e9, 0), (1.0, 1), (64.0, 64)]
)
def test_a_stage_that_makes_no_sense_is_none(published, begun):
    pointer = Pointer("r", 1, 1, 0, "", exploration={"stage": published})
    assert Instructions(pointer).stage == begun
    assert Instructions().stage == 0


def test_more_stages_than_the_run_has_are_its_last():
    environment = in_process()
    environment.spec = open_offer(FILE, OFFER, masked=False).spec
    _, line, go, _ = scene([environment], values=VALUES, offer=OFFER)
    at(line, 60)
    go(12)
    assert {episode.reward for episode in line.episodes} == {18.0}


def test_stages_begin_at_their_env_steps():
    assert [OFFER.begun(steps) for steps in (0, 99, 100, 199, 200, 10**9)] == [0, 0, 1, 1, 2, 2]
    assert EnvironmentOffer("x").begun(10**9) == 0
    assert (
        OFFER.last
        == OFFER.at_stage(2)
        == msgspec.structs.replace(OFFER, kwargs={"reward": 3.0, "steps": 6}, schedule=())
    )


def test_own_values_and_numbers_hold_in_every_stage():
    offer = EnvironmentOffer(
        "x",
        {"port": "{5000+index}", "speed": 1},
        ("speed",),
        schedule=(ScheduleStage(5, {"speed": 2, "room": "{index}"}),),
    )
    ours = numbered(with_own(offer, ClientSettings(kwargs={"speed": 9})), 3)
    assert ours.kwargs == {"port": 5003, "speed": 9}
    assert ours.last.kwargs == {"port": 5003, "speed": 9, "room": 3}
    assert for_record(offer) == {"speed": 1}
    assert for_record(offer, 1) == {"speed": 2, "room": "{index}"}


@pytest.mark.parametrize("kind", ["in process", "isolated"])
def test_an_environment_that_cannot_be_made_for_a_stage_is_a_fault(kind):
    broken = msgspec.structs.replace(OFFER, schedule=(ScheduleStage(5, {"lenght": 3}),))
    environment = KINDS[kind](broken)
    try:
        environment.begin_stage(1)
        with pytest.raises(EnvironmentBroken, match="lenght") as caught:
            until_ready(environment)
    finally:
        environment.close()
    assert caught.value.fault.kind == "crash"
