"""With deltas, the learner knows to the last bit the weights that clients act with."""

import numpy as np
import pytest
import torch

from soulsai import heads
from soulsai.algorithms.distributions import distribution
from soulsai.client.actor import Actor
from soulsai.config.schema import AlgorithmSettings, Config, TrainingSettings
from soulsai.training_node import onnx_export
from soulsai.training_node.publisher import Publisher
from soulsai.training_node.saving.snapshot import Progress
from soulsai.training_node.start import TrainingRun, build_algorithm, run_spec
from soulsai.training_node.trust.action_check import Recomputation
from soulsai.types import ActionSpec, Fragment, Leaf, Spec
from tests.contract.wire_cases import wires

STEPS = 200
CHOICES = ActionSpec("discrete", (), (4,))
NUMBERS = ActionSpec("box", (2,), low=(-2.0, -2.0), high=(2.0, 2.0))
ACTIONS = {"dqn": CHOICES, "ppo": CHOICES, "sac": NUMBERS}


class Run:
    """A learner that publishes to more clients than could download whole versions."""

    def __init__(self, wire, name):
        self.spec = Spec({"obs": Leaf((8,), "<f4")}, ACTIONS[name])
        config = Config(
            algorithm=AlgorithmSettings(name=name), training=TrainingSettings(weights_mbps=1.0)
        )
        self.algorithm = build_algorithm(config, self.spec, seed=0)
        self.policy = self.algorithm.policy
        self.program = onnx_export.program(self.policy, self.spec)
        self.published = run_spec(config, self.spec, self.program, self.algorithm, "run-1")
        node = wire.training()
        progress = Progress("run-1", generation=node.open(self.published, self.program, fresh=True))
        run = TrainingRun(config, None, self.published, self.program, self.algorithm, progress)
        self.publisher = Publisher(run, lambda weights: bool(node.publish(weights)))
        self.publisher.count(100, 100)
        self.update(lambda weight: weight + 0.1 * torch.randn_like(weight))

    def update(self, changed):
        with torch.no_grad():
            for weight in self.policy.twin().parameters():
                weight.copy_(changed(weight))

    def publish(self):
        """Publish after a small update."""
        self.update(lambda weight: weight * (1 + 0.02 * torch.randn_like(weight)))
        assert self.publisher.publish(0.0, [0])

    def twin(self, arrays):
        """Return the outputs of the learner's network with these weights."""
        recompute = Recomputation(self.policy, self.program, self.published, self.publisher.kept)
        recompute._load((1, 1), arrays)
        return recompute._twin


@pytest.mark.parametrize("name", ACTIONS)
def test_what_a_client_records_is_what_the_learner_computes_of_the_version_it_keeps(name):
    torch.manual_seed(0)
    obs = np.random.default_rng(0).standard_normal((STEPS + 1, 8)).astype("<f4")
    with wires("memory", None, "run") as wire:
        run, client = Run(wire, name), wire.client("c1")
        for _ in range(3):
            run.publish()
            pointer = client.pointer()
            weights = client.weights(pointer, run.program)
    assert pointer.delta is not None
    kept = run.publisher.kept(weights.generation, weights.version).arrays
    own = onnx_export.weights(run.policy, run.program)
    assert all(kept[n].tobytes() == weights.arrays[n].tobytes() for n in kept)
    assert any((kept[n] != own[n]).any() for n in kept), "what is sent is rounded"

    outputs, _ = Actor.load(run.program, weights, run.spec)({"obs": obs[:-1]}, {})
    recorded = acted(run, outputs)
    known = acted(run, learner_outputs(run.twin(kept), obs))
    unrounded = acted(run, learner_outputs(run.twin(own), obs))
    assert (np.abs(recorded[0] - known[0]) <= 1e-5).mean() >= 0.99  # but for near ties
    if "logp" not in recorded[1]:
        values = learner_outputs(run.twin(kept), obs)["q"]
        assert np.abs(outputs["q"] - values).max() <= 1e-5 * np.abs(values).max()
        return
    error = np.abs(recorded[1]["logp"] - known[1]["logp"])
    assert error.max() <= 1e-5
    assert error.max() < 0.1 * np.abs(recorded[1]["logp"] - unrounded[1]["logp"]).max()
    if name == "ppo":  # as the learner's ratios have it
        ours = distribution(
            run.program.head,
            run.spec.action,
            {n: torch.from_numpy(v) for n, v in learner_outputs(run.twin(kept), obs).items()},
            None,
        ).log_prob(torch.from_numpy(recorded[0]))
        assert np.abs(ours.numpy() - recorded[1]["logp"]).max() <= 1e-5
        finding = Recomputation(run.policy, run.program, run.published, run.publisher.kept).check(
            fragment(weights, obs, *recorded)
        )
        assert finding.text.startswith("100%")


def acted(run, outputs):
    """Return actions and extras of the head, always with the same noise."""
    return heads.act(
        run.program.head, run.spec.action, outputs, mask=None, greedy=np.zeros(STEPS, np.bool_),
        epsilon=np.zeros(STEPS), random=0.0, rng=np.random.default_rng(1),
    )  # fmt: skip


def learner_outputs(twin, obs):
    with torch.inference_mode():
        outputs, _ = twin({"obs": torch.from_numpy(obs[:-1])}, {})
    return {name: rows.float().numpy() for name, rows in outputs.items()}


def fragment(weights, obs, action, extras):
    return Fragment(
        client="c1", epoch=1, episode=0, start=0, clock=0, generation=weights.generation,
        version=weights.version, obs={"obs": obs}, action=action, reward=np.zeros(STEPS, "<f4"),
        terminated=False, truncated=False, extras=extras,
    )  # fmt: skip
