"""Action distributions in torch, the learner's counterparts of the heads in ``soulsai.heads``.

Noise is an argument, so that tests can compare both implementations.
"""

import math
from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from soulsai.algorithms.base import Tensors
from soulsai.types import ActionSpec, Head

LOG_2PI = math.log(2.0 * math.pi)


class Categorical:
    """Independent softmax distributions, one per component of an action.

    Invalid choices have probability zero and receive no gradient. Where no choice is valid, the
    mask is ignored for the probabilities and the first choice is drawn.

    Args:
        sizes: Number of choices of each component; they sum to A.
        logits: Unnormalised log-probabilities [B, A].
        mask: Valid choices [B, A]; ``None``: all.
    """

    def __init__(self, sizes: Sequence[int], logits: Tensor, mask: Tensor | None = None) -> None:
        self._several = len(sizes) > 1
        parts = logits.split(list(sizes), -1)
        self._valid = [None] * len(parts) if mask is None else mask.split(list(sizes), -1)
        self._log = [_log_softmax(*part) for part in zip(parts, self._valid, strict=True)]

    def log_prob(self, action: Tensor) -> Tensor:
        """Return the log-probability [B] of actions [B] or [B, components]."""
        chosen = action.long().reshape(len(action), -1).split(1, -1)
        parts = [log.gather(-1, one) for log, one in zip(self._log, chosen, strict=True)]
        return _finite(torch.cat(parts, -1).sum(-1))

    def entropy(self) -> Tensor:
        """Return the entropy [B] in nats."""
        return -torch.stack([(log.exp() * log).sum(-1) for log in self._log]).sum(0)

    def draw(self, noise: Tensor) -> Tensor:
        """Draw actions by Gumbel noise [B, A]; zeros give the most probable action."""
        noises = noise.split([log.shape[-1] for log in self._log], -1)
        chosen = []
        for log, valid, one in zip(self._log, self._valid, noises, strict=True):
            scores = log + one
            if valid is not None:
                scores = scores.masked_fill(~valid, -torch.inf)
            chosen.append(scores.argmax(-1))
        return torch.stack(chosen, -1) if self._several else chosen[0]

    def mode(self) -> Tensor:
        """Return the most probable actions."""
        return self.draw(torch.zeros_like(torch.cat(self._log, -1)))


class Gaussian:
    """Independent normal distributions, one per element of an action; actions are not clipped.

    Args:
        mean: Means [B, ...].
        log_std: Logarithms of the standard deviations [B, ...].
    """

    def __init__(self, mean: Tensor, log_std: Tensor) -> None:
        self._mean, self._log_std = mean, log_std
        self.size = mean[0].numel()

    def log_prob(self, action: Tensor) -> Tensor:
        """Return the log-density [B] of actions [B, ...]."""
        noise = (action - self._mean) * (-self._log_std).exp()
        return _finite(-_summed(0.5 * noise**2 + self._log_std + 0.5 * LOG_2PI))

    def entropy(self) -> Tensor:
        """Return the differential entropy [B] in nats."""
        return _summed(self._log_std + 0.5 * (1.0 + LOG_2PI))

    def draw(self, noise: Tensor) -> Tensor:
        """Draw actions by standard normal noise [B, ...]; zeros give the mean."""
        return self._mean + self._log_std.exp() * noise

    def mode(self) -> Tensor:
        """Return the most probable actions."""
        return self._mean


class Hybrid:
    """Choices, and numbers that do not depend on them.

    Args:
        choices: The distribution of C components with A choices in all.
        numbers: That of N numbers.
        components: C.
    """

    def __init__(self, choices: Categorical, numbers: Gaussian, components: int) -> None:
        self._choices, self._numbers, self._components = choices, numbers, components

    def log_prob(self, action: Tensor) -> Tensor:
        """Return the log-density [B] of actions [B, C + N]."""
        chosen, numbers = action[:, : self._components], action[:, self._components :]
        return _finite(self._choices.log_prob(chosen) + self._numbers.log_prob(numbers))

    def entropy(self) -> Tensor:
        """Return the sum of both entropies [B] in nats."""
        return self._choices.entropy() + self._numbers.entropy()

    def draw(self, noise: Tensor) -> Tensor:
        """Draw actions by Gumbel and then normal noise [B, A + N]; zeros give the mode."""
        numbers = self._numbers.size
        chosen = self._choices.draw(noise[:, :-numbers]).view(len(noise), -1)
        return torch.cat((chosen.float(), self._numbers.draw(noise[:, -numbers:])), 1)

    def mode(self) -> Tensor:
        """Return the most probable actions."""
        chosen = self._choices.mode()
        return torch.cat((chosen.view(len(chosen), -1).float(), self._numbers.mode()), 1)


