"""Critics of state and action, and how their quantiles are pooled and learnt (arXiv:2005.04269)."""

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from soulsai.algorithms.compile.dense import Tower
from soulsai.algorithms.networks import Encoder, Observation
from soulsai.algorithms.quantiles import quantile_huber_slope


class Critics(nn.Module):
    """Several critics that see the same features, and judge independently.

    Dropout sits before the norm, as in DroQ (arXiv:2110.02034), and is never off.
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
        self, parts: list[Tensor], action: Tensor, luck: torch.Generator | None
    ) -> Tensor:
        """Map the parts of an observation and actions [B, A] to quantiles [B, C, N]."""
        x = torch.cat((self.encoder.features(parts), action), 1)
        return torch.stack([tower(x, luck) for tower in self.towers], 1)


def value(quantiles: Tensor) -> Tensor:
    """Return what an actor should think of [B, C, N]: their mean; of plain means, the least [B]."""
    return quantiles.amin((1, 2)) if quantiles.shape[2] == 1 else quantiles.mean((1, 2))


def truncated(quantiles: Tensor, drop: int) -> Tensor:
    """Return the pool of all critics' quantiles [B, C, N] without its highest, in no order [B, M].

    ``drop`` of them per critic are left out, lest errors upwards feed on themselves. If there is
    one per critic, only the least of all is left: plain SAC.
    """
    _, critics, n = quantiles.shape
    kept = 1 if n == 1 else (n - drop) * critics
    return quantiles.flatten(1).topk(kept, dim=1, largest=False, sorted=False).values


def slope(predicted: Tensor, goal: Tensor, weights: Tensor) -> Tensor:
    """Return the derivative [B, C, N] of the weighted loss by which critics learn a goal [B, M].

    It is the mean quantile Huber loss; if there is one quantile, half the mean squared error.
    """
    batch, critics, n = predicted.shape
    if n == 1:
        return (predicted - goal[:, None]) * (weights / (batch * critics))[:, None, None]
    flat = quantile_huber_slope(
        predicted.flatten(0, 1),
        goal.repeat_interleave(critics, 0),
        weights.repeat_interleave(critics),
    )
    return flat.view_as(predicted)
