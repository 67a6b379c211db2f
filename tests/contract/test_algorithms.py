"""What every algorithm promises the training node; a new one adds its case."""

import copy
import hashlib
from importlib.metadata import EntryPoint, EntryPoints
from itertools import groupby
from typing import Any

import msgspec
import numpy as np
import pytest
import torch

from soulsai.algorithms import build
from soulsai.algorithms.build import GROUP
from soulsai.algorithms.ppo import learner as ppo
from soulsai.algorithms.registry import BUILT_IN
from soulsai.config.schema import AlgorithmSettings, Config, RunSettings, TrainingSettings
from soulsai.errors import ConfigError
from soulsai.training_node.start import build_algorithm
from soulsai.types import ActionSpec, Spec, zeros
from tests.contract.algorithm_cases import CASES, make, stream


@pytest.fixture(params=sorted(CASES))
def case(request, monkeypatch):
    monkeypatch.setattr(ppo, "WORK_SECONDS", 1e6)  # however slow this machine is
    return CASES[request.param]


def digest(state: Any) -> str:
    """A fingerprint of everything in a state, structure included."""
    if isinstance(state, dict):
        told = [f"{name}:{digest(state[name])}" for name in sorted(state)]
        return hashlib.sha256(repr(told).encode()).hexdigest()
    if isinstance(state, list):
        return hashlib.sha256(repr([digest(item) for item in state]).encode()).hexdigest()
    if isinstance(state, torch.Tensor | np.ndarray):
        array = np.asarray(state)
        told = f"{array.dtype.str} {array.shape}".encode() + np.ascontiguousarray(array).tobytes()
        return hashlib.sha256(told).hexdigest()
    assert isinstance(state, int | float | str | bool), type(state)
    return repr(state)


def states(algorithm):
    return {name: part.state_dict() for name, part in algorithm.parts.items()}


def run(algorithm, groups):
    return list(algorithm.learn(iter(groups)))


def test_every_algorithm_has_a_case():
    assert {case.config.algorithm.name for case in CASES.values()} == set(BUILT_IN)


@pytest.mark.parametrize("saved_after", [0, 1, 40, 117])
def test_a_resumed_run_is_the_same_run_bit_for_bit(case, saved_after):
    groups = stream(case, 840)
    straight, first, second = make(case, 1), make(case, 1), make(case, 2)
    run(straight, groups)
    run(first, groups[:saved_after])
    for name, state in copy.deepcopy(states(first)).items():
        second.parts[name].load_state_dict(state)
    assert digest(states(second)) == digest(states(first))
    updates = len(run(second, groups[saved_after:]))
    assert updates > 10
    assert digest(states(second)) == digest(states(straight))


def test_without_any_one_part_it_is_another_run(case):
    groups = stream(case, 600)
    straight, first = make(case, 1), make(case, 1)
    run(straight, groups)
    run(first, groups[:101])
    saved = copy.deepcopy(states(first))
    for dropped in saved:
        second = make(case, 2)
        for name in saved.keys() - {dropped}:
            second.parts[name].load_state_dict(copy.deepcopy(saved[name]))
        run(second, groups[101:])
        weights = digest(second.policy.state_dict())
        assert weights != digest(straight.policy.state_dict()), f"{dropped!r} does not matter"


def test_the_same_seed_makes_the_same_and_another_seed_another(case):
    one, same, other = make(case, 3), make(case, 3), make(case, 4)
    assert digest(one.policy.state_dict()) == digest(same.policy.state_dict())
    assert digest(one.policy.state_dict()) != digest(other.policy.state_dict())


def test_what_it_grants_is_restored_with_it(case):
    groups = stream(case, 300)
    first, second = make(case), make(case)
    run(first, groups)
    for name, part in second.parts.items():
        part.load_state_dict(copy.deepcopy(first.parts[name].state_dict()))
    assert second.policy.quota == first.policy.quota
    assert second.policy.exploration == first.policy.exploration


def test_it_asks_for_arrivals_after_its_updates_per_call_and_ends_with_them(case):
    log = []

    def arrivals():
        for group in stream(case, 400):
            log.append("ask")
            yield group
        log.append("end")

    for metrics in make(case).learn(arrivals()):
        assert all(isinstance(value, float) for value in metrics.values())
        log.append("update")
    assert log[-1] == "end"
    assert log.count("update") > 10
    most = getattr(case.config.learner, "updates_per_call", 1)
    in_a_row = [len(list(group)) for entry, group in groupby(log) if entry == "update"]
    assert max(in_a_row) <= most


