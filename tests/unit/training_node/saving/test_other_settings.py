"""A run that is resumed under other settings: which may change, and what is said of the others."""

import copy
import re
from pathlib import Path

import msgspec
import numpy as np
import pytest

from soulsai.algorithms.registry import BUILT_IN
from soulsai.config.schema import AlgorithmSettings, Config
from soulsai.errors import ConfigError
from soulsai.training_node.start import check_fit
from tests.contract.algorithm_cases import CASES, Case, make, stream

PAGE = Path(__file__).parents[4] / "docs" / "configuration.md"

# Another value of every setting; a new setting must be listed here, and so be decided.
OTHER = {
    "dqn": {
        "hidden": (8,), "layer_norm": False, "network": "residual", "vision": "nature",
        "feature_extractor": "m:Features",
        "dueling": False, "double": False, "quantiles": 3, "sampled": True, "munchausen": 0.9,
        "temperature": 0.1, "noisy": True, "n_step": 2, "gamma": 0.9, "n_step_first": 5,
        "gamma_first": 0.9, "anneal_steps": 10, "lr": 1e-3, "anneal_lr": True, "adam_eps": 1e-6,
        "batch_size": 16, "replay_ratio": 0.3, "pace": "free", "slack_steps": 90, "capacity": 70,
        "updates_per_call": 3, "share_observations": False,
        "replay_folder": "", "learning_starts": 50, "target_ema": 0.1, "act_with": "online",
        "grad_clip": 1.0, "prioritized": False, "priority_alpha": 0.5, "priority_beta": 0.5,
        "explore_steps": 5, "epsilon_base": 0.3, "epsilon_alpha": 3.0, "eval_fraction": 0.1,
        "normalize_obs": False, "reward_scale": 0.5, "rescale_values": True,
    },
    "ppo": {
        "hidden": (4,), "activation": "relu", "network": "m:Net",
        "feature_extractor": "m:Features", "memory": 4, "unroll": 64, "batch_steps": 32,
        "epochs": 3, "minibatch": 4, "lr": 1e-4, "anneal_lr": False, "adam_eps": 1e-6,
        "gamma": 0.9, "gae_lambda": 0.9, "estimator": "vtrace", "clip": 0.1, "anneal_clip": True,
        "entropy": 0.1, "value": 0.4, "grad_clip": 1.0, "target_kl": 0.0, "max_lag": 3,
        "weight_cap": 2.0, "deadline": 1.0, "pace": "free", "balance": True, "eval_fraction": 0.1,
        "normalize_obs": False, "normalize_rewards": False,
    },
    "sac": {
        "hidden": (4,), "layer_norm": False, "network": "m:Net",
        "feature_extractor": "m:Features", "critics": 3, "quantiles": 5, "drop": 2,
        "dropout": 0.1, "n_step": 2, "gamma": 0.9, "lr": 1e-4, "adam_eps": 1e-6, "batch_size": 16,
        "replay_ratio": 0.3, "policy_delay": 1, "pace": "free", "slack_steps": 90, "capacity": 70,
        "updates_per_call": 3, "share_observations": False,
        "replay_folder": "", "learning_starts": 50, "target_ema": 0.1, "temperature": 0.5,
        "entropy_per_dim": -0.5, "prioritized": False, "priority_alpha": 0.5,
        "priority_beta": 0.5, "eval_fraction": 0.1, "normalize_obs": False, "reward_scale": 0.5,
    },
}  # fmt: skip


def changed(case: Case, name: str, value: object) -> Case:
    config = case.config
    section = msgspec.structs.replace(config.learner, **{name: value})
    return case._replace(config=msgspec.structs.replace(config, **{config.algorithm.name: section}))


@pytest.fixture(scope="module")
def saved() -> dict[str, dict[str, object]]:
    states = {}
    for name in BUILT_IN:
        algorithm = make(CASES[name])
        list(algorithm.learn(iter(stream(CASES[name], 400))))
        states[name] = {n: copy.deepcopy(p.state_dict()) for n, p in algorithm.parts.items()}
    return states


def documented(algorithm: str) -> set[str]:
    """Return the settings that the table in the docs says a resumed run cannot change."""
    (row,) = (line for line in PAGE.read_text().splitlines() if line.startswith(f"| `{algorithm}`"))
    return set(re.findall(r"`(\w+)`", row)) - {algorithm}


@pytest.mark.parametrize("algorithm", BUILT_IN)
def test_every_setting_is_decided(algorithm):
    fields = getattr(Config(), algorithm).__struct_fields__
    assert OTHER[algorithm].keys() == set(fields)
    assert documented(algorithm) <= set(fields)


@pytest.mark.parametrize(
    ("algorithm", "name"), [(a, name) for a, others in OTHER.items() for name in others]
)
def test_a_setting_may_change_or_is_named_with_both_values(saved, algorithm, name):
    before, after = CASES[algorithm], changed(CASES[algorithm], name, OTHER[algorithm][name])
    if name in documented(algorithm):
        with pytest.raises(ConfigError, match=rf"^{algorithm}\.{name}: \S.* in the checkpoint, "):
            check_fit(before.config, after.config)
        return
    check_fit(before.config, after.config)
    resumed = make(after, seed=1)
    for part, state in copy.deepcopy(saved[algorithm]).items():
        resumed.parts[part].load_state_dict(state)
    updates = list(resumed.learn(iter(stream(after, 400, seed=1))))
    assert updates
    assert all(np.isfinite(value) for value in updates[-1].values())


def test_another_algorithm_is_named():
    then = Config(algorithm=AlgorithmSettings("sac"))
    with pytest.raises(ConfigError, match=r"algorithm\.name: sac in the checkpoint, dqn now"):
        check_fit(then, Config())


def test_a_layer_is_named_with_both_values():
    before, after = CASES["dqn"], changed(CASES["dqn"], "hidden", (8, 8))
    with pytest.raises(ConfigError) as caught:
        check_fit(before.config, after.config)
    assert str(caught.value) == (
        "dqn.hidden: [16] in the checkpoint, [8, 8] now; set it back, or start a new run"
    )


@pytest.mark.parametrize("algorithm", ["dqn", "sac"])
def test_a_replay_that_was_uniform_becomes_a_prioritised_one(saved, algorithm):
    uniform = make(changed(CASES[algorithm], "prioritized", False), seed=1)
    for part, state in copy.deepcopy(saved[algorithm]).items():
        uniform.parts[part].load_state_dict(state)
    other = make(CASES[algorithm], seed=2)
    for part in uniform.parts:
        other.parts[part].load_state_dict(copy.deepcopy(uniform.parts[part].state_dict()))
    assert (other.experience.replay.priorities == 1.0).all()
    assert list(other.learn(iter(stream(CASES[algorithm], 400, seed=1))))
