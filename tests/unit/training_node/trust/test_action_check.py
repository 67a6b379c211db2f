"""Dishonest clients are found within 500 transitions, and honest ones hardly ever."""

from random import Random

import numpy as np
import pytest
import torch

from soulsai.algorithms.base import Policy
from soulsai.training_node.admission import Arrival, Mark
from soulsai.training_node.publisher import PublishedVersion
from soulsai.training_node.trust.action_check import ActionCheck, Recomputation
from soulsai.types import (
    PROTOCOL,
    ActionSpec,
    EnvironmentOffer,
    Fragment,
    Head,
    Leaf,
    Program,
    RunSpec,
    Spec,
)

STEPS = 32
LIMIT = 500  # transitions within which a liar is caught
VERSIONS = 60
HEADS = {
    "epsilon_greedy": (ActionSpec("discrete", (), (4,)), "q"),
    "categorical": (ActionSpec("discrete", (), (4,)), "logits"),
}
BRANCHES = Spec({"obs": Leaf((8,), "<f4")}, ActionSpec("multidiscrete", (2,), (4, 3)))


class Net(Policy):
    def __init__(self, kind):
        action, output = HEADS[kind]
        super().__init__(Head(kind), Spec({"obs": Leaf((8,), "<f4")}, action), (output,))
        self.layers = torch.nn.Sequential(
            torch.nn.Linear(8, 32), torch.nn.Tanh(), torch.nn.Linear(32, 4)
        )

    def forward(self, obs, memory):
        return {self.outputs[0]: 3.0 * self.layers(obs["obs"])}, memory


class Fleet:
    """Clients that play a noisy world with whatever policy they please."""

    def __init__(self, kind, seed, random=0.0):
        torch.manual_seed(seed)
        self.rng = np.random.default_rng(seed)
        self.kind, self.policy, self.random = kind, Net(kind), random
        names = list(self.policy.state_dict())
        self.versions = []
        for _ in range(VERSIONS):
            with torch.no_grad():
                for parameter in self.policy.parameters():
                    parameter += 0.06 * torch.randn_like(parameter)
            self.versions.append({n: v.numpy().copy() for n, v in self.policy.state_dict().items()})
        leaves = {n: Leaf(self.versions[0][n].shape, "<f4") for n in names}
        action = HEADS[kind][0]
        seen = Spec({"obs": Leaf((8,), "<f4")}, action)
        spec = RunSpec("r", PROTOCOL, PROTOCOL, EnvironmentOffer("x"), seen, "dqn", "")
        program = Program(b"", "w", ("obs",), self.policy.outputs, Head(kind), leaves)
        exploration = {"random": random}
        recompute = Recomputation(
            self.policy,
            program,
            spec,
            lambda _, v: PublishedVersion(self.versions[v], exploration, 0),
        )
        self.time = 0.0
        self.check = ActionCheck(
            "quarantine", recompute, None, announce=None, rng=Random(seed), clock=lambda: self.time
        )
        self.players = {}

    def round(self, name, version, lie=""):
        """Let a client play some steps; return what it is caught at."""
        player = self.players.setdefault(name, {"obs": self.rng.normal(size=8), "left": 0})
        rng = self.rng
        if player["left"] <= 0:
            length = int(rng.integers(40, 200))
            greedy = rng.random() < 0.05
            epsilon = 0.0 if greedy else 0.4 ** (1 + 7 * rng.random())
            player |= {"left": length, "greedy": greedy, "epsilon": epsilon}
        steps = min(STEPS, player["left"])
        player["left"] -= steps
        ended = player["left"] <= 0
        walk = player["obs"] + np.cumsum(rng.normal(0, 0.2, (steps + 1, 8)), axis=0)
        obs = np.clip(walk, -3, 3).astype("f4")
        player["obs"] = obs[-1] * 0.5
        acting = max(0, version - 40) if lie == "old" else version
        action, logp = self._act(obs[:-1], self.versions[acting], player, lie)
        fragment = Fragment(
            client=name, epoch=1, episode=0, start=0, clock=0, generation=1, version=version,
            obs={"obs": obs}, action=action.astype("u1"), reward=np.zeros(steps, "f4"),
            terminated=ended, truncated=False, greedy=player["greedy"], epsilon=player["epsilon"],
            extras={"logp": logp} if self.kind == "categorical" else {},
        )  # fmt: skip
        self.time += 1.0
        return self.check.judge(Arrival(name, Mark(), 100, fragments=(fragment,))), steps

    def _act(self, obs, weights, player, lie):
        state = {name: torch.from_numpy(array) for name, array in weights.items()}
        with torch.no_grad():
            outputs, _ = torch.func.functional_call(
                self.policy, state, ({"obs": torch.from_numpy(obs)}, {})
            )
        scores = next(iter(outputs.values())).numpy()
        count = len(obs)
        if self.kind == "epsilon_greedy":
            least = 0.0 if player["greedy"] else self.random
            chance = 1.0 if lie == "random" else max(player["epsilon"], least)
            at_random = self.rng.random(count) < chance
            return np.where(at_random, self.rng.integers(0, 4, count), scores.argmax(1)), None
        logs = scores - scores.max(1, keepdims=True)
        logs -= np.log(np.exp(logs).sum(1, keepdims=True))
        noise = 0.0 if player["greedy"] else self.rng.gumbel(size=scores.shape)
        action = (logs + noise).argmax(1)
        if lie == "random":  # and says what the policy would have said of it
            action = self.rng.integers(0, 4, count)
        elif not player["greedy"]:  # and says truly how likely each was
            asked = self.rng.random(count) < self.random
            action = np.where(asked, self.rng.integers(0, 4, count), action)
            said = np.where(asked, -np.log(4.0), logs[np.arange(count), action])
            return action, said.astype("f4")
        return action, logs[np.arange(count), action].astype("f4")


