"""One update of Q-learning, as a function of what it is given and of nothing else.

Double (arXiv:1509.06461), n-step and with quantiles of the return (1710.10044).
"""

from collections.abc import Callable
from typing import NamedTuple

import torch
from msgspec import Struct
from torch import Tensor

from soulsai.algorithms.base import Tensors
from soulsai.algorithms.flat import FlatAdam, Gradient
from soulsai.algorithms.off_policy import leaves
from soulsai.algorithms.q_network import QPolicy
from soulsai.algorithms.quantiles import expected, quantile_huber_slope
from soulsai.types import MASK

Judge = Callable[[list[Tensor]], Tensor]  # parts of observations to quantiles [B, A, N]
See = Callable[[Tensors], list[Tensor]]  # leaves of observations to their parts


class Rules(Struct, frozen=True):
    """The numbers that say how an update is made."""

    double: bool
    reward_scale: float
    grad_clip: float
    target_ema: float


class Learner(NamedTuple):
    """Everything an update reads and writes beside its batch.

    The parameters of ``online`` and ``target`` are views of the vectors.
    """

    online: QPolicy
    target: QPolicy
    weights: Tensor  # [P] of online
    target_weights: Tensor  # [P]
    gradient: Gradient
    optimizer: FlatAdam


class Report(NamedTuple):
    """What an update found, before it changed anything."""

    predicted: Tensor  # [B, N]
    goal: Tensor  # [B, M]
    error: Tensor  # [B] goal's mean over prediction's
    norm: Tensor  # [] of the gradient, before clipping
    done: bool  # false: something was not finite, so nothing was changed


def update(learner: Learner, rows: Tensors, weights: Tensor, rules: Rules) -> Report:
    """Do one gradient step, and move the target network towards the result."""
    online, target = learner.online, learner.target
    see = online.observation.parts
    with torch.inference_mode():
        goal = td_target(see, online.quantiles, target.quantiles, rows, rules)  # [B, M]
    predicted = td_predicted(see, online.quantiles, rows)  # [B, N]
    gradient = learner.gradient.of(
        predicted, quantile_huber_slope(predicted.detach(), goal, weights)
    )
    predicted = predicted.detach()
    error = expected(goal) - expected(predicted)
    norm = torch.linalg.vector_norm(gradient)
    done = bool(norm.isfinite() & error.isfinite().all())
    if done:
        if norm > rules.grad_clip:
            gradient.mul_(rules.grad_clip / norm.item())
        learner.optimizer.step(gradient)
        learner.target_weights.lerp_(learner.weights, rules.target_ema)
    return Report(predicted, goal, error, norm, done)


def td_target(see: See, online: Judge, target: Judge, rows: Tensors, rules: Rules) -> Tensor:
    """Return what the taken actions' quantiles should be [B, N]."""
    parts = see(leaves(rows, "next_obs."))
    quantiles = target(parts)  # [B, A, N]
    judged = online(parts) if rules.double else quantiles
    best = best_action(expected(judged), rows.get(f"next_obs.{MASK}"))  # [B]
    future = taken(quantiles, best)  # [B, N]
    return rows["ret"][:, None] * rules.reward_scale + rows["discount"][:, None] * future


def td_predicted(see: See, online: Judge, rows: Tensors) -> Tensor:
    """Return the quantiles of the actions that were taken [B, N]."""
    return taken(online(see(leaves(rows, "obs."))), rows["action"])


def best_action(q: Tensor, mask: Tensor | None) -> Tensor:
    """Return the valid action of highest value [B] of [B, A]: the torch twin of ``heads.best``."""
    if mask is not None:
        q = q.masked_fill(~mask, -torch.inf)
    return q.argmax(-1)


def taken(quantiles: Tensor, action: Tensor) -> Tensor:
    """Return the quantiles [B, N] of one action [B] each, from [B, A, N]."""
    index = action.long()[:, None, None].expand(-1, 1, quantiles.shape[2])
    return quantiles.gather(1, index).squeeze(1)
