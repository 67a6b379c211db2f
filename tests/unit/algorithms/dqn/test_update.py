"""The switches of Q-learning against loops, inverses and autograd."""

import math

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from soulsai.algorithms.compile.form import padded
from soulsai.algorithms.dqn.learner import DQN
from soulsai.algorithms.dqn.network import SampledQuantileHead
from soulsai.algorithms.dqn.update import (
    NO_UPDATE_NOISE,
    UpdateNoise,
    rescaled,
    td_target,
    unscaled,
    update,
)
from soulsai.algorithms.n_step_returns import Horizon
from soulsai.algorithms.networks import NoisyLinear
from soulsai.algorithms.quantiles import quantile_huber_loss, quantile_huber_slope
from soulsai.errors import ConfigError
from soulsai.types import MASK
from tests.unit.algorithms.learning_cases import settings, spec


def learner(**changes):
    return DQN(settings(**changes), spec(masked=True), seed=0, steps=0, realtime=False)


def batch(size=16, seed=0):
    rng = np.random.default_rng(seed)
    masks = rng.random((2, size, 3)) < 0.5
    masks[..., 1] |= ~masks.any(-1)
    action = [rng.choice(np.flatnonzero(row)) for row in masks[0]]
    rows = {
        "obs.obs": rng.normal(size=(size, 2)).astype("f4"),
        "next_obs.obs": rng.normal(size=(size, 2)).astype("f4"),
        f"obs.{MASK}": masks[0],
        f"next_obs.{MASK}": masks[1],
        "action": np.array(action, np.uint8),
        "ret": rng.normal(size=size).astype("f4"),
        "discount": rng.choice([0.0, 0.97], size).astype("f4"),
    }
    return {name: torch.from_numpy(column) for name, column in rows.items()}


def goal_of(algorithm, rows):
    see = algorithm.policy.observation.parts
    judges = algorithm.policy.quantiles, algorithm.target.quantiles
    with torch.no_grad():
        return td_target(see, *judges, rows, algorithm.config)


@pytest.mark.parametrize("rescale", [False, True])
def test_munchausen_by_loops(rescale):
    algorithm = learner(munchausen=0.9, temperature=0.2, rescale_values=rescale)
    rows = batch()
    goal = goal_of(algorithm, rows)
    see, tau = algorithm.policy.observation.parts, 0.2
    with torch.no_grad():
        now, then = (
            algorithm.target.quantiles(see({"obs": rows[name]})).double().numpy()
            for name in ("obs.obs", "next_obs.obs")
        )

    def soft(q, valid):
        weights = {a: math.exp(q[a].mean() / tau) for a in range(3) if valid[a]}
        return {a: weight / sum(weights.values()) for a, weight in weights.items()}

    for i in range(len(goal)):
        here = soft(now[i], rows[f"obs.{MASK}"][i])
        bonus = 0.9 * min(0.0, max(-1.0, tau * math.log(here[int(rows["action"][i])])))
        policy = soft(then[i], rows[f"next_obs.{MASK}"][i])
        for j in range(goal.shape[1]):
            value = {a: then[i, a, j] for a in policy}
            if rescale:
                value = {a: float(unscaled(torch.tensor(v))) for a, v in value.items()}
            future = sum(p * (value[a] - tau * math.log(p)) for a, p in policy.items())
            wanted = float(rows["ret"][i]) + bonus + float(rows["discount"][i]) * future
            if rescale:
                wanted = float(rescaled(torch.tensor(wanted)))
            assert goal[i, j].item() == pytest.approx(wanted, abs=1e-4)


@given(st.floats(-1e5, 1e5))
def test_unscaled_undoes_rescaled(value):
    exact = torch.tensor(value, dtype=torch.float64)
    assert unscaled(rescaled(exact)).item() == pytest.approx(value, rel=1e-6, abs=1e-6)
    assert abs(rescaled(exact).item()) <= abs(value) + 1e-9


def test_the_slope_for_sampled_levels_is_the_derivative_of_the_loss():
    torch.manual_seed(0)
    predicted = 2 * torch.randn(8, 5, dtype=torch.float64, requires_grad=True)
    goal, weights = 2 * torch.randn(8, 7, dtype=torch.float64), torch.rand(8, dtype=torch.float64)
    level = torch.rand(8, 5, dtype=torch.float64)
    loss = (weights * quantile_huber_loss(predicted, goal, level)).mean()
    (derivative,) = torch.autograd.grad(loss, predicted)
    slope = quantile_huber_slope(predicted.detach(), goal, weights, level)
    assert torch.allclose(slope, derivative, atol=1e-12)


