"""The head ``squashed`` in torch: the twin of what ``soulsai.heads`` computes in NumPy."""

import math

import torch
import torch.nn.functional as F
from torch import Tensor


def sample(mean: Tensor, log_std: Tensor, noise: Tensor) -> tuple[Tensor, Tensor]:
    """Return actions in -1..1 [B, A] and their log-probabilities [B], differentiable.

    ``noise`` [B, A] is standard normal; zeros give the action of a greedy episode.
    """
    drawn = mean + log_std.exp() * noise
    normal = -0.5 * noise.square() - log_std - 0.5 * math.log(2.0 * math.pi)
    return torch.tanh(drawn), (normal - log_slope(drawn)).sum(-1)


def log_prob(mean: Tensor, log_std: Tensor, drawn: Tensor) -> Tensor:
    """Return the log-probabilities [B] of the actions ``tanh(drawn)``.

    What was drawn is asked for, not the action: near the bounds float32 cannot tell it back.
    """
    noise = (drawn - mean) * torch.exp(-log_std)
    normal = -0.5 * noise.square() - log_std - 0.5 * math.log(2.0 * math.pi)
    return (normal - log_slope(drawn)).sum(-1)


def log_slope(drawn: Tensor) -> Tensor:
    """Return ``log(1 - tanh(drawn) ** 2)``, finite and exact far out, where the square is 1."""
    far = drawn.abs()
    return 2.0 * (math.log(2.0) - far - F.softplus(-2.0 * far))
