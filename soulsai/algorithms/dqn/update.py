"""One update of Q-learning, a function of its arguments alone.

Double (arXiv:1509.06461), n-step, with quantiles of the return (1710.10044) that may be sampled
(1806.06923); optionally with Munchausen's bonus (2007.14430) and rescaled values (1805.11593).
The D components of an action share one target, the mean over their own (1711.08946).
"""

from collections.abc import Callable, Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from soulsai.algorithms.base import Tensors
from soulsai.algorithms.compile.flat import FlatAdam, Gradient
from soulsai.algorithms.demonstrations import IMITATION
from soulsai.algorithms.dqn.margin import large_margin_loss
from soulsai.algorithms.dqn.network import NO_NOISE, Noise, QPolicy
from soulsai.algorithms.dqn.settings import DQNSettings
from soulsai.algorithms.quantiles import expected, quantile_huber_slope
from soulsai.algorithms.replay_learner import leaves
from soulsai.types import MASK

Quantiles = Callable[[list[Tensor], Noise], Tensor]  # parts of observations to [B, A, N]
Parts = Callable[[Tensors], list[Tensor]]  # leaves of observations to their parts

LEAST_BONUS = -1.0  # of Munchausen
CURVE = 1e-3  # keeps the inverse of the rescaled values Lipschitz continuous


class Learner(NamedTuple):
    """Everything an update reads and changes, except its batch.

    The parameters of ``online`` and ``target`` are views of the vectors.
    """

    online: QPolicy
    target: QPolicy
    weights: Tensor  # [P] of online
    target_weights: Tensor  # [P]
    gradient: Gradient
    optimizer: FlatAdam


class UpdateNoise(NamedTuple):
    """The random numbers of one update, by evaluation."""

    predicted: Noise = NO_NOISE  # of the online network, for the observations
    selected: Noise = NO_NOISE  # of the online network, for the next observations
    target: Noise = NO_NOISE


NO_UPDATE_NOISE = UpdateNoise()


class TDError(NamedTuple):
    """The predictions for a batch, and their targets."""

    predicted: Tensor  # [B * D, N] differentiable
    goal: Tensor  # [B * D, M]
    slope: Tensor  # [B * D, N] derivative of the loss with respect to the predictions
    error: Tensor  # [B] mean of the goal minus mean of the prediction; of several, mean magnitude
    values: Tensor  # [B, A] differentiable; of all actions


class Report(NamedTuple):
    """The results of one update."""

    predicted: Tensor  # [B * D, N] before the step
    goal: Tensor  # [B * D, M]
    error: Tensor  # [B] mean of the goal minus mean of the prediction; of several, mean magnitude
    norm: Tensor  # [] of the gradient, before clipping
    done: Tensor  # [] false if something was not finite, so that nothing was changed


def update(
    learner: Learner,
    rows: Tensors,
    weights: Tensor,
    settings: DQNSettings,
    noise: UpdateNoise = NO_UPDATE_NOISE,
) -> Report:
    """Do one gradient step, and move the target network towards the result.

    Args:
        learner: The networks and the optimiser, changed in place.
        rows: Columns of B transitions, see ``transition_columns``.
        weights: Importance weights [B].
        settings: The settings of the algorithm.
        noise: The random numbers of this update.
    """
    online, target = learner.online, learner.target
    parts = online.observation.parts
    td = td_error(
        parts, online.quantiles, target.quantiles, rows, weights, settings, noise, online.sizes
    )
    imitation = imitation_loss(td, rows, weights, online.sizes)
    return step(learner, td, learner.gradient.of(surrogate(td, imitation)), settings)


def imitation_loss(
    td: TDError, rows: Tensors, weights: Tensor, sizes: Sequence[int]
) -> Tensor | None:
    """Return the large-margin loss [] of the demonstrations in a batch (arXiv:1704.03732).

    Args:
        td: The temporal differences of the batch.
        rows: Columns of B transitions; without ``imitation`` there is no loss.
        weights: Importance weights [B].
        sizes: Number of choices of each component.
    """
    if IMITATION not in rows:
        return None
    loss = large_margin_loss(td.values, rows["action"], rows.get(f"obs.{MASK}"), sizes)
    return (rows[IMITATION] * weights * loss).mean()


