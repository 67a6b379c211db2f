"""Behaviour cloning for Q-learning: temporal differences and a large margin (arXiv:1704.03732)."""

from collections.abc import Sequence

import torch
from torch import Tensor

from soulsai.algorithms.base import Tensors
from soulsai.algorithms.dqn.margin import large_margin_loss
from soulsai.algorithms.dqn.network import NO_NOISE
from soulsai.algorithms.dqn.settings import DQNSettings
from soulsai.algorithms.dqn.update import (
    NO_UPDATE_NOISE,
    Learner,
    Report,
    UpdateNoise,
    best_action,
    of_action,
    step,
    surrogate,
    td_error,
)
from soulsai.algorithms.quantiles import expected
from soulsai.algorithms.replay_learner import leaves
from soulsai.types import MASK

MARGIN_WEIGHT = 1.0  # of this loss, relative to that of temporal differences


def clone(
    learner: Learner,
    rows: Tensors,
    weights: Tensor,
    settings: DQNSettings,
    noise: UpdateNoise = NO_UPDATE_NOISE,
) -> tuple[Report, Tensor, Tensor]:
    """Do one gradient step of both losses on demonstrations, and move the target network.

    Args:
        learner: The networks and the optimiser, changed in place.
        rows: Columns of B transitions, the masks of ``obs`` included if there are masks.
        weights: Importance weights [B].
        settings: The settings of the algorithm.
        noise: The random numbers of this update.

    Returns:
        The report, the margin loss [], and the share [] of demonstrated actions that are greedy.
    """
    online, target = learner.online, learner.target
    parts, sizes = online.observation.parts, online.sizes
    td = td_error(parts, online.quantiles, target.quantiles, rows, weights, settings, noise, sizes)
    mask = rows.get(f"obs.{MASK}")
    q = expected(online.quantiles(parts(leaves(rows, "obs.")), NO_NOISE))
    margin = (weights * large_margin_loss(q, rows["action"], mask, sizes)).mean()
    gradient = learner.gradient.of(surrogate(td, MARGIN_WEIGHT * margin))
    report = step(learner, td, gradient, settings)
    best = best_action(q.detach(), mask, sizes)
    equal = (best == rows["action"].long()).float().mean()
    return report, margin.detach(), equal


def conservative_update(
    learner: Learner,
    rows: Tensors,
    weights: Tensor,
    settings: DQNSettings,
    conservative: float,
    noise: UpdateNoise = NO_UPDATE_NOISE,
) -> tuple[Report, Tensor]:
    """Do one gradient step of conservative Q-learning (arXiv:2006.04779).

    Args:
        learner: The networks and the optimiser, changed in place.
        rows: Columns of B transitions, the masks of ``obs`` included if there are masks.
        weights: Importance weights [B].
        settings: The settings of the algorithm.
        conservative: Weight of the penalty.
        noise: The random numbers of this update.

    Returns:
        The report, and the penalty [].
    """
    online, target = learner.online, learner.target
    parts, sizes = online.observation.parts, online.sizes
    td = td_error(parts, online.quantiles, target.quantiles, rows, weights, settings, noise, sizes)
    q = expected(online.quantiles(parts(leaves(rows, "obs.")), NO_NOISE))
    mask = rows.get(f"obs.{MASK}")
    penalty = (weights * conservative_penalty(q, rows["action"], sizes, mask)).mean()
    gradient = learner.gradient.of(surrogate(td, conservative * penalty))
    return step(learner, td, gradient, settings), penalty.detach()


def conservative_penalty(
    q: Tensor, action: Tensor, sizes: Sequence[int], mask: Tensor | None = None
) -> Tensor:
    """Return ``logsumexp_a q(a) - q(taken)`` [B], the mean over components (arXiv:2006.04779).

    Args:
        q: Values [B, A].
        action: Choices of the data [B] or [B, D].
        sizes: Number of choices of each component.
        mask: Valid choices [B, A]; ``None``: all.
    """
    if mask is not None:
        q = q.masked_fill(~mask & mask.any(1, keepdim=True), torch.finfo(q.dtype).min)
    parts = q.split(list(sizes) or [q.shape[1]], 1)
    soft = torch.stack([part.logsumexp(1) for part in parts]).mean(0)
    return soft - of_action(q[..., None], action, sizes)[..., 0].mean(1)
