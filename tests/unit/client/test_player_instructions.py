"""The loop: what it does with new weights, quotas, and instructions."""

import copy

import msgspec
import numpy as np
import pytest

from soulsai.client.actor import Actor
from soulsai.client.player_link import EvaluationTask
from soulsai.testing.policy import linear_program
from soulsai.types import Head, Pointer, Weights
from tests.unit.client.player_cases import Diary, stage


def version(line, number, *, generation=1, quota=None, exploration=None):
    """Return instructions with a version of the weights that always takes action ``number % 3``."""
    spec = line.run.spec
    program, arrays = linear_program(spec, Head("epsilon_greedy"))
    arrays["b"][number % 3] = 1.0
    weights = Weights(run="r", generation=generation, version=number, arrays=arrays)
    actor = Actor.load(program, weights, spec)
    pointer = Pointer("r", generation, number, 0, "", quota=quota, exploration=exploration or {})
    return line.instructions._replace(pointer=pointer, actor=actor)


def changing(line, after, change):
    """Call ``change`` as soon as so many messages have been sent."""
    send = line.send

    def sending(message):
        send(message)
        if len(line.messages) == after:
            change()

    line.send = sending


def test_nothing_is_played_before_the_first_version():
    env = Diary()
    _, line, go, progress = stage([env])
    line.instructions = line.instructions._replace(actor=None, pointer=None)
    go(10)
    assert env.episode == -1
    assert line.waits == 5
    assert progress.waiting
    line.waits = 0
    line.instructions = version(line, 1)
    go(10)
    assert progress.steps == 10
    assert not progress.waiting


def test_weights_are_swapped_between_fragments_only():
    env = Diary(length=100)
    _, line, go, progress = stage([env])
    step, newer = env.step, version(line, 2)

    def stepping(action):
        if env.t == 5:
            line.instructions = newer
        return step(action)

    env.step = stepping
    go(12)
    assert [one.version for one in line.fragments] == [1, 1, 2]
    assert progress.version == 2


def test_side_by_side_each_environment_swaps_at_its_own_cut():
    envs = [Diary(0, 100), Diary(1, 6)]
    _, line, go, _ = stage(envs, fragment_steps=8)
    step, newer = envs[0].step, version(line, 2)

    def stepping(action):
        if envs[0].t == 5:
            line.instructions = newer
        return step(action)

    envs[0].step = stepping
    go(32)
    first = [one.version for one in line.fragments if one.obs["obs"][0, 0] == 0]
    second = [one.version for one in line.fragments if one.obs["obs"][0, 0] == 1]
    assert first == [1, 2]
    assert second == [1, 2, 2]


def test_versions_act_by_their_own_weights_side_by_side():
    envs = [Diary(number, 5 + number) for number in range(4)]
    _, line, go, _ = stage(envs, fragment_steps=6, epsilon_base=0.0)
    step, versions = envs[0].step, [version(line, number) for number in range(2, 9)]

    def stepping(action):
        if envs[0].t == 2 and versions:
            line.instructions = versions.pop(0)
        return step(action)

    envs[0].step = stepping
    go(160)
    assert len({one.version for one in line.fragments}) > 5
    for one in line.fragments:
        favoured = 0 if one.version == 1 else one.version % 3  # of equals, the first
        assert set(one.action) == {favoured}


def test_a_greedy_episode_keeps_its_version_to_the_end():
    env = Diary(length=10)
    _, line, go, _ = stage([env], eval_fraction=1.0)
    step, versions = env.step, [version(line, number) for number in range(2, 5)]

    def stepping(action):
        if env.t == 5 and versions:
            line.instructions = versions.pop(0)
        return step(action)

    env.step = stepping
    go(30)
    assert [(one.episode, one.version) for one in line.fragments] == [
        (episode, episode + 1) for episode in range(3) for _ in range(3)
    ]
    assert all(one.greedy for one in line.fragments)
    assert [(one.version, one.greedy) for one in line.episodes] == [
        (number, True) for number in (1, 2, 3)
    ]
    assert {action for actions in env.actions[1:2] for action in actions} == {2}


def test_a_greedy_episode_without_end_explores_after_a_while():
    env = Diary(length=2400)
    _, line, go, _ = stage([env], eval_fraction=1.0)
    changing(line, 10, lambda: setattr(line, "instructions", version(line, 2)))
    go(2400)
    assert [(one.greedy, one.version) for one in line.fragments] == [
        *[(True, 1)] * 250,
        *[(False, 2)] * 350,
    ]
    assert [one.start for one in line.fragments] == list(range(0, 2400, 4))
    assert [(one.greedy, one.version, one.steps) for one in line.episodes] == [(False, 2, 2400)]
    assert line.episodes[0].epsilon == max(one.epsilon for one in line.fragments)
    go(2400)  # as long as one that has ended is no reason
    assert line.episodes[1].greedy


