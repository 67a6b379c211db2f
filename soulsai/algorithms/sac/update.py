"""The equations of a soft actor-critic update, as pure functions; see ``learner`` for the papers.

The eager and the compiled update both call them.
"""

import math
from collections.abc import Callable
from typing import NamedTuple

import torch
from msgspec import Struct
from torch import Tensor

from soulsai.algorithms.base import Tensors
from soulsai.algorithms.demonstrations import IMITATION
from soulsai.algorithms.distributions import sample_squashed
from soulsai.algorithms.sac.network import actor_value, critic_loss_slope, truncated

ActorFunction = Callable[[list[Tensor]], tuple[Tensor, Tensor]]  # parts to mean, log_std [B, A]
CriticFunction = Callable[[list[Tensor], Tensor], Tensor]  # parts, actions to quantiles [B, C, N]


SAMPLES = 10  # actions of the policy, and as many uniform ones, in the conservative penalty


class Hyperparameters(Struct, frozen=True):
    """The constants of an update."""

    drop: int  # quantiles per critic
    reward_scale: float
    target_ema: float
    target_entropy: float  # in nats


class CriticLoss(NamedTuple):
    """The critics' predictions on a batch, their targets, and the derivative of the loss."""

    predicted: Tensor  # [B, C, N], differentiable
    target: Tensor  # [B, M]
    slope: Tensor  # [B, C, N]
    error: Tensor  # [B] absolute difference of the means


class Imitation(NamedTuple):
    """The actions to imitate, and how much."""

    action: Tensor  # [B, A]
    weight: Tensor  # [B] zero where an action is not to be imitated


class CriticReport(NamedTuple):
    """The result of a critic step, as of before the change."""

    predicted: Tensor  # [B, C, N]
    error: Tensor  # [B]
    norm: Tensor  # [] of the gradient
    done: Tensor  # [] false if anything was not finite, and nothing changed


class ActorReport(NamedTuple):
    """The result of an actor step, as of before the change."""

    loss: Tensor  # []
    entropy: Tensor  # [] in nats
    done: Tensor  # [] false if the gradient was not finite, and nothing changed


def critic_loss(
    actor: ActorFunction,
    critics: CriticFunction,
    targets: CriticFunction,
    parts: tuple[list[Tensor], list[Tensor]],
    rows: Tensors,
    weights: Tensor,
    noise: Tensor,
    temperature: Tensor,
    constants: Hyperparameters,
) -> CriticLoss:
    """Compare the critics' predictions with soft n-step targets.

    Args:
        actor: The policy.
        critics: The critics.
        targets: The target critics.
        parts: The parts of the observations and of the next observations.
        rows: ``action`` [B, ...], ``ret`` and ``discount`` [B].
        weights: Importance weights [B].
        noise: Standard normal noise [B, A] of the next actions.
        temperature: The temperature [1].
        constants: The constants of the update.
    """
    obs, next_obs = parts
    with torch.no_grad():
        action, logp = sample_squashed(*actor(next_obs), noise)
        future = truncated(targets(next_obs, action), constants.drop)
        soft = future - temperature * logp[:, None]
        target = rows["ret"][:, None] * constants.reward_scale + rows["discount"][:, None] * soft
    predicted = critics(obs, rows["action"].flatten(1))
    detached = predicted.detach()
    error = (target.mean(1) - detached.mean((1, 2))).abs()
    slope = critic_loss_slope(detached, target, weights)
    return CriticLoss(predicted, target, slope, error)


def critic_report(loss: CriticLoss, norm: Tensor) -> CriticReport:
    """Return the report of a critic step whose gradient has the norm []."""
    done = norm.isfinite() & loss.error.isfinite().all()
    return CriticReport(loss.predicted.detach(), loss.error, norm, done)


def actor_loss(
    actor: ActorFunction,
    critics: CriticFunction,
    obs: list[Tensor],
    noise: Tensor,
    temperature: Tensor,
    imitation: Imitation | None = None,
) -> tuple[Tensor, Tensor]:
    """Return the actor's loss and its entropy.

    Args:
        actor: The policy.
        critics: The critics.
        obs: The parts of the observations.
        noise: Standard normal noise [B, A] of the actions.
        temperature: The temperature [1].
        imitation: The demonstrations in the batch.

    Returns:
        The loss [], differentiable, and the entropy [] in nats.
    """
    mean, log_std = actor(obs)
    action, logp = sample_squashed(mean, log_std, noise)
    value = actor_value(critics(obs, action))
    loss = (temperature * logp - value).mean()
    if imitation is not None:
        loss = loss + imitation_loss(mean, value.detach(), imitation)
    return loss, -logp.detach().mean()


def imitation_in(rows: Tensors) -> Imitation | None:
    """Return the demonstrations in the columns of a batch, if it may have any."""
    if IMITATION not in rows:
        return None
    return Imitation(rows["action"].flatten(1), rows[IMITATION])


def imitation_loss(mean: Tensor, value: Tensor, imitation: Imitation) -> Tensor:
    """Return the squared distance [] to actions, in proportion to the size of the values.

    This is the loss of TD3+BC (arXiv:2106.06860) with alpha 1, times the mean magnitude of the
    values, and the mean over the actions to imitate alone: else actions nobody showed would halve
    it, and a cloned policy would follow the errors of young critics.

    Args:
        mean: Means of the policy before the squashing [B, A].
        value: Values of its actions [B].
        imitation: The actions to imitate.
    """
    distance = (mean.tanh() - imitation.action).square().mean(1)
    shown = (imitation.weight > 0).sum().clamp_min(1)
    return (imitation.weight * distance).sum() / shown * value.abs().mean()


def conservative_penalty(
    actor: ActorFunction,
    critics: CriticFunction,
    obs: list[Tensor],
    action: Tensor,
    noise: Tensor,
    uniform: Tensor,
) -> Tensor:
    """Return the penalty [B] of conservative Q-learning, CQL(H) of arXiv:2006.04779.

    It is the log-sum-exp of values over actions, estimated from uniform ones and the policy's by
    importance sampling, minus the value of the data's action; the mean over critics.

    Args:
        actor: The policy.
        critics: The critics, of which the gradient is taken.
        obs: The parts of the observations [B, ...].
        action: Actions of the data [B, A].
        noise: Standard normal noise of the policy's actions [S * B, A].
        uniform: Uniform actions in -1..1 [S * B, A].
    """
    batch, size = action.shape
    samples = len(noise) // batch
    repeated = [part.repeat(samples, *[1] * (part.dim() - 1)) for part in obs]
    with torch.no_grad():
        drawn, logp = sample_squashed(*actor(repeated), noise)
    both = []
    for actions, density in ((drawn, logp[:, None]), (uniform, -size * math.log(2.0))):
        values = critics(repeated, actions).mean(2) - density  # [S * B, C]
        both.append(values.view(samples, batch, -1))
    soft = torch.cat(both).logsumexp(0) - math.log(2 * samples)  # [B, C]
    return (soft - critics(obs, action).mean(2)).mean(1)


def actor_report(loss: Tensor, entropy: Tensor, norm: Tensor) -> ActorReport:
    """Return the report of an actor step.

    Args:
        loss: The loss [].
        entropy: The entropy [] in nats.
        norm: The norm [] of the gradient.
    """
    return ActorReport(loss.detach(), entropy, norm.isfinite())
