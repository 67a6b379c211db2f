"""The compiled form of Q-learning's updates: the same equations over vectors of parameters."""

from collections.abc import Callable, Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from soulsai.algorithms.base import Tensors
from soulsai.algorithms.compile.flat import (
    CORRECTIONS,
    Correction,
    Corrections,
    Moments,
    adam,
    chosen,
    clip_factor,
    compiled_norm,
)
from soulsai.algorithms.compile.form import Form, Functional, NotCompilable, Package, padded
from soulsai.algorithms.dqn.network import Noise, QPolicy
from soulsai.algorithms.dqn.settings import DQNSettings
from soulsai.algorithms.dqn.update import (
    Learner,
    Report,
    UpdateNoise,
    imitation_loss,
    report_of,
    surrogate,
    td_error,
)


class Scalars(NamedTuple):
    """The numbers [] of an update, which the compiler computes once if they are one result."""

    norm: Tensor
    done: Tensor  # 1 or 0
    rate: Tensor  # of Adam's correction
    root: Tensor
    clip: Tensor  # factor of the gradient


NORM, DONE = map(Scalars._fields.index, ("norm", "done"))


def updates_form(
    learner: Learner, settings: DQNSettings, rows: Tensors, noise: UpdateNoise, most: int
) -> Form:
    """Return updates as a function of their state, and of the numbers that each needs.

    Args:
        learner: The networks and the optimiser.
        settings: The settings of the algorithm.
        rows: Example columns of B transitions.
        noise: Example random numbers.
        most: The most updates of a call.
    """
    network = Functional(learner.online, _quantiles)
    if not all(name.startswith("observation.") for name, _ in learner.online.named_buffers()):
        raise NotCompilable("this network has buffers of its own")
    buffers, drawn = tuple(learner.online.buffers()), _flat(noise)

    def step(*tensors: Tensor) -> list[Tensor]:
        weights, target_weights, mean, square, steps, *rest = tensors
        statistics, rest = rest[: len(buffers)], rest[len(buffers) :]
        by = Corrections(*rest[:CORRECTIONS]).at(steps)
        rest = rest[CORRECTIONS:]
        numbers, (importance, *columns) = rest[: len(drawn)], rest[len(drawn) :]
        batch = dict(zip(rows, columns, strict=True))
        free = weights.detach().requires_grad_(True)
        td = td_error(
            lambda obs: [obs[name] for name in learner.online.inputs],
            network.at(free, statistics),
            network.at(target_weights, statistics),
            batch,
            importance,
            settings,
            _nested(numbers, noise),
            learner.online.sizes,
        )
        imitation = imitation_loss(td, batch, importance, learner.online.sizes)
        (gradient,) = torch.autograd.grad(surrogate(td, imitation), free)
        report = report_of(td, compiled_norm(gradient))
        done, factor = report.done.to(gradient), clip_factor(report.norm, settings.grad_clip)
        together = torch.stack([report.norm, done, *by, factor])
        scalars = Scalars(*together.unbind())
        now, done = Moments(weights, mean, square, steps), scalars.done > 0.0
        by = Correction(scalars.rate, scalars.root)
        after = adam(now, scalars.clip * gradient, by, learner.optimizer.eps)
        then = chosen(done, after, now)
        average = torch.lerp(target_weights, then.weights, settings.target_ema)
        average = torch.where(done, average, target_weights)
        kept = report.predicted, report.goal, report.error
        return [then.weights, average, *then[1:], *kept, together]

    importance = torch.ones_like(rows["ret"])
    each = (*drawn, importance, *rows.values())
    return Form(
        step,
        _state(learner),
        (*buffers, *learner.optimizer.corrections(most)),
        tuple(torch.stack([one] * most) for one in each),
    )


def compiled_updates(
    learner: Learner, package: Package, most: int
) -> Callable[[Tensors, Tensor, Sequence[UpdateNoise]], Report]:
    """Return the updates of a learner by a compiled package of ``updates_form``."""
    state, buffers = _state(learner), tuple(learner.online.buffers())
    counts = torch.arange(most + 1, device=learner.weights.device).unbind()

    def updates(rows: Tensors, weights: Tensor, noise: Sequence[UpdateNoise]) -> Report:
        count = len(noise)
        drawn = zip(*map(_flat, noise), strict=True) if _flat(noise[0]) else ()
        each = [padded(one, most) for one in (*map(torch.stack, drawn), weights, *rows.values())]
        shared = (*buffers, *learner.optimizer.corrections(most))
        predicted, goal, error, together = package(*state, *shared, counts[count], *each)
        norm, done = together.select(1, NORM), together.select(1, DONE) > 0.0
        report = Report(predicted, goal, error, norm, done)
        return report if count == most else Report(*(result[:count] for result in report))

    return updates


def _flat(noise: UpdateNoise) -> list[Tensor]:
    return [drawn for part in noise for drawn in part if drawn is not None]


def _nested(drawn: Sequence[Tensor], example: UpdateNoise) -> UpdateNoise:
    """Return the inverse of ``_flat``, in the structure of an example."""
    rest = iter(drawn)
    return UpdateNoise(
        *(Noise(*(None if one is None else next(rest) for one in part)) for part in example)
    )


def _quantiles(policy: QPolicy, raw: list[Tensor], noise: Noise) -> Tensor:
    """Map leaves, in the order of the policy's inputs, to quantiles [B, A, N]."""
    obs = dict(zip(policy.inputs, raw, strict=True))
    return policy.quantiles(policy.observation.parts(obs), noise)


def _state(learner: Learner) -> tuple[Tensor, ...]:
    """Return the tensors that compiled updates change."""
    optimizer = learner.optimizer
    moments = (optimizer.mean, optimizer.square, optimizer.steps)
    return (learner.weights, learner.target_weights, *moments)
