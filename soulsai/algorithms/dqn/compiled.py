"""The compiled form of Q-learning's update: the same equations over vectors of parameters."""

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from soulsai.algorithms.base import Tensors
from soulsai.algorithms.compile.flat import Moments, adam, chosen, clipped, correction
from soulsai.algorithms.compile.form import Form, Functional, NotCompilable, Package, examples
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
from soulsai.algorithms.replay_learner import packed

STATE = 5  # tensors that are changed: weights, target weights, and Adam's three


def update_form(learner: Learner, settings: DQNSettings, rows: Tensors, noise: UpdateNoise) -> Form:
    """Return the update as a function of its state, buffers, learning rate, noise and batch.

    Args:
        learner: The networks and the optimiser.
        settings: The settings of the algorithm.
        rows: Example columns of B transitions.
        noise: Example random numbers.
    """
    network = Functional(learner.online, _quantiles)
    if not all(name.startswith("observation.") for name, _ in learner.online.named_buffers()):
        raise NotCompilable("this network has buffers of its own")
    count, drawn = STATE + len(network.buffers), _flat(noise)

    def function(*tensors: Tensor) -> list[Tensor]:
        weights, target_weights, mean, square, steps = tensors[:STATE]
        buffers, (rate, *rest) = tensors[STATE:count], tensors[count:]
        numbers, (importance, *columns) = rest[: len(drawn)], rest[len(drawn) :]
        batch = dict(zip(rows, columns, strict=True))
        free = weights.detach().requires_grad_(True)
        td = td_error(
            lambda obs: [obs[name] for name in learner.online.inputs],
            network.at(free, buffers),
            network.at(target_weights, buffers),
            batch,
            importance,
            settings,
            _nested(numbers, noise),
            learner.online.sizes,
        )
        imitation = imitation_loss(td, batch, importance, learner.online.sizes)
        (gradient,) = torch.autograd.grad(surrogate(td, imitation), free)
        report = report_of(td, gradient)
        now = Moments(weights, mean, square, steps)
        by = correction(steps + 1, rate)
        short = clipped(gradient, report.norm, settings.grad_clip)
        then = chosen(report.done, adam(now, short, by, learner.optimizer.eps), now)
        average = torch.lerp(target_weights, then.weights, settings.target_ema)
        target_weights.copy_(torch.where(report.done, average, target_weights))
        now.assign(then)
        return [*report, *by]

    importance = examples({"weights": rows["ret"]}, len(rows["ret"]))["weights"]
    given = learner.optimizer.rate, *drawn, importance, *rows.values()
    return Form(function, (*_state(learner), *given))


def compiled_update(
    learner: Learner, package: Package
) -> Callable[[Tensors, Tensor, UpdateNoise], Report]:
    """Return the update of a learner by a compiled package of ``update_form``."""
    state, optimizer, results = _state(learner), learner.optimizer, len(Report._fields)
    return lambda rows, weights, noise: Report(
        *package(*state, optimizer.rate, *_flat(noise), weights, *packed(rows))[:results]
    )


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
    """Return the tensors that the compiled update reads and changes."""
    optimizer = learner.optimizer
    moments = (optimizer.mean, optimizer.square, optimizer.steps)
    return (learner.weights, learner.target_weights, *moments, *learner.online.buffers())