def surrogate(td: TDError, more: Tensor | None) -> Tensor:
    """Return a number [] with the gradient of temporal differences and of another loss [].

    Args:
        td: The temporal differences of the batch.
        more: The other loss, if there is one.
    """
    loss = (td.predicted * td.slope).sum()
    return loss if more is None else loss + more


def step(learner: Learner, td: TDError, gradient: Tensor, settings: DQNSettings) -> Report:
    """Step against a gradient, and move the target network, unless something is not finite.

    Args:
        learner: The networks and the optimiser, changed in place.
        td: The temporal differences of the batch.
        gradient: The gradient [P] of the whole loss; it is clipped in place.
        settings: The settings of the algorithm.
    """
    report = report_of(td, torch.linalg.vector_norm(gradient))
    if report.done:
        if report.norm > settings.grad_clip:
            gradient.mul_(settings.grad_clip / report.norm.item())
        learner.optimizer.step(gradient)
        learner.target_weights.lerp_(learner.weights, settings.target_ema)
    return report


def td_error(
    parts: Parts,
    online: Quantiles,
    target: Quantiles,
    rows: Tensors,
    weights: Tensor,
    settings: DQNSettings,
    noise: UpdateNoise = NO_UPDATE_NOISE,
    sizes: Sequence[int] = (),
) -> TDError:
    """Return predictions, targets and the slope of the loss for a batch.

    Args:
        parts: Splits leaves of observations.
        online: Quantiles of the online network.
        target: Quantiles of the target network.
        rows: Columns of B transitions.
        weights: Importance weights [B].
        settings: The settings of the algorithm.
        noise: The random numbers of this update.
        sizes: Number of choices of each component; empty: there is one component.
    """
    with torch.no_grad():
        goal = td_target(parts, online, target, rows, settings, noise, sizes)
    quantiles = online(parts(leaves(rows, "obs.")), noise.predicted)
    predicted = of_action(quantiles, rows["action"], sizes).flatten(0, 1)
    count, levels = len(predicted) // len(goal), noise.predicted.levels
    if count > 1:
        goal, weights = goal.repeat_interleave(count, 0), weights.repeat_interleave(count)
        levels = None if levels is None else levels.repeat_interleave(count, 0)
    detached = predicted.detach()
    slope = quantile_huber_slope(detached, goal, weights, levels)
    error = expected(goal) - expected(detached)
    if count > 1:
        error = error.view(-1, count).abs().mean(1)
    return TDError(predicted, goal, slope, error, expected(quantiles))


def report_of(td: TDError, norm: Tensor) -> Report:
    """Return the report of an update whose gradient has the norm []."""
    done = norm.isfinite() & td.error.isfinite().all()
    return Report(td.predicted.detach(), td.goal, td.error, norm, done)


def td_target(
    parts: Parts,
    online: Quantiles,
    target: Quantiles,
    rows: Tensors,
    settings: DQNSettings,
    noise: UpdateNoise = NO_UPDATE_NOISE,
    sizes: Sequence[int] = (),
) -> Tensor:
    """Return the target quantiles [B, M] of the actions that were taken.

    Args:
        parts: Splits leaves of observations.
        online: Quantiles of the online network.
        target: Quantiles of the target network.
        rows: Columns of B transitions.
        settings: The settings of the algorithm.
        noise: The random numbers of this update.
        sizes: Number of choices of each component; empty: there is one component.
    """
    next_parts, mask = parts(leaves(rows, "next_obs.")), rows.get(f"next_obs.{MASK}")
    quantiles = target(next_parts, noise.target)  # [B, A, M]
    reward, discount = rows["ret"] * settings.reward_scale, rows["discount"]
    rescale, temperature = settings.rescale_values, settings.temperature
    if settings.munchausen:
        log_policy = soft_policy(expected(quantiles), mask, temperature, sizes)  # [B, A]
        values = unscaled(quantiles) if rescale else quantiles
        future = soft_value(values, log_policy, temperature) / max(1, len(sizes))
        now = expected(target(parts(leaves(rows, "obs.")), noise.target))
        log_now = soft_policy(now, rows.get(f"obs.{MASK}"), temperature, sizes)
        logp = of_action(log_now[..., None], rows["action"], sizes)[..., 0]  # [B, D]
        bonus = (temperature * logp).clamp(LEAST_BONUS, 0.0).mean(1)
        reward = reward + settings.munchausen * bonus
    else:
        selected = online(next_parts, noise.selected) if settings.double else quantiles
        best = best_action(expected(selected), mask, sizes)
        future = of_action(quantiles, best, sizes)  # [B, D, M]
        future = (unscaled(future) if rescale else future).mean(1)
    goal = reward[:, None] + discount[:, None] * future
    return rescaled(goal) if rescale else goal


