"""Actors with every kind of action as programs, and those that remember."""

import gymnasium
import msgspec
import numpy as np
import pytest
import torch
from gymnasium import spaces

from soulsai.algorithms.ppo.rollouts import lay_out
from soulsai.testing import BoxToy, MaskedToy, MultiDiscreteToy
from soulsai.training_node import onnx_export
from soulsai.types import ActionSpec, Leaf, Spec
from tests.unit.algorithms.ppo.ppo_cases import DISCRETE, Fleet, cut, fragment, ppo, spec

MULTI = ActionSpec("multidiscrete", (2,), (3, 4))
BOX = ActionSpec("box", (2,), (), (-1.0, -2.0), (1.0, 2.0))
PICTURE = Spec(
    {
        "eyes": Leaf((8, 8, 2), "|u1", low=0, high=255),
        "weapon": Leaf((), "|u1", categories=3),
        "pose": Leaf((2, 2), "<f4"),
    },
    DISCRETE,
)


@pytest.mark.parametrize(
    ("what", "memory"), [("discrete", 0), ("box", 0), ("picture", 5), ("multidiscrete", 5)]
)
def test_a_policy_is_a_program(what, memory):
    s = {
        "discrete": spec(masked=True),
        "multidiscrete": spec(MULTI),
        "box": spec(ActionSpec("box", (2, 1), (), (-1.0, -1.0), (1.0, 1.0))),
        "picture": PICTURE,
    }[what]
    policy = ppo(s, memory=memory, normalize_obs=True, activation="relu").policy
    program = onnx_export.program(policy, s)
    onnx_export.verify(program, policy, s)
    assert program.memory == policy.memory
    assert not any("critic" in name for name in program.weights)
    assert len(program.weights) == len(policy.state_dict())


def remembering(**changes):
    return ppo(spec(), memory=6, unroll=40, **changes)


def test_steps_one_by_one_are_the_unrolled_sequence():
    algorithm = remembering()
    network, policy = algorithm.network, algorithm.policy
    whole = fragment(20, memory=6)
    rows = algorithm._columns(lay_out([whole]))
    with torch.no_grad():
        view = network.evaluate(rows, torch.tensor([0]))
        memory = {name: torch.zeros(1, 6) for name in policy.memory}
        for t in range(21):
            outputs, memory = policy({"obs": torch.from_numpy(whole.obs["obs"][t : t + 1])}, memory)
            assert view.outputs["logits"][t] == pytest.approx(outputs["logits"][0], abs=1e-6)
    assert view.rows.tolist() == list(range(21))


def test_what_was_remembered_begins_a_sequence():
    """And a fragment is understood without those before it, which may be lost."""
    algorithm = remembering()
    first, second = cut(fragment(20, memory=6), [8])
    memory = {name: torch.zeros(1, 6) for name in ("h", "c")}
    with torch.no_grad():
        for row in first.obs["obs"][:8]:
            _, memory = algorithm.policy({"obs": torch.from_numpy(row)[None]}, memory)
    kept = {name: row[0].numpy() for name, row in memory.items()}
    second = msgspec.structs.replace(second, memory=kept)
    values = []
    for fragments in ([first, second], [second]):
        rows = algorithm._columns(lay_out(fragments))
        _, value = algorithm._evaluate(rows)
        values.append(value[-13:])
    assert values[0] == pytest.approx(values[1], abs=1e-6)


def test_sequences_of_unequal_length_are_seen_as_if_alone():
    algorithm = remembering()
    fragments = [fragment(n, client=c, memory=6) for n, c in ((3, "a"), (17, "b"), (9, "c"))]
    together = algorithm._evaluate(algorithm._columns(lay_out(fragments)))
    alone = [algorithm._evaluate(algorithm._columns(lay_out([f]))) for f in fragments]
    for i in (0, 1):
        expected = np.concatenate([one[i] for one in alone])
        assert together[i] == pytest.approx(expected, abs=1e-6)


def test_a_minibatch_is_of_whole_sequences_and_an_epoch_of_all_steps():
    algorithm = remembering(batch_steps=200, minibatch=64, epochs=1)
    fragments = [fragment(10, episode=i, memory=6) for i in range(20)]
    (metrics,) = algorithm.learn(iter([fragments, []]))
    assert metrics["epochs"] == 1
    assert metrics["batch_steps"] == 200


class Recall(gymnasium.Env):
    """A cue is shown once; three steps later it must be named. Without memory: 1/2 of the time."""

    observation_space = spaces.Box(-1.0, 1.0, (2,), np.float32)
    action_space = spaces.Discrete(2)

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.cue, self.steps = int(self.np_random.integers(2)), 0
        return np.array([2.0 * self.cue - 1.0, 0.0], np.float32), {}

    def step(self, action):
        self.steps += 1
        asked = self.steps == 4
        reward = float(asked and int(action) == self.cue)
        return np.array([0.0, self.steps == 3], np.float32), reward, asked, False, {}


@pytest.mark.parametrize(("memory", "low", "high"), [(16, 0.95, 1.0), (0, 0.2, 0.8)])
def test_only_a_memory_can_recall(memory, low, high):
    """Fragments are shorter than what has to be remembered."""
    s = Spec({"obs": Leaf((2,), "<f4")}, ActionSpec("discrete", (), (2,)))
    algorithm = ppo(
        s, seed=1, memory=memory, batch_steps=512, minibatch=128, epochs=6, hidden=(16,)
    )
    fleet = Fleet(algorithm, s, Recall, clients=8, steps=3, seed=1)
    for _ in algorithm.learn(fleet.arrivals(12_000)):
        pass
    assert low <= np.mean(fleet.rewards[-100:]) <= high


@pytest.mark.parametrize(
    ("make", "s", "steps", "bar"),
    [
        (MaskedToy, Spec(spec(masked=True).obs | {"obs": Leaf((4,), "<f4")}, DISCRETE), 8000, 0.8),
        (
            MultiDiscreteToy,
            Spec({"obs": Leaf((2,), "|u1", categories=4)}, MULTI),
            12_000,
            8.0,
        ),
        (BoxToy, spec(BOX), 16_000, -8.0),
    ],
)
def test_actions_of_every_kind_are_learnt(make, s, steps, bar):
    """And fresh experience has the same probability on both sides, so it weighs 1."""
    algorithm = ppo(
        s,
        seed=1,
        batch_steps=512,
        minibatch=64,
        epochs=8,
        hidden=(32,),
        max_lag=0,
        normalize_obs=False,
    )
    fleet = Fleet(algorithm, s, make, clients=8, steps=32, seed=1)
    for metrics in algorithm.learn(fleet.arrivals(steps)):
        assert metrics["weight"] == pytest.approx(1, abs=1e-4)
        assert metrics["ess"] == pytest.approx(1, abs=1e-4)
    assert np.mean(fleet.rewards[-50:]) > bar
