"""The two steps of soft actor-critic's update, as functions of what they are given.

See ``sac`` for the papers.
"""

from collections.abc import Callable
from typing import NamedTuple

import torch
from msgspec import Struct
from torch import Tensor

from soulsai.algorithms.base import Tensors
from soulsai.algorithms.distributions import sample_squashed
from soulsai.algorithms.sac.critics import slope, truncated, value

Law = Callable[[list[Tensor]], tuple[Tensor, Tensor]]  # parts to means, logarithms of deviations
Judge = Callable[[list[Tensor], Tensor], Tensor]  # parts and actions to quantiles [B, C, N]


class Rules(Struct, frozen=True):
    """The numbers that say how an update is made."""

    drop: int
    reward_scale: float
    target_ema: float
    target_entropy: float


class Judgement(NamedTuple):
    """What critics thought of the actions that were taken, and what they should have."""

    predicted: Tensor  # [B, C, N], differentiable
    goal: Tensor  # [B, M]
    slope: Tensor  # [B, C, N] derivative of the loss by what was predicted
    error: Tensor  # [B] how far off it was


class CriticReport(NamedTuple):
    """What a step of the critics found, before it changed anything."""

    predicted: Tensor  # [B, C, N]
    error: Tensor  # [B] how far off they were
    norm: Tensor  # [] of the gradient
    done: Tensor  # [] false: something was not finite, so nothing was changed


class ActorReport(NamedTuple):
    """What a step of the actor found, before it changed anything."""

    loss: Tensor  # []
    entropy: Tensor  # [] in nats
    done: Tensor  # [] false: the gradient was not finite, so nothing was changed


def judge(
    law: Law,
    critics: Judge,
    targets: Judge,
    seen: tuple[list[Tensor], list[Tensor]],
    rows: Tensors,
    weights: Tensor,
    noise: Tensor,
    temperature: Tensor,
    rules: Rules,
) -> Judgement:
    """Compare what critics think of a batch with what they should.

    ``seen`` are the parts of the observations before and after; ``noise`` [B, A] draws what is done
    next.
    """
    obs, next_obs = seen
    with torch.no_grad():
        action, logp = sample_squashed(*law(next_obs), noise)
        future = truncated(targets(next_obs, action), rules.drop)
        soft = future - temperature * logp[:, None]
        goal = rows["ret"][:, None] * rules.reward_scale + rows["discount"][:, None] * soft
    predicted = critics(obs, rows["action"].flatten(1))
    told = predicted.detach()
    error = (goal.mean(1) - told.mean((1, 2))).abs()
    return Judgement(predicted, goal, slope(told, goal, weights), error)


def found(judgement: Judgement, gradient: Tensor) -> CriticReport:
    """Return what is to be said of a step of the critics by that gradient."""
    norm = torch.linalg.vector_norm(gradient)
    done = norm.isfinite() & judgement.error.isfinite().all()
    return CriticReport(judgement.predicted.detach(), judgement.error, norm, done)


def regret(
    law: Law, critics: Judge, obs: list[Tensor], noise: Tensor, temperature: Tensor
) -> tuple[Tensor, Tensor]:
    """Return the actor's loss, differentiable, and its entropy, both []."""
    action, logp = sample_squashed(*law(obs), noise)
    loss = (temperature * logp - value(critics(obs, action))).mean()
    return loss, -logp.detach().mean()


def wanting(loss: Tensor, entropy: Tensor, gradient: Tensor) -> ActorReport:
    """Return what is to be said of a step of the actor by that gradient."""
    return ActorReport(loss.detach(), entropy, torch.linalg.vector_norm(gradient).isfinite())
