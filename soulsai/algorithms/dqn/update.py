"""One update of Q-learning, as a function of what it is given and of nothing else.

Double (arXiv:1509.06461), n-step and with quantiles of the return (1710.10044), which may be
sampled (1806.06923); on request with Munchausen's bonus (2007.14430), and with values that are
rescaled (1805.11593).
"""

from collections.abc import Callable
from typing import NamedTuple

import torch
from msgspec import Struct
from torch import Tensor

from soulsai.algorithms.base import Tensors
from soulsai.algorithms.compile.flat import FlatAdam, Gradient
from soulsai.algorithms.dqn.network import NONE, Chance, QPolicy
from soulsai.algorithms.quantiles import expected, quantile_huber_slope
from soulsai.algorithms.replay_learner import leaves
from soulsai.types import MASK

Judge = Callable[[list[Tensor], Chance], Tensor]  # parts of observations to quantiles [B, A, N]
See = Callable[[Tensors], list[Tensor]]  # leaves of observations to their parts

LEAST_BONUS = -1.0  # of Munchausen
CURVE = 1e-3  # keeps the inverse of the rescaled values Lipschitz continuous


class Rules(Struct, frozen=True):
    """The numbers that say how an update is made."""

    double: bool
    reward_scale: float
    grad_clip: float
    target_ema: float
    munchausen: float = 0.0
    temperature: float = 0.03
    rescale: bool = False


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


class Luck(NamedTuple):
    """What chance decides of an update."""

    predicted: Chance = NONE
    judged: Chance = NONE  # of the online network, about what was seen next
    target: Chance = NONE


NO_LUCK = Luck()


class Comparison(NamedTuple):
    """What was thought of the actions that were taken, and what should have been."""

    predicted: Tensor  # [B, N], differentiable
    goal: Tensor  # [B, M]
    slope: Tensor  # [B, N] derivative of the loss by what was predicted
    error: Tensor  # [B] goal's mean over prediction's


class Report(NamedTuple):
    """What an update found, before it changed anything."""

    predicted: Tensor  # [B, N]
    goal: Tensor  # [B, M]
    error: Tensor  # [B] goal's mean over prediction's
    norm: Tensor  # [] of the gradient, before clipping
    done: Tensor  # [] false: something was not finite, so nothing was changed


def update(
    learner: Learner, rows: Tensors, weights: Tensor, rules: Rules, luck: Luck = NO_LUCK
) -> Report:
    """Do one gradient step, and move the target network towards the result."""
    online, target = learner.online, learner.target
    see = online.observation.parts
    seen = compare(see, online.quantiles, target.quantiles, rows, weights, rules, luck)
    gradient = learner.gradient.of(seen.predicted, seen.slope)
    report = found(seen, gradient)
    if report.done:
        if report.norm > rules.grad_clip:
            gradient.mul_(rules.grad_clip / report.norm.item())
        learner.optimizer.step(gradient)
        learner.target_weights.lerp_(learner.weights, rules.target_ema)
    return report


def compare(
    see: See,
    online: Judge,
    target: Judge,
    rows: Tensors,
    weights: Tensor,
    rules: Rules,
    luck: Luck = NO_LUCK,
) -> Comparison:
    """Return what was predicted for a batch, and which way it should have been."""
    with torch.no_grad():
        goal = td_target(see, online, target, rows, rules, luck)
    predicted = td_predicted(see, online, rows, luck.predicted)
    told = predicted.detach()
    slope = quantile_huber_slope(told, goal, weights, luck.predicted.levels)
    return Comparison(predicted, goal, slope, expected(goal) - expected(told))


def found(seen: Comparison, gradient: Tensor) -> Report:
    """Return what is to be said of an update by that gradient."""
    norm = torch.linalg.vector_norm(gradient)
    done = norm.isfinite() & seen.error.isfinite().all()
    return Report(seen.predicted.detach(), seen.goal, seen.error, norm, done)


def td_target(
    see: See, online: Judge, target: Judge, rows: Tensors, rules: Rules, luck: Luck = NO_LUCK
) -> Tensor:
    """Return what the taken actions' quantiles should be [B, M]."""
    parts, mask = see(leaves(rows, "next_obs.")), rows.get(f"next_obs.{MASK}")
    quantiles = target(parts, luck.target)  # [B, A, M]
    reward, discount = rows["ret"] * rules.reward_scale, rows["discount"]
    if rules.munchausen:
        mind = soft_policy(expected(quantiles), mask, rules.temperature)  # [B, A]
        future = soft_value(unscaled(quantiles) if rules.rescale else quantiles, mind, rules)
        now = expected(target(see(leaves(rows, "obs.")), luck.target))
        bonus = soft_policy(now, rows.get(f"obs.{MASK}"), rules.temperature)
        logp = bonus.gather(1, rows["action"].long()[:, None])[:, 0]
        reward = reward + rules.munchausen * (rules.temperature * logp).clamp(LEAST_BONUS, 0.0)
    else:
        judged = online(parts, luck.judged) if rules.double else quantiles
        future = taken(quantiles, best_action(expected(judged), mask))  # [B, M]
        future = unscaled(future) if rules.rescale else future
    goal = reward[:, None] + discount[:, None] * future
    return rescaled(goal) if rules.rescale else goal


def td_predicted(see: See, online: Judge, rows: Tensors, chance: Chance = NONE) -> Tensor:
    """Return the quantiles of the actions that were taken [B, N]."""
    return taken(online(see(leaves(rows, "obs.")), chance), rows["action"])


def best_action(q: Tensor, mask: Tensor | None) -> Tensor:
    """Return the valid action of highest value [B] of [B, A], as ``heads.masked_argmax`` does."""
    if mask is not None:
        q = q.masked_fill(~mask, -torch.inf)
    return q.argmax(-1)


def taken(quantiles: Tensor, action: Tensor) -> Tensor:
    """Return the quantiles [B, N] of one action [B] each, from [B, A, N]."""
    index = action.long()[:, None, None].expand(-1, 1, quantiles.shape[2])
    return quantiles.gather(1, index).squeeze(1)


def soft_policy(q: Tensor, mask: Tensor | None, temperature: float) -> Tensor:
    """Return the log-probabilities [B, A] of the actions, were they chosen softly by their values.

    Where no action is valid, the mask is ignored: what comes after counts for nothing there.
    """
    if mask is not None:
        q = q.masked_fill(~mask & mask.any(-1, keepdim=True), -torch.inf)
    return (q / temperature).log_softmax(-1)


def soft_value(quantiles: Tensor, logp: Tensor, rules: Rules) -> Tensor:
    """Return quantiles [B, M] of [B, A, M] under the soft policy, with the bonus of its entropy."""
    logp = logp.clamp_min(torch.finfo(logp.dtype).min)  # zero times minus infinity is not zero
    chosen = logp.exp()[:, :, None]
    return (chosen * (quantiles - rules.temperature * logp[:, :, None])).sum(1)


def rescaled(value: Tensor) -> Tensor:
    """Return about the square root of values, sign and all."""
    return value.sign() * ((value.abs() + 1.0).sqrt() - 1.0) + CURVE * value


def unscaled(value: Tensor) -> Tensor:
    """Undo ``rescaled``."""
    root = (1.0 + 4.0 * CURVE * (value.abs() + 1.0 + CURVE)).sqrt()
    return value.sign() * (((root - 1.0) / (2.0 * CURVE)).square() - 1.0)
