"""A small case for every algorithm and each of its kinds, and experience to feed it."""

from itertools import pairwise
from typing import NamedTuple

import msgspec
import numpy as np

from soulsai.algorithms.base import Algorithm
from soulsai.algorithms.dqn.settings import DQNSettings
from soulsai.algorithms.ppo.settings import PPOSettings
from soulsai.algorithms.sac.settings import SACSettings
from soulsai.algorithms.settings import DemonstrationSettings
from soulsai.config.schema import AlgorithmSettings, Config, RunSettings
from soulsai.training_node.start import build_algorithm
from soulsai.types import MASK, ActionSpec, Array, Fragment, Leaf, Spec, zeros

MASKED = {
    "place": Leaf((3,), "<f4"),
    "kind": Leaf((), "|u1", categories=3),
    MASK: Leaf((4,), "|b1"),
}
SEEN = {"place": Leaf((3,), "<f4"), "kind": Leaf((), "|u1", categories=3)}
PICTURE = {"eye": Leaf((5, 5, 2), "|u1"), "place": Leaf((2,), "<f4")}
FOUR = ActionSpec("discrete", (), (4,))
TWO_AND_TWO = ActionSpec("multidiscrete", (2,), (2, 2))
BOX = ActionSpec("box", (2,), (), (-1.0, -2.0), (1.0, 2.0))
HYBRID = ActionSpec("hybrid", (4,), (3, 1), (-1.0, -2e3), (1.0, 2e3))

NETWORK, FEATURES = (f"tests.contract.network_cases:{name}" for name in ("Net", "Features"))

Q = DQNSettings(
    hidden=(16,), quantiles=4, learning_starts=40, batch_size=8, capacity=150, replay_ratio=0.2
)
ON = PPOSettings(
    hidden=(8,),
    batch_steps=24,
    minibatch=8,
    epochs=2,
    deadline=1e6,
    eval_fraction=0.0,
    normalize_obs=True,
)
SOFT = SACSettings(
    hidden=(8,),
    quantiles=4,
    drop=1,
    learning_starts=40,
    batch_size=8,
    capacity=150,
    replay_ratio=0.2,
    n_step=3,
    prioritized=True,
)


class Case(NamedTuple):
    config: Config
    spec: Spec


def case(name: str, spec: Spec, **settings) -> Case:
    run, choice = RunSettings(max_env_steps=2000), AlgorithmSettings(name)
    return Case(Config(run=run, algorithm=choice, **settings), spec)


CASES = {
    "dqn": case("dqn", Spec(MASKED, FOUR), dqn=Q),
    "dqn, every switch": case(
        "dqn",
        Spec(MASKED, FOUR),
        dqn=msgspec.structs.replace(
            Q,
            sampled=True,
            noisy=True,
            munchausen=0.9,
            rescale_values=True,
            network="residual",
            n_step_first=5,
            gamma_first=0.9,
            anneal_steps=300,
            anneal_lr=True,
        ),
    ),
    "dqn, several choices": case("dqn", Spec(MASKED, TWO_AND_TWO), dqn=Q),
    "dqn, several choices, every switch": case(
        "dqn",
        Spec(MASKED, ActionSpec("multidiscrete", (2,), (1, 3))),
        dqn=msgspec.structs.replace(
            Q, sampled=True, noisy=True, munchausen=0.9, rescale_values=True, gamma_first=0.9
        ),
    ),
    "dqn, image": case("dqn", Spec(PICTURE, FOUR), dqn=Q),
    "dqn, several choices, own network": case(
        "dqn", Spec(MASKED, TWO_AND_TWO), dqn=msgspec.structs.replace(Q, network=NETWORK)
    ),
    "dqn, image, own features": case(
        "dqn",
        Spec(PICTURE, FOUR),
        dqn=msgspec.structs.replace(Q, feature_extractor=FEATURES, noisy=True, sampled=True),
    ),
    "ppo": case("ppo", Spec(MASKED, FOUR), ppo=ON),
    "ppo, several choices": case("ppo", Spec(MASKED, TWO_AND_TWO), ppo=ON),
    "ppo, box": case("ppo", Spec(SEEN, BOX), ppo=ON),
    "ppo, choices and numbers": case("ppo", Spec(MASKED, HYBRID), ppo=ON),
    "ppo, choices and numbers, recurrent": case(
        "ppo", Spec(MASKED, HYBRID), ppo=msgspec.structs.replace(ON, memory=4)
    ),
    "ppo, image": case("ppo", Spec(PICTURE, FOUR), ppo=ON),
    "ppo, recurrent": case("ppo", Spec(MASKED, FOUR), ppo=msgspec.structs.replace(ON, memory=4)),
    "ppo, box, own network": case(
        "ppo", Spec(SEEN, BOX), ppo=msgspec.structs.replace(ON, network=NETWORK)
    ),
    "ppo, choices and numbers, own network": case(
        "ppo", Spec(MASKED, HYBRID), ppo=msgspec.structs.replace(ON, network=NETWORK)
    ),
    "ppo, image, own features": case(
        "ppo", Spec(PICTURE, FOUR), ppo=msgspec.structs.replace(ON, feature_extractor=FEATURES)
    ),
    "ppo, own features, recurrent": case(
        "ppo",
        Spec(MASKED, FOUR),
        ppo=msgspec.structs.replace(ON, feature_extractor=FEATURES, memory=4),
    ),
    "sac": case("sac", Spec(SEEN, BOX), sac=SOFT),
    "sac, own network": case(
        "sac", Spec(SEEN, BOX), sac=msgspec.structs.replace(SOFT, network=NETWORK)
    ),
    "sac, image, own features": case(
        "sac", Spec(PICTURE, BOX), sac=msgspec.structs.replace(SOFT, feature_extractor=FEATURES)
    ),
    "sac, image": case("sac", Spec(PICTURE, BOX), sac=SOFT),
    "sac, plain": case(
        "sac", Spec(SEEN, BOX), sac=msgspec.structs.replace(SOFT, quantiles=1, dropout=0.1)
    ),
}


