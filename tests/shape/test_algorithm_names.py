"""A built-in algorithm is one folder and one line; one of another package is an entry point."""

import re
from collections.abc import Iterator
from importlib.metadata import EntryPoint, EntryPoints
from pathlib import Path

import numpy as np
import pytest
import torch
from msgspec import Struct
from torch import nn

from soulsai.algorithms import build
from soulsai.algorithms.base import Policy
from soulsai.algorithms.registry import BUILT_IN
from soulsai.config.schema import AlgorithmSettings, Config
from soulsai.errors import ConfigError
from soulsai.training_node import onnx_export
from soulsai.training_node.start import build_algorithm
from soulsai.types import ActionSpec, Fragment, Head, Leaf, Spec

PACKAGE = Path(__file__).parents[2] / "soulsai"
SPEC = Spec({"obs": Leaf((2,), "<f4")}, ActionSpec("discrete", (), (2,)))

# Lines of code outside an algorithm's folder that may know its name, and why.
KNOWN = {
    "dqn": {
        "algorithms/registry.py": 2,  # its import and its line
        "config/schema.py": 1,  # the algorithm that is chosen by default
    },
    "ppo": {
        "algorithms/registry.py": 2,
    },
    "sac": {"algorithms/registry.py": 2},
}


def mentions(name: str) -> Iterator[str]:
    """Yield the files outside the algorithm's folder, once for each line that names it."""
    for path in sorted(PACKAGE.rglob("*.py")):
        file = path.relative_to(PACKAGE).as_posix()
        if not file.startswith(f"algorithms/{name}/"):
            for line in path.read_text("utf-8").splitlines():
                if re.search(rf"(?<![a-z]){name}(?![a-z])", line, re.IGNORECASE):
                    yield file


@pytest.mark.parametrize("name", BUILT_IN)
def test_nothing_outside_its_folder_knows_an_algorithm_by_name(name):
    found = list(mentions(name))
    assert {file: found.count(file) for file in found} == KNOWN[name]


class Toy:
    """A whole algorithm in a few lines: it learns to predict rewards."""

    class Config(Struct, frozen=True, forbid_unknown_fields=True):
        lr: float = 0.1

    class Network(Policy):
        def __init__(self, spec):
            super().__init__(Head("epsilon_greedy", 0.1, 0.0, 0.0), spec, outputs=("q",))
            self.linear = nn.Linear(2, spec.action.sizes[0])

        def forward(self, obs, memory):
            return {"q": self.linear(obs["obs"])}, memory

    def __init__(self, config, spec, *, seed, steps, realtime):
        torch.manual_seed(seed)
        self.policy = self.Network(spec)
        self.optimizer = torch.optim.SGD(self.policy.parameters(), lr=config.lr)
        self.parts = {"policy": self.policy, "optimizer": self.optimizer}

    def learn(self, arrivals):
        for fragments in arrivals:
            for fragment in fragments:
                q = self.policy.linear(torch.from_numpy(fragment.obs["obs"][:-1]))
                taken = torch.from_numpy(fragment.action).long()[:, None]
                loss = nn.functional.mse_loss(
                    q.gather(1, taken)[:, 0], torch.from_numpy(fragment.reward)
                )
                self.optimizer.zero_grad()
                loss.backward()
                self.optimizer.step()
                yield {"loss": loss.item()}


@pytest.fixture
def toy(monkeypatch):
    entry = EntryPoint("toy", f"{__name__}:Toy", build.GROUP)
    monkeypatch.setattr(EntryPoint, "load", lambda _: Toy)  # this file is no installed package
    monkeypatch.setattr(build, "entry_points", lambda *, group: EntryPoints([entry]))


def play(rng: np.random.Generator, steps: int = 16) -> Fragment:
    action = rng.integers(2, size=steps).astype("|u1")
    return Fragment(
        client="c",
        epoch=1,
        episode=0,
        start=0,
        clock=0,
        generation=0,
        version=0,
        obs={"obs": rng.normal(size=(steps + 1, 2)).astype("<f4")},
        action=action,
        reward=action.astype("<f4"),
        terminated=False,
        truncated=False,
    )


@pytest.mark.usefixtures("toy")
def test_a_toy_from_outside_is_built_learns_and_exports_a_program():
    config = Config(algorithm=AlgorithmSettings("toy", {"lr": 0.3}))
    algorithm = build_algorithm(config, SPEC, seed=1)
    rng = np.random.default_rng(1)
    metrics = list(algorithm.learn([play(rng)] for _ in range(60)))
    assert metrics[-1]["loss"] < 0.1 * metrics[0]["loss"]
    onnx_export.verify(onnx_export.program(algorithm.policy, SPEC), algorithm.policy, SPEC)


@pytest.mark.usefixtures("toy")
def test_the_options_of_a_toy_are_checked():
    config = Config(algorithm=AlgorithmSettings("toy", {"rate": 0.3}))
    with pytest.raises(ConfigError, match=r"algorithm\.options: .*rate"):
        build_algorithm(config, SPEC, seed=1)
