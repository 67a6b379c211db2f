"""A run that was saved and loaded goes on bit by bit as if nothing had happened."""

from itertools import chain, repeat

import numpy as np
import pytest

from soulsai.algorithms.dqn.learner import DQN
from soulsai.errors import CheckpointError
from soulsai.training_node.admission import Mark
from soulsai.training_node.saving import atomic_folders, snapshot, state_file
from soulsai.training_node.saving.snapshot import Progress
from soulsai.wire.protocols import Position
from tests.unit.algorithms.learning_cases import cut, episode, settings, spec

WHOLE = [part for number in range(24) for part in cut(episode(20, number=number), [7, 13])]
HALF = len(WHOLE) // 2 + 1  # in the middle of an episode
PARTS = ["normalizer", "optimizer", "policy", "progress", "replay", "returns", "target"]


def learner(seed):
    return DQN(settings(target_ema=0.05), spec(), seed=seed, steps=1000, realtime=False)


def teach(algorithm, fragments):
    """Feed one fragment after another, and let what is owed be worked off."""
    for fragment in fragments:
        for _ in algorithm.learn(chain([[fragment]], repeat([], 2 * len(fragment)))):
            pass


def everything(algorithm):
    return {
        name: b"".join(state_file.encode(part.state_dict()))
        for name, part in algorithm.parts.items()
    }


@pytest.fixture(scope="module")
def story(tmp_path_factory):
    """Learn it all in one go; on the way, write a checkpoint of the first half."""
    algorithm = learner(seed=1)
    teach(algorithm, WHOLE[:HALF])
    marks = {"a": Mark(Position(2**45, 7), 5, True)}
    progress = Progress("run", 3, 4, 5, 6, 7, 8.5, 2, {"mask": 1}, 1, 2, 3, marks)
    files = snapshot.files(progress, algorithm.parts, b"onnx", replay=True)
    folder = atomic_folders.append(tmp_path_factory.mktemp("saves"), files, keep=1)
    teach(algorithm, WHOLE[HALF:])
    return folder, progress, everything(algorithm)


def test_the_second_half_is_learnt_bit_by_bit_the_same(story):
    folder, progress, expected = story
    algorithm = learner(seed=2)
    assert sorted(algorithm.parts) == PARTS
    assert snapshot.restore(folder, algorithm.parts) == progress
    teach(algorithm, WHOLE[HALF:])
    assert everything(algorithm) == expected


@pytest.mark.parametrize("forgotten", PARTS)
def test_every_part_matters(story, forgotten):
    folder, _, expected = story
    algorithm = learner(seed=2)
    parts = {
        name: Nothing() if name == forgotten else part for name, part in algorithm.parts.items()
    }
    snapshot.restore(folder, parts)
    teach(algorithm, WHOLE[HALF:])
    assert everything(algorithm) != expected


class Nothing:
    def state_dict(self):
        return {}

    def load_state_dict(self, state_dict):
        pass


def test_without_the_replay_the_rest_is_restored(tmp_path):
    algorithm = learner(seed=1)
    teach(algorithm, WHOLE[:HALF])
    files = snapshot.files(Progress("run"), algorithm.parts, b"onnx", replay=False)
    assert "replay.safetensors" not in files
    folder = atomic_folders.append(tmp_path, files, keep=1)
    other = learner(seed=2)
    snapshot.restore(folder, other.parts)
    assert len(other.experience.replay) == 0
    policy = everything(other)["policy"]
    assert policy == everything(algorithm)["policy"]
    teach(other, WHOLE[HALF:])
    assert everything(other)["policy"] != policy


def test_a_checkpoint_of_another_network_is_one_clear_line(story):
    folder, _, _ = story
    wider = DQN(settings(hidden=(17,)), spec(), seed=1, steps=0, realtime=False)
    with pytest.raises(CheckpointError, match=r"policy: does not fit this run: .*size") as caught:
        snapshot.restore(folder, wider.parts)
    assert "\n" not in str(caught.value)


def test_arrays_of_a_part_are_written_without_a_copy():
    class Large:
        array = np.zeros(1000)

        def state_dict(self):
            return {"array": self.array}

    files = snapshot.files(Progress("run"), {"large": Large()}, b"", replay=True)
    assert any(
        np.shares_memory(np.frombuffer(p, "u1"), Large.array) for p in files["large.safetensors"]
    )