def version(turn):
    return min(VERSIONS - 1, 41 + turn // 20)


@pytest.mark.parametrize("kind", HEADS)
@pytest.mark.parametrize("lie", ["random", "old"])
def test_one_liar_among_ten_is_caught_within_500_transitions(kind, lie):
    for seed in range(3):
        fleet = Fleet(kind, seed)
        for turn in range(30):  # the others play already when it comes
            for number in range(9):
                assert fleet.round(f"honest-{number}", version(turn))[0] == ""
        taken, caught = 0, ""
        while not caught:
            for number in range(9):
                assert fleet.round(f"honest-{number}", version(30))[0] == ""
            caught, steps = fleet.round("liar", version(30), lie)
            taken += steps
            assert taken <= LIMIT, f"not caught after {taken}, seed {seed}"


def accused(kind, fleets, random=0.0):
    """Return how many of 40 honest clients per fleet are accused within 750 transitions."""
    found = 0
    for seed in fleets:
        fleet = Fleet(kind, 100 + seed, random)
        names = [f"honest-{number}" for number in range(40)]
        found += len(
            {name for turn in range(24) for name in names if fleet.round(name, version(turn))[0]}
        )
    return found


@pytest.mark.parametrize("kind", HEADS)
def test_the_honest_are_not_accused(kind):
    assert accused(kind, range(3)) == 0


@pytest.mark.parametrize("kind", HEADS)
@pytest.mark.parametrize("random", [0.5, 1.0])
def test_the_honest_are_not_accused_of_exploring_as_the_run_asks(kind, random):
    assert accused(kind, range(1), random) == 0


def test_who_explores_more_than_the_run_asks_is_caught():
    fleet, caught, taken = Fleet("epsilon_greedy", 0, random=0.3), "", 0
    while not caught:
        caught, steps = fleet.round("liar", version(30), "random")
        taken += steps
        assert taken <= 2 * LIMIT


@pytest.mark.long
@pytest.mark.parametrize("kind", HEADS)
def test_of_2000_honest_clients_at_most_two_are_accused(kind):
    assert accused(kind, range(50)) <= 2


@pytest.mark.parametrize("honest", [True, False])
def test_each_component_follows_the_weights(honest):
    spec = RunSpec("r", PROTOCOL, PROTOCOL, EnvironmentOffer("x"), BRANCHES, "dqn", "")
    policy = Policy(Head("epsilon_greedy"), BRANCHES, ("q",))
    policy.linear = torch.nn.Linear(8, 7)
    policy.forward = lambda obs, memory: ({"q": policy.linear(obs["obs"])}, memory)
    weights = {name: array.numpy().copy() for name, array in policy.state_dict().items()}
    program = Program(b"", "w", ("obs",), ("q",), policy.head, {})
    recompute = Recomputation(policy, program, spec, lambda *_: PublishedVersion(weights, {}, 0))
    obs = np.random.default_rng(0).normal(size=(201, 8)).astype("f4")
    with torch.no_grad():
        q = policy.linear(torch.from_numpy(obs[:-1])).numpy()
    action = np.stack((q[:, :4].argmax(1), q[:, 4:].argmax(1)), axis=1)
    if not honest:
        action[:, 1] = (action[:, 1] + 1) % 3  # one component alone
    fragment = Fragment(
        client="c", epoch=1, episode=0, start=0, clock=0, generation=1, version=1,
        obs={"obs": obs}, action=action.astype("u1"), reward=np.zeros(200, "f4"),
        terminated=False, truncated=False, epsilon=0.1,
    )  # fmt: skip
    finding = recompute.check(fragment)
    guilty = (finding.ratios[:, 2] > 0).mean()  # but for ties
    assert guilty <= 0.03 if honest else guilty >= 0.97
