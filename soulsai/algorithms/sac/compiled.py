"""Both steps of soft actor-critic as functions of flat vectors, to be compiled."""

from collections.abc import Callable
from math import prod
from typing import Protocol

import torch
from torch import Tensor

from soulsai.algorithms.base import Tensors
from soulsai.algorithms.compile.flat import (
    CORRECTIONS,
    Correction,
    Corrections,
    FlatAdam,
    Moments,
    adam,
    chosen,
    compiled_norm,
    gradients,
)
from soulsai.algorithms.compile.form import Form, Functional, NotCompilable, Package
from soulsai.algorithms.demonstrations import IMITATION
from soulsai.algorithms.sac.network import Critics, SquashedActor
from soulsai.algorithms.sac.update import (
    ActorFunction,
    ActorReport,
    CriticFunction,
    CriticReport,
    Hyperparameters,
    actor_loss,
    actor_report,
    critic_loss,
    critic_report,
    imitation_in,
)

MOMENTS = 4  # tensors of ``Moments``


class SACState(Protocol):
    """The parts of the learner that its steps read and change."""

    policy: SquashedActor
    critics: Critics
    constants: Hyperparameters
    actor_weights: Tensor
    critic_weights: Tensor
    target_weights: Tensor
    log_temperature: Tensor
    actor_adam: FlatAdam
    critic_adam: FlatAdam
    temperature_adam: FlatAdam


class FunctionalNetworks:
    """Actor and critics as functions of their parameters."""

    def __init__(self, sac: SACState) -> None:
        self._names = names = sac.policy.inputs
        observation = sac.policy.observation
        self._parts = Functional(
            sac.policy, lambda _, *raw: observation.parts(dict(zip(names, raw, strict=True)))
        )
        self._actor = Functional(sac.policy, lambda policy, parts: policy.parameters_of(parts))
        self._critics = Functional(
            sac.critics, lambda critics, parts, action: critics.quantiles(parts, action, None)
        )

    def parts(
        self, rows: Tensors, prefix: str, actor: Tensor, buffers: tuple[Tensor, ...]
    ) -> list[Tensor]:
        """Return the parts of observations.

        Args:
            rows: Columns [B, ...].
            prefix: Prefix of the observation's columns.
            actor: The actor's parameters [P].
            buffers: The actor's buffers, with the statistics of observations.
        """
        parts: list[Tensor] = self._parts.at(actor, buffers)(
            *(rows[prefix + name] for name in self._names)
        )
        return parts

    def actor(self, weights: Tensor) -> ActorFunction:
        """Return the policy with given parameters [P]."""
        return self._actor.at(weights, self._actor.buffers)

    def critics(self, weights: Tensor) -> CriticFunction:
        """Return the critics with given parameters [P]."""
        return self._critics.at(weights, ())


def critic_form(sac: SACState, rows: Tensors, weights: Tensor) -> Form:
    """Return the critic step as a function of state, importance weights, noise and batch.

    Args:
        sac: The learner.
        rows: An example of a batch [B, ...].
        weights: An example of importance weights [B].

    Raises:
        NotCompilable: Dropout draws numbers inside the update, or a network has buffers.
    """
    _check_compilable(sac)
    networks, optimizer, constants = FunctionalNetworks(sac), sac.critic_adam, sac.constants
    state, shared = _critic_state(sac), (*_critic_corrections(sac), *_critic_read(sac))

    def step(*tensors: Tensor) -> list[Tensor]:
        now, target, rest = Moments(*tensors[:MOMENTS]), tensors[MOMENTS], tensors[len(state) :]
        by = Corrections(*rest[:CORRECTIONS]).at(now.steps)
        actor, log_temperature, *buffers = rest[CORRECTIONS : len(shared)]
        importance, noise, *columns = rest[len(shared) :]
        batch = dict(zip(rows, columns, strict=True))
        free = now.weights.detach().requires_grad_(True)
        loss = critic_loss(
            networks.actor(actor),
            networks.critics(free),
            networks.critics(target),
            (
                networks.parts(batch, "obs.", actor, tuple(buffers)),
                networks.parts(batch, "next_obs.", actor, tuple(buffers)),
            ),
            batch,
            importance,
            noise,
            log_temperature.exp(),
            constants,
        )
        (gradient,) = gradients(loss.predicted, loss.slope, [free])
        report = critic_report(loss, compiled_norm(gradient))
        after = chosen(report.done, adam(now, gradient, by, optimizer.eps), now)
        average = torch.lerp(target, after.weights, constants.target_ema)
        return [*after, torch.where(report.done, average, target), *report, *by]

    each = (weights, _noise_example(sac, rows), *rows.values())
    return Form(step, state, shared, tuple(one[None] for one in each))