SHOWN = DemonstrationSettings(data=("x",), clone_steps=12, capacity=200)
for _name in (
    *("dqn, every switch", "dqn, several choices", "sac"),
    *("ppo, box", "ppo, choices and numbers, recurrent"),
):
    _case = CASES[_name]
    _config = msgspec.structs.replace(_case.config, demonstrations=SHOWN)
    CASES[f"{_name}, demonstrations"] = Case(_config, _case.spec)


def make(case: Case, seed: int = 0) -> Algorithm:
    algorithm = build_algorithm(case.config, case.spec, seed=seed)
    if case.config.demonstrations.used:
        algorithm.demonstrate(demonstrated(case, seed))
    return algorithm


def demonstrated(case: Case, seed: int) -> list[Fragment]:
    """Two whole episodes, as data sets give them."""
    rng = np.random.default_rng((seed, 7))
    columns = Columns(case)
    whole = [columns.fragment("demonstrations", 0, 20 + n, n == 0, rng) for n in range(2)]
    return [
        msgspec.structs.replace(each, episode=number, extras={}, memory={})
        for number, each in enumerate(whole)
    ]


def stream(case: Case, steps: int, seed: int = 0) -> list[list[Fragment]]:
    """Groups of random fragments of two clients' endless episodes, with silence in between."""
    rng = np.random.default_rng(seed)
    columns = Columns(case)
    groups: list[list[Fragment]] = []
    for start in range(0, steps // 2, 30):
        edges = [start, start + int(rng.integers(1, 29)), start + 30]
        for first, last in pairwise(edges):
            end = last % 120 == 90
            both = [columns.fragment(client, first, last, end, rng) for client in "ab"]
            groups += [both, *[[]] * 15]
    return groups


class Columns:
    """What the fragments of a case consist of."""

    def __init__(self, case: Case) -> None:
        policy = build_algorithm(case.config, case.spec, seed=0).policy
        self.spec, self.extras, self.memory = case.spec, policy.extras, policy.memory

    def fragment(self, client: str, first: int, last: int, end: bool, rng) -> Fragment:
        count = last - first
        return Fragment(
            client=client,
            epoch=1,
            episode=0 if first < 60 else 1,
            start=first,
            clock=first,
            generation=0,
            version=first // 30,
            obs={name: _noise(name, leaf, count + 1, rng) for name, leaf in self.spec.obs.items()},
            action=_actions(self.spec.action, count, rng),
            reward=rng.normal(size=count).astype("<f4"),
            terminated=end,
            truncated=False,
            extras={name: _noise(name, leaf, count, rng) - 2 for name, leaf in self.extras.items()},
            memory={name: _noise(name, leaf, 1, rng)[0] for name, leaf in self.memory.items()},
        )


def _noise(name: str, leaf: Leaf, count: int, rng) -> Array:
    rows = zeros(leaf, count)
    if leaf.categories:
        return rng.integers(leaf.categories, size=rows.shape).astype(leaf.dtype)
    if name == MASK:
        return np.ones_like(rows)
    if leaf.dtype == "|u1":
        return rng.integers(256, size=rows.shape).astype("|u1")
    return (rng.normal(size=rows.shape) * 3 + 1).astype(leaf.dtype)


def _actions(action: ActionSpec, count: int, rng) -> Array:
    choices = rng.integers(action.sizes, size=(count, len(action.sizes)))
    numbers = rng.uniform(-1, 1, (count, len(action.low)))
    row = np.concatenate((choices, numbers), axis=1)
    return row.reshape(count, *action.shape).astype(action.leaf.dtype)
