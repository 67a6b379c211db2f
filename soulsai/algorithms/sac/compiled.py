"""The compiled forms of soft actor-critic's two steps: the same equations over vectors."""

from collections.abc import Callable
from math import prod
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from soulsai.algorithms.base import Tensors
from soulsai.algorithms.compile.flat import BESIDE, FlatAdam, Moments, adam, chosen, correction
from soulsai.algorithms.compile.form import Form, Functional, NotCompilable, Package
from soulsai.algorithms.replay_learner import packed
from soulsai.algorithms.sac.update import ActorReport, CriticReport, found, judge, regret, wanting

if TYPE_CHECKING:
    from soulsai.algorithms.sac.learner import SAC

MOMENTS = 4  # tensors of ``Moments``


class Functions:
    """Actor and critics as functions of their parameters."""

    def __init__(self, sac: "SAC") -> None:
        names = sac.policy.inputs

        def parts(raw: dict[str, Tensor]) -> list[Tensor]:
            return sac.policy.observation.parts(raw)

        self._see = Functional(
            sac.policy, lambda _, *raw: parts(dict(zip(names, raw, strict=True)))
        )
        self._law = Functional(sac.policy, lambda policy, seen: policy.law(seen))
        self._critics = Functional(
            sac.critics, lambda critics, seen, action: critics.quantiles(seen, action, None)
        )
        self._names = names

    def see(
        self, rows: Tensors, prefix: str, actor: Tensor, buffers: tuple[Tensor, ...]
    ) -> list[Tensor]:
        """Return the parts of the observations whose columns begin with ``prefix``."""
        parts: list[Tensor] = self._see.at(actor, buffers)(
            *(rows[prefix + name] for name in self._names)
        )
        return parts

    def law(self, actor: Tensor) -> Callable[[list[Tensor]], tuple[Tensor, Tensor]]:
        """Return the policy with these parameters."""
        return self._law.at(actor, self._law.buffers)

    def critics(self, weights: Tensor) -> Callable[[list[Tensor], Tensor], Tensor]:
        """Return the critics with these parameters."""
        return self._critics.at(weights, ())


def critic_form(sac: "SAC", rows: Tensors, weights: Tensor) -> Form:
    """Return the critics' step as a function of its state, a batch and noise."""
    check(sac)
    functions, optimizer, rules = Functions(sac), sac.critic_adam, sac.rules
    held = critic_state(sac)

    def function(*tensors: Tensor) -> list[Tensor]:
        now, rest = Moments(*tensors[:MOMENTS]), tensors[MOMENTS:]
        target, actor, warmth = rest[:3]
        buffers = tensors[MOMENTS + 3 : len(held)]
        importance, noise, *columns = tensors[len(held) :]
        batch = dict(zip(rows, columns, strict=True))
        free = now.weights.detach().requires_grad_(True)
        seen = (
            functions.see(batch, "obs.", actor, buffers),
            functions.see(batch, "next_obs.", actor, buffers),
        )
        law, temperature = functions.law(actor), warmth.exp()
        judges = functions.critics(free), functions.critics(target)
        judged = judge(law, *judges, seen, batch, importance, noise, temperature, rules)
        (gradient,) = torch.autograd.grad(judged.predicted, free, judged.slope)
        report = found(judged, gradient)
        by = correction(now.steps + 1, optimizer.lr)
        then = chosen(report.done, adam(now, gradient, by, optimizer.eps), now)
        average = torch.lerp(target, then.weights, rules.target_ema)
        target.copy_(torch.where(report.done, average, target))
        _become(now, then)
        return [*report, *by]

    return Form(function, (*held, weights, noise_like(sac, rows), *rows.values()))


def actor_form(sac: "SAC", rows: Tensors) -> Form:
    """Return the actor's step, and the temperature's, as a function of state, batch and noise."""
    check(sac)
    functions, optimizer, rules = Functions(sac), sac.actor_adam, sac.rules
    held, seen = actor_state(sac), seen_columns(sac, rows)

    def function(*tensors: Tensor) -> list[Tensor]:
        now, warmth = Moments(*tensors[:MOMENTS]), Moments(*tensors[MOMENTS : 2 * MOMENTS])
        judges, *buffers = tensors[2 * MOMENTS : len(held)]
        noise, *columns = tensors[len(held) :]
        batch = dict(zip(seen, columns, strict=True))
        free = now.weights.detach().requires_grad_(True)
        loss, entropy = regret(
            functions.law(free),
            functions.critics(judges),
            functions.see(batch, "obs.", now.weights, tuple(buffers)),
            noise,
            warmth.weights.exp(),
        )
        (gradient,) = torch.autograd.grad(loss, free)
        report = wanting(loss, entropy, gradient)
        by = correction(now.steps + 1, optimizer.lr)
        then = adam(now, gradient, by, optimizer.eps)
        excess = (entropy - rules.target_entropy).reshape(1)
        warmer = adam(warmth, excess, correction(warmth.steps + 1, optimizer.lr), optimizer.eps)
        _become(now, chosen(report.done, then, now))
        _become(warmth, chosen(report.done, warmer, warmth))
        return [*report, *by]

    return Form(function, (*held, noise_like(sac, rows), *seen.values()))


def judging(sac: "SAC", package: Package) -> Callable[[Tensors, Tensor, Tensor], CriticReport]:
    """Return the critics' step by a package of ``critic_form``."""
    held = critic_state(sac)
    return lambda rows, weights, noise: CriticReport(
        *package(*held, weights, noise, *packed(rows))[:-BESIDE]
    )


def acting(sac: "SAC", package: Package) -> Callable[[Tensors, Tensor], ActorReport]:
    """Return the actor's step by a package of ``actor_form``."""
    held = actor_state(sac)
    return lambda rows, noise: ActorReport(
        *package(*held, noise, *packed(seen_columns(sac, rows)))[:-BESIDE]
    )


def check(sac: "SAC") -> None:
    """Raise ``NotCompilable`` if a step draws numbers that are not handed to it."""
    if sac.config.dropout:
        raise NotCompilable("dropout draws numbers inside the update")


def critic_state(sac: "SAC") -> tuple[Tensor, ...]:
    """Return the tensors that the critics' step reads and changes."""
    mine = moments(sac.judges, sac.critic_adam)
    return (*mine, sac.target_judges, sac.actor, sac.warmth, *sac.policy.buffers())


def actor_state(sac: "SAC") -> tuple[Tensor, ...]:
    """Return the tensors that the actor's step reads and changes."""
    mine = moments(sac.actor, sac.actor_adam)
    return (*mine, *moments(sac.warmth, sac.temperature_adam), sac.judges, *sac.policy.buffers())


def moments(weights: Tensor, optimizer: FlatAdam) -> Moments:
    """Return weights with what is remembered of their gradients."""
    return Moments(weights, optimizer.mean, optimizer.square, optimizer.steps)


def seen_columns(sac: "SAC", rows: Tensors) -> Tensors:
    """Return the columns of what was seen before an action."""
    return {f"obs.{name}": rows[f"obs.{name}"] for name in sac.policy.inputs}


def noise_like(sac: "SAC", rows: Tensors) -> Tensor:
    """Return an example of noise."""
    luck = torch.Generator().manual_seed(1)
    shape = len(rows["ret"]), prod(sac.policy.shape)
    return torch.randn(shape, generator=luck).to(rows["ret"])


def _become(now: Moments, then: Moments) -> None:
    for before, after in zip(now, then, strict=True):
        before.copy_(after)