def actor_form(sac: SACState, rows: Tensors) -> Form:
    """Return the step of actor and temperature as a function of state, noise and batch.

    Args:
        sac: The learner.
        rows: An example of a batch [B, ...].

    Raises:
        NotCompilable: Dropout draws numbers inside the update, or a network has buffers.
    """
    _check_compilable(sac)
    networks, optimizer, constants = FunctionalNetworks(sac), sac.actor_adam, sac.constants
    state, shared = _actor_state(sac), (*_actor_corrections(sac), *_actor_read(sac))
    given = _actor_columns(sac, rows)

    def step(*tensors: Tensor) -> list[Tensor]:
        now, rest = Moments(*tensors[:MOMENTS]), tensors[len(state) :]
        temperature = Moments(*tensors[MOMENTS : len(state)])
        by = Corrections(*rest[:CORRECTIONS]).at(now.steps)
        by_temperature = Corrections(*rest[CORRECTIONS : 2 * CORRECTIONS]).at(temperature.steps)
        critics, *buffers = rest[2 * CORRECTIONS : len(shared)]
        noise, *columns = rest[len(shared) :]
        batch = dict(zip(given, columns, strict=True))
        free = now.weights.detach().requires_grad_(True)
        loss, entropy = actor_loss(
            networks.actor(free),
            networks.critics(critics),
            networks.parts(batch, "obs.", now.weights, tuple(buffers)),
            noise,
            temperature.weights.exp(),
            imitation_in(batch),
        )
        (gradient,) = torch.autograd.grad(loss, free)
        report = actor_report(loss, entropy, compiled_norm(gradient))
        after = adam(now, gradient, by, optimizer.eps)
        excess = (entropy - constants.target_entropy).reshape(1)
        temperature_after = adam(temperature, excess, by_temperature, optimizer.eps)
        return [
            *chosen(report.done, after, now),
            *chosen(report.done, temperature_after, temperature),
            *report,
            *by,
        ]

    each = (_noise_example(sac, rows), *given.values())
    return Form(step, state, shared, tuple(one[None] for one in each))


def compiled_critic_step(
    sac: SACState, package: Package
) -> Callable[[Tensors, Tensor, Tensor], CriticReport]:
    """Return the critic step of a compiled ``critic_form``."""
    once, read = _once(package, _critic_state(sac)), _critic_read(sac)
    return lambda rows, weights, noise: CriticReport(
        *once((*_critic_corrections(sac), *read), (weights, noise, *rows.values()))
    )


def compiled_actor_step(
    sac: SACState, package: Package
) -> Callable[[Tensors, Tensor], ActorReport]:
    """Return the actor step of a compiled ``actor_form``."""
    once, read = _once(package, _actor_state(sac)), _actor_read(sac)
    return lambda rows, noise: ActorReport(
        *once((*_actor_corrections(sac), *read), (noise, *_actor_columns(sac, rows).values()))
    )


def _once(
    package: Package, state: tuple[Tensor, ...]
) -> Callable[[tuple[Tensor, ...], tuple[Tensor, ...]], list[Tensor]]:
    """Return a function that does one step and returns its results, without its corrections."""
    count = torch.tensor(1, device=state[0].device)

    def step(shared: tuple[Tensor, ...], each: tuple[Tensor, ...]) -> list[Tensor]:
        rows = (one.contiguous()[None] for one in each)
        results = package(*state, *shared, count, *rows)
        return [result[0] for result in results[: -len(Correction._fields)]]

    return step


def _check_compilable(sac: SACState) -> None:
    if any(tower.dropout for tower in sac.critics.towers):
        raise NotCompilable("dropout draws numbers inside the update")
    buffers = [name for name, _ in (*sac.policy.named_buffers(), *sac.critics.named_buffers())]
    if not all(name.startswith("observation.") for name in buffers):
        raise NotCompilable("this network has buffers of its own")


def _critic_state(sac: SACState) -> tuple[Tensor, ...]:
    """Return the tensors that the critic step changes."""
    return (*_moments(sac.critic_weights, sac.critic_adam), sac.target_weights)


def _critic_corrections(sac: SACState) -> tuple[Tensor, ...]:
    return sac.critic_adam.corrections(1)


def _critic_read(sac: SACState) -> tuple[Tensor, ...]:
    """Return the tensors that the critic step reads, and others change."""
    return (sac.actor_weights, sac.log_temperature, *sac.policy.buffers())


def _actor_state(sac: SACState) -> tuple[Tensor, ...]:
    """Return the tensors that the actor step changes."""
    return (
        *_moments(sac.actor_weights, sac.actor_adam),
        *_moments(sac.log_temperature, sac.temperature_adam),
    )


def _actor_corrections(sac: SACState) -> tuple[Tensor, ...]:
    return (*sac.actor_adam.corrections(1), *sac.temperature_adam.corrections(1))


def _actor_read(sac: SACState) -> tuple[Tensor, ...]:
    """Return the tensors that the actor step reads, and others change."""
    return (sac.critic_weights, *sac.policy.buffers())


def _moments(weights: Tensor, optimizer: FlatAdam) -> Moments:
    return Moments(weights, optimizer.mean, optimizer.square, optimizer.steps)


def _actor_columns(sac: SACState, rows: Tensors) -> Tensors:
    """Return the columns of a batch that the step of the actor reads."""
    imitated = ("action", IMITATION) if IMITATION in rows else ()
    return {name: rows[name] for name in (*(f"obs.{n}" for n in sac.policy.inputs), *imitated)}


def _noise_example(sac: SACState, rows: Tensors) -> Tensor:
    generator = torch.Generator().manual_seed(1)
    shape = len(rows["ret"]), prod(sac.policy.shape)
    return torch.randn(shape, generator=generator).to(rows["ret"])
