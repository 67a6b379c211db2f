"""The loop: what it sends is exactly what happened."""

import logging

import numpy as np
import pytest

from soulsai.client.recorder import MOST_BYTES, capacity
from soulsai.errors import EnvironmentFault
from soulsai.testing import BoxToy, DictToy, MaskedToy, MultiDiscreteToy, RudeEnv
from soulsai.types import MASK, PROTOCOL, ActionSpec, EnvironmentOffer, Leaf, RunSpec, Spec
from soulsai.wire.codec import encode_message
from tests.unit.client.player_cases import Diary, stage


def test_fragments_are_the_episode_cut_into_pieces():
    env = Diary(length=10)
    _, line, go, _ = stage([env])
    go(20)
    assert [len(one) for one in line.fragments] == [4, 4, 2, 4, 4, 2]
    assert [one.start for one in line.fragments] == [0, 4, 8, 0, 4, 8]
    assert [one.episode for one in line.fragments] == [0, 0, 0, 1, 1, 1]
    assert [one.clock for one in line.fragments] == [0, 4, 8, 10, 14, 18]
    assert [one.terminated for one in line.fragments] == [False, False, True] * 2
    assert not any(one.truncated for one in line.fragments)
    for one in line.fragments:
        steps = np.arange(one.start, one.start + len(one) + 1)
        np.testing.assert_array_equal(one.obs["obs"][:, 2], steps)
        np.testing.assert_array_equal(one.obs["obs"][:, 1], one.episode)
        np.testing.assert_array_equal(one.reward, steps[1:] - 0.5)
        np.testing.assert_array_equal(one.action, env.actions[one.episode][one.start :][: len(one)])
        assert (one.generation, one.version, one.epoch) == (1, 1, 7)


def test_what_is_unfinished_at_the_end_is_sent_as_a_cut():
    _, line, go, _ = stage([Diary(length=10)])
    go(6)
    assert [len(one) for one in line.fragments] == [4, 2]
    assert not any(one.ended for one in line.fragments)
    assert line.episodes == []


def test_a_truncation_is_no_termination():
    _, line, go, _ = stage([Diary(length=3, terminates=False)])
    go(3)
    (fragment,) = line.fragments
    assert (fragment.terminated, fragment.truncated) == (False, True)
    np.testing.assert_array_equal(fragment.obs["obs"][-1], [0, 0, 3])
    assert not line.episodes[0].terminated


@pytest.mark.parametrize("length", [1, 4, 8])
def test_an_episode_that_ends_with_its_fragment_leaves_no_empty_one(length):
    _, line, go, _ = stage([Diary(length=length)])
    go(2 * length)
    assert sum(len(one) for one in line.fragments) == 2 * length
    assert all(len(one) for one in line.fragments)
    assert [one.ended for one in line.fragments].count(True) == 2


def test_an_episode_is_summed_up():
    now = [0.0]

    def clock():
        now[0] += 0.25
        return now[0]

    keys = ("score", "name", "nan", "missing")
    _, line, go, progress = stage([Diary(length=5)], clock=clock, info_keys=keys)
    go(5)
    (episode,) = line.episodes
    assert (episode.episode, episode.steps, episode.reward) == (0, 5, 12.5)
    assert (episode.generation, episode.version) == (1, 1)
    assert episode.terminated
    assert not episode.greedy
    assert 0 < episode.epsilon <= 0.4
    assert episode.seconds > 0
    assert episode.info == {"score": 5.0}
    assert line.fragments[0].epsilon == episode.epsilon
    assert (progress.steps, progress.episodes, progress.version) == (5, 1, 1)


def test_a_slow_environment_sends_by_the_clock():
    now = [0.0]
    env = Diary(length=10)
    step = env.step
    env.step = lambda action: (now.__setitem__(0, now[0] + 0.4), step(action))[1]
    _, line, go, _ = stage([env], clock=lambda: now[0], fragment_seconds=1.0, fragment_steps=64)
    go(10)
    assert [len(one) for one in line.fragments] == [3, 3, 3, 1]
    now[0], env.t = 0.0, 0
    env.step = lambda action: (now.__setitem__(0, now[0] + 5), step(action))[1]
    line.messages.clear()
    go(2)
    assert [len(one) for one in line.fragments] == [1, 1]