Distribution = Categorical | Gaussian | Hybrid


def distribution(
    head: Head, action: ActionSpec, outputs: Tensors, mask: Tensor | None
) -> Distribution:
    """Return the action distribution of a stochastic head.

    Args:
        head: ``categorical``, ``hybrid``, or another for a normal distribution.
        action: Kind and shape of the actions.
        outputs: The policy's outputs: ``logits`` [B, A], ``mean`` and ``log_std`` [B, ...].
        mask: Valid choices [B, A]; ``None``: all.
    """
    if head.kind == "categorical":
        return Categorical(action.sizes, outputs["logits"], mask)
    numbers = Gaussian(outputs["mean"], outputs["log_std"])
    if head.kind == "hybrid":
        choices = Categorical(action.sizes, outputs["logits"], mask)
        return Hybrid(choices, numbers, len(action.sizes))
    return numbers


def sample_squashed(mean: Tensor, log_std: Tensor, noise: Tensor) -> tuple[Tensor, Tensor]:
    """Draw from a normal distribution squashed by tanh, differentiably (arXiv:1801.01290).

    Args:
        mean: Means before tanh [B, A].
        log_std: Logarithms of the standard deviations before tanh [B, A].
        noise: Standard normal noise [B, A]; zeros give the greedy action.

    Returns:
        Actions in -1..1 [B, A] and their log-probabilities [B].
    """
    drawn = mean + log_std.exp() * noise
    normal = -0.5 * noise.square() - log_std - 0.5 * LOG_2PI
    return torch.tanh(drawn), (normal - log_tanh_slope(drawn)).sum(-1)


LARGEST_SQUASHED = 0.999  # beyond, the inverse of tanh exaggerates rounding


def squashed_log_prob(mean: Tensor, log_std: Tensor, action: Tensor) -> Tensor:
    """Return the log-density [B] of squashed actions, such as demonstrated ones.

    Args:
        mean: Means before tanh [B, A].
        log_std: Logarithms of the standard deviations before tanh [B, A].
        action: Actions in -1..1 [B, A]; those at the bounds are moved inside.
    """
    before = torch.atanh(action.clamp(-LARGEST_SQUASHED, LARGEST_SQUASHED))
    noise = (before - mean) * (-log_std).exp()
    return (-0.5 * noise.square() - log_std - 0.5 * LOG_2PI - log_tanh_slope(before)).sum(-1)


def log_tanh_slope(x: Tensor) -> Tensor:
    """Return ``log(1 - tanh(x) ** 2)``, finite and exact where the square rounds to 1."""
    far = x.abs()
    return 2.0 * (math.log(2.0) - far - F.softplus(-2.0 * far))


def _summed(elements: Tensor) -> Tensor:
    """Sum the elements of each action: [B, ...] to [B]."""
    return elements.reshape(len(elements), -1).sum(-1)


def _finite(logp: Tensor) -> Tensor:
    """Replace minus infinity by the lowest float, as clients do before they send it."""
    return logp.clamp_min(torch.finfo(logp.dtype).min)


def _log_softmax(logits: Tensor, valid: Tensor | None) -> Tensor:
    """Return finite log-probabilities [B, A]: zero times minus infinity would not be a number."""
    if valid is not None:
        logits = logits.masked_fill(~valid & valid.any(-1, keepdim=True), -torch.inf)
    return logits.log_softmax(-1).clamp_min(torch.finfo(logits.dtype).min)
