"""Quantiles of the return, and the quantile Huber loss (arXiv:1710.10044)."""

import torch
import torch.nn.functional as F
from torch import Tensor


def quantile_huber_loss(predicted: Tensor, goal: Tensor, sampled: Tensor | None = None) -> Tensor:
    """Return the quantile Huber loss [B]; for one quantile, the Huber loss of the mean.

    Args:
        predicted: Quantiles [B, N].
        goal: Samples of the target [B, M].
        sampled: Levels of the quantiles [B, N]; by default (i + 1/2) / N.
    """
    error = goal[:, None, :] - predicted[:, :, None]  # [B, N, M]
    huber = F.smooth_l1_loss(error, torch.zeros_like(error), reduction="none")
    if predicted.shape[1] == 1 and sampled is None:
        return huber.mean((1, 2))
    level = levels(predicted)[:, None] if sampled is None else sampled[:, :, None]
    return ((level - (error < 0).float()).abs() * huber).mean(2).sum(1)


def quantile_huber_slope(
    predicted: Tensor, goal: Tensor, weights: Tensor, sampled: Tensor | None = None
) -> Tensor:
    """Return the derivative [B, N] of the weighted mean of ``quantile_huber_loss``.

    An update needs only this derivative of the loss, so autograd records nothing of it.

    Args:
        predicted: Quantiles [B, N].
        goal: Samples of the target [B, M].
        weights: Importance weights [B].
        sampled: Levels of the quantiles [B, N]; by default (i + 1/2) / N.
    """
    weights = weights[:, None] * (-1.0 / len(weights))
    error = goal[:, None, :] - predicted[:, :, None]  # [B, N, M]
    pull = error.clamp_(-1.0, 1.0)
    if predicted.shape[1] == 1 and sampled is None:
        return weights * pull.mean(2)
    level = levels(predicted) if sampled is None else sampled
    upwards, both = pull.clamp(min=0.0).mean(2), pull.mean(2)
    return weights * (level * upwards + (1.0 - level) * (both - upwards))


def levels(quantiles: Tensor) -> Tensor:
    """Return the levels [N] of quantiles [B, N]."""
    n = quantiles.shape[1]
    return (torch.arange(n, device=quantiles.device) + 0.5) / n


def expected(quantiles: Tensor) -> Tensor:
    """Return the mean [...] of quantiles [..., N]."""
    return quantiles.mean(-1) if quantiles.shape[-1] > 1 else quantiles.squeeze(-1)
