"""The compiled form of Q-learning's update: the same equations over vectors of parameters."""

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from soulsai.algorithms.base import Tensors
from soulsai.algorithms.compile.flat import BESIDE, Moments, adam, chosen, clipped, correction
from soulsai.algorithms.compile.form import Form, Functional, NotCompilable, Package, examples
from soulsai.algorithms.dqn.network import Chance, QPolicy
from soulsai.algorithms.dqn.update import Learner, Luck, Report, Rules, compare, found
from soulsai.algorithms.replay_learner import packed

STATE = 5  # tensors that are changed: weights, target weights, and Adam's


def form(learner: Learner, rules: Rules, rows: Tensors, luck: Luck) -> Form:
    """Return the update as a function of its state, the buffers, the rate, luck, and a batch."""
    judge = Functional(learner.online, quantiles)
    if not all(name.startswith("observation.") for name, _ in learner.online.named_buffers()):
        raise NotCompilable("this network has parts that change while it is used")
    count, chances = STATE + len(judge.buffers), chance_of(luck)

    def function(*tensors: Tensor) -> list[Tensor]:
        weights, target_weights, mean, square, steps = tensors[:STATE]
        buffers, (rate, *rest) = tensors[STATE:count], tensors[count:]
        drawn, (importance, *columns) = rest[: len(chances)], rest[len(chances) :]
        batch = dict(zip(rows, columns, strict=True))
        free = weights.detach().requires_grad_(True)
        seen = compare(
            lambda obs: [obs[name] for name in learner.online.inputs],
            judge.at(free, buffers),
            judge.at(target_weights, buffers),
            batch,
            importance,
            rules,
            luck_of(drawn, luck),
        )
        (gradient,) = torch.autograd.grad(seen.predicted, free, seen.slope)
        report = found(seen, gradient)
        now = Moments(weights, mean, square, steps)
        by = correction(steps + 1, rate)
        short = clipped(gradient, report.norm, rules.grad_clip)
        then = chosen(report.done, adam(now, short, by, learner.optimizer.eps), now)
        average = torch.lerp(target_weights, then.weights, rules.target_ema)
        target_weights.copy_(torch.where(report.done, average, target_weights))
        for before, after in zip(now, then, strict=True):
            before.copy_(after)
        return [*report, *by]

    batch = len(next(iter(rows.values())))
    importance = examples({"weights": rows["ret"]}, batch)["weights"]
    given = learner.optimizer.rate, *chances, importance, *rows.values()
    return Form(function, (*state(learner), *given))


def chance_of(luck: Luck) -> list[Tensor]:
    """Return what luck consists of."""
    return [drawn for chance in luck for drawn in chance if drawn is not None]


def luck_of(drawn: Sequence[Tensor], example: Luck) -> Luck:
    """Return the luck that consists of these, in the form of an example."""
    rest = iter(drawn)
    return Luck(
        *(Chance(*(None if one is None else next(rest) for one in chance)) for chance in example)
    )


def quantiles(policy: QPolicy, raw: list[Tensor], chance: Chance) -> Tensor:
    """Map leaves, in the order of the policy's inputs, to quantiles [B, A, N]."""
    obs = dict(zip(policy.inputs, raw, strict=True))
    return policy.quantiles(policy.observation.parts(obs), chance)


def state(learner: Learner) -> tuple[Tensor, ...]:
    """Return the tensors that the compiled update reads and changes."""
    optimizer = learner.optimizer
    moments = (optimizer.mean, optimizer.square, optimizer.steps)
    buffers = (buffer for _, buffer in learner.online.named_buffers())
    return (learner.weights, learner.target_weights, *moments, *buffers)


def updating(learner: Learner, package: Package) -> Callable[[Tensors, Tensor, Luck], Report]:
    """Return the update of a learner by a package of its ``form``."""
    held, optimizer = state(learner), learner.optimizer
    return lambda rows, weights, luck: Report(
        *package(*held, optimizer.rate, *chance_of(luck), weights, *packed(rows))[:-BESIDE]
    )