def test_2_sampled_levels_spread_evenly_have_the_same_loss():
    predicted, goal = torch.randn(8, 4), torch.randn(8, 6)
    level = ((torch.arange(4) + 0.5) / 4).expand(8, 4)
    ours = quantile_huber_loss(predicted, goal, level)
    assert torch.allclose(ours, quantile_huber_loss(predicted, goal))


def test_a_sampled_quantile_depends_on_its_level_alone():
    head = SampledQuantileHead(6, (3,), 8, dueling=True)
    features, levels = torch.randn(2, 6), torch.rand(2, 5)
    some = head.quantiles(features, levels)
    assert some.shape == (2, 3, 5)
    assert torch.allclose(head.quantiles(features, levels[:, 2:3]), some[:, :, 2:3], atol=1e-6)
    assert head.quantiles(features).shape == (2, 3, 32)


def test_noise_is_factorised_and_none_is_none():
    layer = NoisyLinear(4, 3)
    x, noise = torch.randn(5, 4), torch.randn(1, 7)
    factor = noise.sign() * noise.abs().sqrt()
    before, after = factor[0, :4], factor[0, 4:]
    weight = layer.weight + layer.weight_spread * torch.outer(after, before)
    bias = layer.bias + layer.bias_spread * after
    assert torch.allclose(layer(x, noise), x @ weight.t() + bias, atol=1e-6)
    assert torch.equal(layer(x), layer(x, torch.zeros(1, 7)))


def test_an_episode_s_noise_stays_and_matters():
    policy = learner(noisy=True).policy
    assert policy.head.noise == ("noise",)
    obs = {"obs": torch.randn(2, 2)}
    memory = {"noise": torch.randn(2, *policy.memory["noise"].shape)}
    outputs, after = policy(obs, memory)
    assert torch.equal(after["noise"], memory["noise"])
    greedy, _ = policy(obs, {"noise": torch.zeros_like(memory["noise"])})
    assert not torch.allclose(outputs["q"], greedy["q"])
    assert torch.equal(greedy["q"], policy(obs, {})[0]["q"])


@pytest.mark.parametrize("changes", [{}, {"sampled": True, "noisy": True}, {"munchausen": 0.9}])
def test_an_update_is_a_function_of_what_it_is_given(changes):
    results = []
    for _ in range(2):
        algorithm = learner(**changes)
        draw, rng = algorithm.policy.draw, torch.Generator().manual_seed(3)
        noise = UpdateNoise(*(draw(16, rng) for _ in NO_UPDATE_NOISE))
        torch.manual_seed(len(results))  # must not matter
        update(algorithm.learner, batch(), torch.ones(16), algorithm.config, noise)
        results.append((algorithm.learner.weights, algorithm.learner.target_weights))
    assert all(torch.equal(a, b) for a, b in zip(*results, strict=True))


def test_n_and_gamma_change_at_the_beginning_and_arrive():
    horizon = Horizon(3, 0.997, 10, 0.97, 1000)
    assert [horizon.n_at(step) for step in (0, 500, 1000, 9000)] == [10, 5, 3, 3]
    gammas = [horizon.gamma_at(step) for step in (0, 500, 1000, 9000)]
    assert gammas == pytest.approx([0.97, 1 - 0.03 * 0.1**0.5, 0.997, 0.997])
    worth = horizon.discount(np.array([0, 1, 3], np.uint16), 0)
    assert worth.tolist() == pytest.approx([0.0, 0.97, 0.97**3])
    same = Horizon(3, 0.99)
    assert (same.n_at(0), same.gamma_at(0), same.changes_gamma) == (3, 0.99, False)


def test_residual_blocks_are_equally_wide():
    with pytest.raises(ConfigError, match=r"dqn\.hidden"):
        learner(network="residual", hidden=(16, 8))


def test_compiled_code_gets_columns_in_their_own_order():
    """It reads memory as it was shown it, and replay's images may be views of another order."""
    image = torch.arange(24).reshape(2, 3, 4).transpose(1, 2)
    for most in (2, 5):
        column = padded(image, most)
        assert column.is_contiguous()
        assert len(column) == most
        assert torch.equal(column[:2], image)
