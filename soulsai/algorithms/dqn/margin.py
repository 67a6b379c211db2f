"""The large-margin loss of Q-learning from demonstrations (DQfD, arXiv:1704.03732)."""

from collections.abc import Sequence

import torch
from torch import Tensor

MARGIN = 0.8  # by which the value of a demonstrated action exceeds all others, in the loss


def large_margin_loss(
    q: Tensor, action: Tensor, mask: Tensor | None, sizes: Sequence[int]
) -> Tensor:
    """Return ``max_a (q(a) + margin(a)) - q(demonstrated)`` [B], the mean over components.

    The margin is zero for the demonstrated choice; invalid choices do not count (equation 2 of
    arXiv:1704.03732).

    Args:
        q: Values [B, A].
        action: Demonstrated choices [B] or [B, D].
        mask: Valid choices [B, A]; ``None``: all.
        sizes: Number of choices of each component.
    """
    parts = q.split(list(sizes) or [q.shape[1]], 1)
    chosen = action.long().reshape(len(q), -1).split(1, 1)
    masks = [None] * len(parts) if mask is None else mask.split(list(sizes) or [q.shape[1]], 1)
    losses = []
    for part, shown, valid in zip(parts, chosen, masks, strict=True):
        margin = torch.full_like(part, MARGIN).scatter(1, shown, 0.0)
        raised = part + margin
        if valid is not None:  # the demonstrated choice counts, even where no choice is valid
            raised = raised.masked_fill(~valid & (margin > 0), -torch.inf)
        losses.append(raised.amax(1) - part.gather(1, shown)[:, 0])
    return torch.stack(losses).mean(0)