def test_an_episode_names_the_newest_weights_that_took_part():
    env = Diary(length=10)
    _, line, go, _ = stage([env])
    changing(line, 1, lambda: setattr(line, "instructions", version(line, 9)))
    go(10)
    assert line.episodes[0].version == 9


def test_a_newer_generation_is_newer_whatever_its_version():
    env = Diary(length=10)
    _, line, go, _ = stage([env])
    changing(line, 1, lambda: setattr(line, "instructions", version(line, 0, generation=2)))
    go(10)
    assert (line.episodes[0].generation, line.episodes[0].version) == (2, 0)


@pytest.mark.parametrize("environments", [1, 3])
def test_a_spent_quota_sends_what_there_is_and_waits(environments):
    envs = [Diary(number, 100) for number in range(environments)]
    _, line, go, progress = stage(envs, quota=6)
    go(100)
    assert progress.steps == 6
    assert progress.waiting
    assert line.waits == 5
    assert sum(len(one) for one in line.fragments) == 6
    line.waits = 0
    line.instructions = version(line, 2, quota=9)
    go(100)
    assert progress.steps == 6 + 9
    assert [one.version for one in line.fragments if one.clock >= 6] == [2] * (
        len(line.fragments) - len([one for one in line.fragments if one.clock < 6])
    )


def test_the_quota_counts_from_the_pointer_whatever_weights_act():
    _, line, go, progress = stage([Diary(length=100)], quota=6)
    go(4)
    pointer = Pointer("r", 1, 2, 0, "", quota=3)
    line.instructions = line.instructions._replace(
        pointer=pointer
    )  # its weights are still being fetched
    go(100)
    assert progress.steps == 4 + 3
    assert {one.version for one in line.fragments} == {1}
    line.waits, line.instructions = 0, version(line, 2)._replace(pointer=pointer)
    go(100)
    assert progress.steps == 4 + 3  # the weights of the same pointer bring nothing new


def test_a_quota_of_zero_stops_everything():
    _, line, go, progress = stage([Diary()], quota=0)
    go(10)
    assert progress.steps == 0
    assert line.messages == []


def test_knobs_count_at_once():
    env = Diary(length=100)
    _, line, go, _ = stage([env], epsilon_base=0.0)
    line.instructions = version(line, 4)  # always action 1
    step = env.step

    def stepping(action):
        if env.t == 10:
            exploration = msgspec.structs.replace(
                line.instructions.pointer, exploration={"random": 1.0}
            )
            line.instructions = line.instructions._replace(pointer=exploration)
        return step(action)

    env.step = stepping
    go(41)
    assert set(env.actions[0][:11]) == {1}
    assert set(env.actions[0][11:]) == {0, 1, 2}


def test_a_part_of_all_actions_is_random_if_the_run_asks_for_it():
    env = Diary(length=2000)
    _, line, go, _ = stage([env], epsilon_base=0.0, exploration={"random": 0.6})
    line.instructions = version(line, 4, exploration={"random": 0.6})  # always action 1
    go(2000)
    counts = np.bincount(env.actions[0], minlength=3) / 2000
    assert counts == pytest.approx([0.2, 0.6, 0.2], abs=0.04)
    assert line.episodes[0].epsilon == 0.6
    assert line.fragments[0].epsilon == 0.0


def test_a_pause_sends_what_there_is_and_waits():
    _, line, go, progress = stage([Diary(length=100)])
    go(1)
    line.instructions = line.instructions._replace(paused=True)
    go(10)
    assert progress.steps == 1
    assert not progress.waiting  # for the learner, that is
    assert line.waits == 5
    line.waits, line.instructions = 0, line.instructions._replace(paused=False)
    go(3)
    assert [len(one) for one in line.fragments] == [1, 3]


@pytest.mark.parametrize(("over", "sent"), [("stop", 2), ("error", 2), ("run", 0)])
def test_the_end_is_obeyed_between_two_steps(over, sent):
    env = Diary(length=100)
    _, line, go, progress = stage([env])
    step = env.step

    def stepping(action):
        if env.t == 1:
            line.instructions = line.instructions._replace(over=over)
        return step(action)

    env.step = stepping
    assert go(100) == over
    assert progress.steps == 2
    assert sum(len(one) for one in line.fragments) == sent


def test_an_evaluation_is_played_in_the_next_episodes_with_exactly_its_version():
    _, line, go, _ = stage([Diary(length=6)], eval_fraction=0.0)
    go(8)
    newest = line.instructions.actor
    older = copy.copy(newest)
    older.version = 0
    line.instructions = line.instructions._replace(evaluation=EvaluationTask(older, 2))
    go(28)
    kinds = [(episode.greedy, episode.version) for episode in line.episodes]
    assert kinds == [(False, 1), (True, 0), (True, 0), (False, 1), (False, 1)]
    for fragment in line.fragments:
        assert fragment.greedy == (fragment.version == 0)
    assert [len(one) for one in line.fragments if one.greedy] == [4, 2, 4, 2]
