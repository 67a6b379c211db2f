"""The heads ``categorical`` and ``gaussian`` in torch: the twins of ``soulsai.heads``.

Noise comes in as an argument, so that a test can hold them equal.
"""

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from soulsai.algorithms.base import Tensors
from soulsai.types import ActionSpec, Head

LOG_2PI = math.log(2.0 * math.pi)


class Categorical:
    """One softmax per component of an action, independent of each other.

    Invalid choices have no chance and get no gradient; where no choice is valid, the mask is
    ignored for the probabilities and the first choice is drawn.
    """

    def __init__(self, sizes: Sequence[int], logits: Tensor, mask: Tensor | None = None) -> None:
        self._several = len(sizes) > 1
        parts = logits.split(list(sizes), -1)
        self._valid = [None] * len(parts) if mask is None else mask.split(list(sizes), -1)
        self._log = [_log_softmax(*part) for part in zip(parts, self._valid, strict=True)]

    def log_prob(self, action: Tensor) -> Tensor:
        """Return the log-probability [B] of actions [B], or [B, components]."""
        chosen = action.long().reshape(len(action), -1).split(1, -1)
        parts = [log.gather(-1, one) for log, one in zip(self._log, chosen, strict=True)]
        return _finite(torch.cat(parts, -1).sum(-1))

    def entropy(self) -> Tensor:
        """Return the entropy [B]."""
        return -torch.stack([(log.exp() * log).sum(-1) for log in self._log]).sum(0)

    def draw(self, noise: Tensor) -> Tensor:
        """Return the action that Gumbel ``noise`` [B, choices] picks; zeros pick the likeliest."""
        noises = noise.split([log.shape[-1] for log in self._log], -1)
        chosen = []
        for log, valid, one in zip(self._log, self._valid, noises, strict=True):
            scores = log + one
            if valid is not None:
                scores = scores.masked_fill(~valid, -torch.inf)
            chosen.append(scores.argmax(-1))
        return torch.stack(chosen, -1) if self._several else chosen[0]


class Gaussian:
    """A normal law per element of an action, independent of each other; nothing is clipped."""

    def __init__(self, mean: Tensor, log_std: Tensor) -> None:
        self._mean, self._log_std = mean, log_std

    def log_prob(self, action: Tensor) -> Tensor:
        """Return the log-density [B] of actions [B, ...]."""
        noise = (action - self._mean) * (-self._log_std).exp()
        return _finite(-_summed(0.5 * noise**2 + self._log_std + 0.5 * LOG_2PI))

    def entropy(self) -> Tensor:
        """Return the entropy [B]."""
        return _summed(self._log_std + 0.5 * (1.0 + LOG_2PI))

    def draw(self, noise: Tensor) -> Tensor:
        """Return the action that standard normal ``noise`` [B, ...] picks."""
        return self._mean + self._log_std.exp() * noise


def law(
    head: Head, action: ActionSpec, outputs: Tensors, mask: Tensor | None
) -> Categorical | Gaussian:
    """Return the law that a stochastic head draws from, given a policy's outputs."""
    if head.kind == "categorical":
        return Categorical(action.sizes, outputs["logits"], mask)
    return Gaussian(outputs["mean"], outputs["log_std"])


def _summed(elements: Tensor) -> Tensor:
    """Add up the elements of each action: [B, ...] to [B]."""
    return elements.reshape(len(elements), -1).sum(-1)


def _finite(logp: Tensor) -> Tensor:
    """Return logarithms of probabilities without minus infinity, as they travel."""
    return logp.clamp_min(torch.finfo(logp.dtype).min)


def _log_softmax(logits: Tensor, valid: Tensor | None) -> Tensor:
    """Return log-probabilities [B, A], all finite: zero times minus infinity would not be zero."""
    if valid is not None:
        logits = logits.masked_fill(~valid & valid.any(-1, keepdim=True), -torch.inf)
    return logits.log_softmax(-1).clamp_min(torch.finfo(logits.dtype).min)