def test_environments_side_by_side_do_not_mix():
    envs = [Diary(number, length=3 + number) for number in range(3)]
    _, line, go, progress = stage(envs)
    go(60)
    clock = 0
    for one in line.fragments:
        assert len(set(one.obs["obs"][:, 0])) == 1
        env = envs[int(one.obs["obs"][0, 0])]
        mine, begins = int(one.obs["obs"][0, 1]), one.start
        np.testing.assert_array_equal(one.obs["obs"][:, 2], begins + np.arange(len(one) + 1))
        np.testing.assert_array_equal(one.action, env.actions[mine][begins : begins + len(one)])
        assert one.clock == clock
        clock += len(one)
    assert clock == progress.steps == 60
    numbers = [episode.episode for episode in line.episodes]
    assert len(set(numbers)) == len(numbers)
    taken = sum(len(actions) for env in envs for actions in env.actions)
    assert taken == 60


def test_memory_is_zero_at_the_beginning_and_carried_between_fragments():
    _, line, go, _ = stage([Diary(0, 10), Diary(1, 7)], memory=True)
    go(80)
    for one in line.fragments:
        np.testing.assert_array_equal(one.memory["count"], [one.start])


def test_only_possible_actions_are_taken_while_acting_at_random():
    _, line, go, _ = stage([MaskedToy(), MaskedToy()], masked=True, exploration={"random": 1.0})
    go(200)
    for one in line.fragments:
        rows = np.arange(len(one))
        assert one.obs[MASK][rows, one.action].all()
    actions = np.concatenate([one.action for one in line.fragments])
    assert set(actions) == {0, 1, 2}


@pytest.mark.parametrize(
    ("kind", "head"),
    [
        (DictToy, "epsilon_greedy"),
        (MultiDiscreteToy, "categorical"),
        (BoxToy, "gaussian"),
        (BoxToy, "squashed"),
    ],
)
def test_all_kinds_of_spaces_are_played(kind, head):
    _, line, go, _ = stage([kind(), kind()], head)
    go(40)
    assert sum(len(one) for one in line.fragments) == 40
    for one in line.fragments:
        assert set(one.extras) == (set() if head == "epsilon_greedy" else {"logp"})
        assert all(len(column) == len(one) for column in one.extras.values())
        assert all(len(column) == len(one) + 1 for column in one.obs.values())


def test_the_same_seed_plays_the_same_game():
    def played():
        _, line, go, _ = stage([DictToy(), DictToy()])
        go(100)
        return [encode_message(one, line.run) for one in line.fragments]

    assert played() == played()


def test_a_fault_of_the_environment_ends_the_game():
    _, line, go, _ = stage([RudeEnv("step", after=6)])
    with pytest.raises(EnvironmentFault, match="crashed"):
        go(100)
    assert [len(one) for one in line.fragments] == [4, 1]


def test_a_fault_at_the_beginning_of_an_episode_sends_nothing_twice():
    env = Diary(length=4)
    reset = env.reset
    env.reset = lambda **options: 1 / 0 if env.episode == 1 else reset(**options)
    _, line, go, _ = stage([env, Diary(1, 100)])
    with pytest.raises(EnvironmentFault, match="reset raised ZeroDivisionError"):
        go(100)
    mine = [one for one in line.fragments if one.obs["obs"][0, 0] == 0]
    assert [(one.episode, one.start, len(one)) for one in mine] == [(0, 0, 4), (2, 0, 4)]
    assert sum(len(one) for one in line.fragments) == 8 + 7


def test_values_beyond_the_bounds_are_played_and_warned_about_once(caplog):
    _, line, go, _ = stage([RudeEnv("bounds", after=2)])
    with caplog.at_level(logging.WARNING):
        go(50)
    assert sum(len(one) for one in line.fragments) == 50
    assert [record.getMessage().count("leaf=eyes") for record in caplog.records] == [1]


def test_slow_motion_sleeps_after_each_step_and_a_stop_interrupts_it():
    slept = []
    _, _, go, _ = stage([Diary()], step_delay=0.25, sleep=slept.append)
    go(3)
    assert sum(slept) == pytest.approx(0.5)  # the stop came during the last step
    assert max(slept) <= 0.1


def test_large_observations_make_short_fragments():
    def run(side, steps=64):
        return RunSpec(
            run="r",
            protocol=PROTOCOL,
            oldest_protocol=PROTOCOL,
            environment=EnvironmentOffer("it"),
            spec=Spec({"obs": Leaf((side, side, 3), "|u1")}, ActionSpec("discrete", (), (2,))),
            algorithm="toy",
            program_sha256="",
            fragment_steps=steps,
        )

    assert capacity(run(10)) == 64
    assert capacity(run(10, steps=0)) == 1  # whatever a server asks for
    assert 1 <= capacity(run(210)) < 64
    assert (capacity(run(210)) + 1) * 210 * 210 * 3 <= MOST_BYTES
    with pytest.raises(EnvironmentFault, match="smaller"):
        capacity(run(800))
