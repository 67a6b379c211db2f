"""Critics: their shapes, their loss, and the quantiles that targets leave out."""

import numpy as np
import pytest
import torch

from soulsai.algorithms.networks import Observation
from soulsai.algorithms.sac.network import Critics, actor_value, critic_loss_slope, truncated
from soulsai.algorithms.sac.settings import SACSettings
from soulsai.types import Leaf


def random(*shape, seed=0):
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def brute_force_loss(predicted, goal, weights):
    """The definition, term by term: mean over batch and critics, sum over quantiles."""
    batch, critics, n = predicted.shape
    total = torch.zeros((), dtype=torch.float64)
    for b in range(batch):
        for c in range(critics):
            for i in range(n):
                level = (i + 0.5) / n
                for y in goal[b]:
                    error = y - predicted[b, c, i]
                    size = error.abs()
                    huber = 0.5 * error**2 if size <= 1 else size - 0.5
                    weight = 1 - level if error < 0 else level
                    total = total + weights[b] * weight * huber / goal.shape[1]
    return total / (batch * critics)


def test_slope_is_the_derivative_of_the_quantile_huber_loss():
    predicted = random(3, 2, 4).requires_grad_()
    goal, weights = 2.0 * random(3, 5, seed=1), random(3, seed=2).abs()
    brute_force_loss(predicted, goal, weights).backward()
    torch.testing.assert_close(critic_loss_slope(predicted.detach(), goal, weights), predicted.grad)


def test_one_quantile_learns_by_squared_error():
    predicted, goal = 9.0 * random(6, 2, 1), random(6, 1, seed=1)
    weights = random(6, seed=2).abs()
    predicted.requires_grad_()
    (0.5 * weights[:, None, None] * (predicted - goal[:, None]) ** 2).mean().backward()
    torch.testing.assert_close(critic_loss_slope(predicted.detach(), goal, weights), predicted.grad)


def test_slope_leads_to_the_quantiles_of_a_law_with_two_peaks():
    goal = torch.tensor([-2.0, 2.0]).repeat(1, 50)  # half here, half there
    predicted = torch.zeros(1, 1, 4)
    for _ in range(4_000):
        predicted -= 0.01 * critic_loss_slope(predicted, goal, torch.ones(1))
    # Huber's quantiles are drawn towards the mean by at most half its width
    assert predicted[0, 0].tolist() == pytest.approx([-2, -2, 2, 2], abs=0.7)
    assert predicted.mean().item() == pytest.approx(0.0, abs=1e-3)


def test_the_highest_of_all_critics_quantiles_are_left_out():
    quantiles = torch.arange(2 * 2 * 5).float().view(2, 2, 5)
    quantiles = quantiles[:, [1, 0]]  # the second critic sees lower values
    pool = truncated(quantiles, 2).sort(1).values
    assert pool.tolist() == [[0, 1, 2, 3, 4, 5], [10, 11, 12, 13, 14, 15]]
    assert truncated(quantiles, 0).shape == (2, 10)


def test_one_quantile_each_leaves_the_least():
    quantiles = torch.tensor([[[3.0], [1.0]], [[-2.0], [5.0]]])
    assert truncated(quantiles, 2).tolist() == [[1.0], [-2.0]]
    assert actor_value(quantiles).tolist() == [1.0, -2.0]


def test_an_actor_looks_at_the_mean_of_all_quantiles():
    quantiles = random(3, 2, 5)
    torch.testing.assert_close(actor_value(quantiles), quantiles.flatten(1).mean(1))


def critics(**changes):
    observation = Observation({"obs": Leaf((3,), "<f4")}, normalize=False)
    settings = {"critics": 3, "quantiles": 4, "layer_norm": True, "dropout": 0.0, **changes}
    return Critics(SACSettings(hidden=(8, 8), **settings), observation, 2)


def test_critics_are_independent_and_see_the_action():
    several = critics()
    x, action, luck = random(5, 3).float(), random(5, 2).float(), torch.Generator()
    quantiles = several.quantiles([x], action, luck)
    assert quantiles.shape == (5, 3, 4)
    assert len({float(quantiles[0, c, 0].detach()) for c in range(3)}) == 3
    assert not torch.equal(quantiles, several.quantiles([x], action + 1, luck))


def test_dropout_is_drawn_from_its_own_luck_and_keeps_the_mean():
    several = critics(dropout=0.2, layer_norm=False)
    x, action = random(4, 3).float(), random(4, 2).float()
    first = several.quantiles([x], action, torch.Generator().manual_seed(1))
    again = several.quantiles([x], action, torch.Generator().manual_seed(1))
    other = several.quantiles([x], action, torch.Generator().manual_seed(2))
    assert torch.equal(first, again)
    assert not torch.equal(first, other)


def test_pictures_and_vectors_both_reach_the_critics():
    leaves = {"see": Leaf((6, 6, 1), "|u1"), "feel": Leaf((2,), "<f4")}
    observation = Observation(leaves, normalize=True)
    several = Critics(SACSettings(hidden=(8,), critics=2, quantiles=3), observation, 1)
    rng = np.random.default_rng(0)
    obs = {
        "see": torch.from_numpy(rng.integers(256, size=(4, 6, 6, 1), dtype=np.uint8)),
        "feel": random(4, 2).float(),
    }
    quantiles = several.quantiles(observation.parts(obs), torch.zeros(4, 1), torch.Generator())
    dark = {**obs, "see": torch.zeros_like(obs["see"])}
    darker = several.quantiles(observation.parts(dark), torch.zeros(4, 1), torch.Generator())
    assert quantiles.shape == (4, 2, 3)
    assert not torch.equal(quantiles, darker)
