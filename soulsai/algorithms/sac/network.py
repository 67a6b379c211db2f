"""The networks: a squashed normal actor, and truncated quantile critics (arXiv:2005.04269)."""

import math
from collections.abc import Sequence
from math import prod

import torch
from torch import Tensor, nn

from soulsai.algorithms.base import Policy, Tensors
from soulsai.algorithms.compile.dense import Tower
from soulsai.algorithms.networks import Encoder, Observation
from soulsai.algorithms.quantiles import quantile_huber_slope
from soulsai.algorithms.sac.settings import SACSettings
from soulsai.types import Head, Spec

LOG_STD = -5.0, 2.0  # bounds of the actor's output


class SquashedActor(Policy):
    """The policy: a normal distribution of actions, squashed into -1..1 by tanh."""

    def __init__(self, config: SACSettings, spec: Spec) -> None:
        head = Head("squashed", eval_fraction=config.eval_fraction)
        super().__init__(head, spec, outputs=("mean", "log_std"))
        self.shape = spec.action.shape
        self.observation = Observation(spec.seen, normalize=config.normalize_obs)
        self.encoder = Encoder(self.observation, (), layer_norm=False)
        self.tower = Tower(self.encoder.width, config.hidden, 2 * prod(self.shape))

    def forward(self, obs: Tensors, memory: Tensors) -> tuple[Tensors, Tensors]:
        """Map leaves [B, ...] to ``mean`` and ``log_std`` [B, *shape]."""
        mean, log_std = self.parameters_of(self.observation.parts(obs))
        shape = (-1, *self.shape)
        return {"mean": mean.reshape(shape), "log_std": log_std.reshape(shape)}, memory

    def parameters_of(self, parts: list[Tensor]) -> tuple[Tensor, Tensor]:
        """Map the parts of an observation to mean and log standard deviation [B, A]."""
        mean, log_std = self.tower(self.encoder.features(parts)).chunk(2, dim=1)
        return mean, log_std.clamp(*LOG_STD)


class Temperature(nn.Module):
    """The weight of a nat of entropy relative to reward, learnt as a logarithm."""

    def __init__(self, initial: float) -> None:
        super().__init__()
        self.log = nn.Parameter(torch.tensor([math.log(initial)]))

    @property
    def value(self) -> Tensor:
        """The temperature [1]."""
        return self.log.detach().exp()


class Critics(nn.Module):
    """Independent critics on shared features.

    Dropout precedes LayerNorm, as in DroQ (arXiv:2110.02034), and is always active.

    Args:
        observation: Source of the features.
        actions: Number of elements A of an action.
        hidden: Widths of the layers.
        count: Number of critics C.
        quantiles: Number of quantiles N per critic.
        layer_norm: Add a LayerNorm to each layer.
        dropout: Probability of dropping a unit.
    """

    def __init__(
        self,
        observation: Observation,
        actions: int,
        hidden: Sequence[int],
        *,
        count: int,
        quantiles: int,
        layer_norm: bool,
        dropout: float,
    ) -> None:
        super().__init__()
        self.encoder = Encoder(observation, (), layer_norm=False)
        inputs = self.encoder.width + actions
        self.towers = nn.ModuleList(
            Tower(inputs, hidden, quantiles, layer_norm=layer_norm, dropout=dropout)
            for _ in range(count)
        )

    def quantiles(
        self, parts: list[Tensor], action: Tensor, generator: torch.Generator | None
    ) -> Tensor:
        """Map observations and actions to quantiles of the return.

        Args:
            parts: The parts of the observations [B, ...].
            action: Actions [B, A].
            generator: Source of the dropout masks.

        Returns:
            Quantiles [B, C, N].
        """
        x = torch.cat((self.encoder.features(parts), action), 1)
        return torch.stack([tower(x, generator) for tower in self.towers], 1)


def actor_value(quantiles: Tensor) -> Tensor:
    """Return the value that the actor maximises.

    Args:
        quantiles: Quantiles [B, C, N].

    Returns:
        Values [B]: the mean, or the minimum over critics if there is one quantile (plain SAC).
    """
    return quantiles.amin((1, 2)) if quantiles.shape[2] == 1 else quantiles.mean((1, 2))


def truncated(quantiles: Tensor, drop: int) -> Tensor:
    """Return the pooled quantiles of all critics without the highest, against overestimation.

    Args:
        quantiles: Quantiles [B, C, N].
        drop: Number of quantiles to drop per critic.

    Returns:
        The pool [B, M], unordered; only the minimum if there is one quantile (plain SAC).
    """
    _, critics, n = quantiles.shape
    kept = 1 if n == 1 else (n - drop) * critics
    return quantiles.flatten(1).topk(kept, dim=1, largest=False, sorted=False).values


def critic_loss_slope(predicted: Tensor, target: Tensor, weights: Tensor) -> Tensor:
    """Return the derivative of the critics' weighted loss by their quantiles.

    The loss is the mean quantile Huber loss, or half the mean squared error of one quantile.

    Args:
        predicted: Quantiles [B, C, N].
        target: Target quantiles [B, M].
        weights: Importance weights [B].

    Returns:
        The derivative [B, C, N].
    """
    batch, critics, n = predicted.shape
    if n == 1:
        return (predicted - target[:, None]) * (weights / (batch * critics))[:, None, None]
    flat = quantile_huber_slope(
        predicted.flatten(0, 1),
        target.repeat_interleave(critics, 0),
        weights.repeat_interleave(critics),
    )
    return flat.view_as(predicted)
