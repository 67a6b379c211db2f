"""Quantiles of the return, and the loss by which they are learnt (arXiv:1710.10044)."""

import torch
import torch.nn.functional as F
from torch import Tensor


def quantile_huber_loss(predicted: Tensor, goal: Tensor, sampled: Tensor | None = None) -> Tensor:
    """Return the loss [B] of quantiles [B, N] against samples of the goal [B, M].

    Quantile i stands for the level (i + 1/2) / N, or for the ``sampled`` one [B, N]. One quantile
    that was not sampled is the mean: plain Huber loss.
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

    Learning needs the loss only through this, so nothing of it is recorded for autograd.
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
    """Return the levels [N] that quantiles [B, N] stand for."""
    n = quantiles.shape[1]
    return (torch.arange(n, device=quantiles.device) + 0.5) / n


def expected(quantiles: Tensor) -> Tensor:
    """Return the mean [...] of quantiles [..., N]."""
    return quantiles.mean(-1) if quantiles.shape[-1] > 1 else quantiles.squeeze(-1)