def best_action(q: Tensor, mask: Tensor | None, sizes: Sequence[int] = ()) -> Tensor:
    """Return the valid choices of highest value; the twin of ``heads.best_choices``.

    Args:
        q: Values [B, A].
        mask: Valid choices [B, A]; ``None``: all.
        sizes: Number of choices of each component; empty: there is one component.

    Returns:
        Choices [B, D], or [B] of one component.
    """
    if mask is not None:
        q = q.masked_fill(~mask, -torch.inf)
    if len(sizes) < 2:
        return q.argmax(-1)
    return torch.stack([part.argmax(-1) for part in q.split(list(sizes), 1)], 1)


def of_action(quantiles: Tensor, action: Tensor, sizes: Sequence[int] = ()) -> Tensor:
    """Return the quantiles of the choices of one action each.

    Args:
        quantiles: Quantiles [B, A, N].
        action: Choices [B] or [B, D].
        sizes: Number of choices of each component; empty: there is one component.

    Returns:
        Quantiles [B, D, N].
    """
    index = action.long().view(len(action), -1)
    if len(sizes) > 1:
        first = torch.tensor([0, *sizes[:-1]], device=index.device).cumsum(0)
        index = index + first
    return quantiles.gather(1, index.unsqueeze(2).expand(-1, -1, quantiles.shape[2]))


def soft_policy(
    q: Tensor, mask: Tensor | None, temperature: float, sizes: Sequence[int] = ()
) -> Tensor:
    """Return the log-probabilities [B, A] of the soft-max policy of values.

    Args:
        q: Values [B, A].
        mask: Valid choices [B, A]; ignored where none is valid, since the discount is 0 there.
        temperature: Temperature of the soft-max, in units of reward.
        sizes: Number of choices of each component; empty: there is one component.
    """
    split = list(sizes) or [q.shape[1]]
    masks = [None] * len(split) if mask is None else mask.split(split, 1)
    parts = []
    for part, valid in zip(q.split(split, 1), masks, strict=True):
        if valid is not None:
            part = part.masked_fill(~valid & valid.any(-1, keepdim=True), -torch.inf)
        parts.append((part / temperature).log_softmax(-1))
    return parts[0] if len(parts) == 1 else torch.cat(parts, 1)


def soft_value(quantiles: Tensor, logp: Tensor, temperature: float) -> Tensor:
    """Return the quantiles [B, M] of the value of the soft-max policy, entropy included.

    Those of several components are summed.

    Args:
        quantiles: Quantiles of each action [B, A, M].
        logp: Log-probabilities of the policy [B, A].
        temperature: Reward per nat of entropy.
    """
    logp = logp.clamp_min(torch.finfo(logp.dtype).min)  # zero times minus infinity is not zero
    return (logp.exp()[:, :, None] * (quantiles - temperature * logp[:, :, None])).sum(1)


def rescaled(value: Tensor) -> Tensor:
    """Return about the square root of values, with their sign."""
    return value.sign() * ((value.abs() + 1.0).sqrt() - 1.0) + CURVE * value


def unscaled(value: Tensor) -> Tensor:
    """Return the inverse of ``rescaled``."""
    root = (1.0 + 4.0 * CURVE * (value.abs() + 1.0 + CURVE)).sqrt()
    return value.sign() * (((root - 1.0) / (2.0 * CURVE)).square() - 1.0)