def test_it_learns_nothing_from_silence(case):
    cloned = case.config.demonstrations.clone_steps  # which needs no experience
    assert len(run(make(case), [[]] * 100)) == cloned


def test_its_policy_says_what_it_reads_and_returns(case):
    policy = make(case).policy
    assert set(policy.inputs) <= set(case.spec.seen)
    obs = {name: torch.from_numpy(zeros(case.spec.obs[name], 5)) for name in policy.inputs}
    memory = {name: torch.from_numpy(zeros(leaf, 5)) for name, leaf in policy.memory.items()}
    outputs, following = policy(obs, memory)
    assert tuple(outputs) == policy.outputs
    assert set(following) == set(policy.memory)
    assert all(len(column) == 5 for column in (outputs | following).values())


def test_an_unknown_algorithm_is_refused_with_the_known_ones():
    config = Config(algorithm=AlgorithmSettings(name="dqm"))
    with pytest.raises(ConfigError, match=r"no 'dqm'; choose one of .*dqn"):
        build_algorithm(config, CASES["dqn"].spec, seed=0)


def test_our_own_algorithms_take_their_settings_from_their_section():
    config = Config(algorithm=AlgorithmSettings(name="dqn", options={"lr": 1.0}))
    with pytest.raises(ConfigError, match="section 'dqn'"):
        build_algorithm(config, CASES["dqn"].spec, seed=0)


@pytest.mark.parametrize(
    ("name", "action", "words"),
    [
        ("dqn", ActionSpec("box", (1,), low=(0.0,), high=(1.0,)), "discrete.*choose ppo or sac"),
        ("dqn", ActionSpec("hybrid", (2,), (3,), (0.0,), (1.0,)), "'hybrid'; choose ppo$"),
        ("sac", ActionSpec("discrete", (), (3,)), "box.*choose dqn or ppo"),
        ("sac", ActionSpec("multidiscrete", (2,), (3, 2)), "choose dqn or ppo$"),
        ("sac", ActionSpec("box", (1,), low=(-3e38,), high=(1.0,)), "action_range .*choose ppo$"),
        ("sac", ActionSpec("hybrid", (2,), (3,), (0.0,), (1.0,)), "choose ppo$"),
    ],
)
def test_actions_that_an_algorithm_cannot_learn_are_refused_with_those_that_can(
    name, action, words
):
    config, spec = Config(algorithm=AlgorithmSettings(name)), Spec(CASES["dqn"].spec.obs, action)
    with pytest.raises(ConfigError, match=words):
        build_algorithm(config, spec, seed=0)


def test_a_device_that_is_not_there_is_refused():
    config = Config(training=TrainingSettings(device="warp"))
    with pytest.raises(ConfigError, match=r"training\.device: 'warp'"):
        build_algorithm(config, CASES["dqn"].spec, seed=0)


class Foreign:
    """An algorithm of another package."""

    parts = {}  # nothing to save

    class Config(msgspec.Struct, forbid_unknown_fields=True):
        lr: float = 0.1

    def __init__(self, config, spec, *, seed, steps, realtime):
        self.settings = (config.lr, seed, steps, realtime)


@pytest.fixture
def installed(monkeypatch):
    entry = EntryPoint("foreign", f"{__name__}:Foreign", GROUP)
    monkeypatch.setattr(build, "entry_points", lambda *, group: EntryPoints([entry]))


@pytest.mark.usefixtures("installed")
def test_other_packages_add_algorithms_by_entry_point():
    config = Config(
        algorithm=AlgorithmSettings("foreign", {"lr": 0.5}), run=RunSettings(max_env_steps=7)
    )
    built = build_algorithm(config, CASES["dqn"].spec, seed=3)
    assert built.settings == (0.5, 3, 7, False)


@pytest.mark.usefixtures("installed")
def test_their_options_are_checked_too():
    config = Config(algorithm=AlgorithmSettings("foreign", {"lrr": 0.5}))
    with pytest.raises(ConfigError, match=r"algorithm\.options: .*lrr"):
        build_algorithm(config, CASES["dqn"].spec, seed=3)
