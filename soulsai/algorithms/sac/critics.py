"""Critics of state and action, with truncated quantiles (TQC, arXiv:2005.04269)."""

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from soulsai.algorithms.compile.dense import Tower
from soulsai.algorithms.networks import Encoder, Observation
from soulsai.algorithms.quantiles import quantile_huber_slope


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
