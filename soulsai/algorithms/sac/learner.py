"""Soft actor-critic (arXiv:1812.05905) with truncated quantile critics (2005.04269), from replay.

Quantiles, dropout, n-step returns and priorities are settings. One quantile is plain SAC;
``replay_ratio: 20, policy_delay: 20, dropout: 0.01`` is DroQ (2110.02034), for environments with
expensive steps.
"""

import copy
import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from functools import partial
from math import prod
from typing import Any

import numpy as np
import torch
from torch import Tensor

from soulsai.algorithms.base import Skips, Stateful, Tensors
from soulsai.algorithms.compile.flat import FlatAdam, Gradient, flatten
from soulsai.algorithms.compile.form import Form, Package, examples
from soulsai.algorithms.demonstrations import action_agreement, insert_part, measured
from soulsai.algorithms.distributions import squashed_log_prob
from soulsai.algorithms.replay_learner import Experience, leaves, tensors
from soulsai.algorithms.sac import compiled
from soulsai.algorithms.sac.network import Critics, SquashedActor, Temperature
from soulsai.algorithms.sac.settings import SACSettings
from soulsai.algorithms.sac.update import (
    SAMPLES,
    ActorReport,
    CriticLoss,
    CriticReport,
    Hyperparameters,
    actor_loss,
    actor_report,
    conservative_penalty,
    critic_loss,
    critic_report,
    imitation_in,
)
from soulsai.algorithms.settings import DemonstrationSettings
from soulsai.replay.ring import Batch
from soulsai.types import Fragment, Metrics, Spec, zeros

GAUSSIAN_ENTROPY = 0.5 * math.log(2.0 * math.pi * math.e)  # of deviation 1, in nats
METRICS_EVERY = 64  # updates; copying numbers out of torch costs time


class SAC:
    """Learns continuous actions from experience of any age.

    Args:
        config: The settings.
        spec: Observations and actions of the environment.
        seed: Seed of weights, replay and noise.
        steps: Planned env steps; 0: unknown.
        realtime: Whether environments cannot wait for the learner.
    """

    Config = SACSettings

    def __init__(
        self, config: SACSettings, spec: Spec, *, seed: int, steps: int, realtime: bool
    ) -> None:
        weights_seed, replay_seed, noise_seed = np.random.SeedSequence(seed).spawn(3)
        self.config, self._spec = config, spec
        self.constants = _hyperparameters(config, spec)
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(int(weights_seed.generate_state(1)[0]))
            self.policy = SquashedActor(config, spec)
            observation, actions = self.policy.observation, prod(self.policy.shape)
            self.critics = Critics(config, observation, actions)
        self.target = copy.deepcopy(self.critics).requires_grad_(False)
        self.temperature = Temperature(config.temperature)
        self.actor_weights, self.critic_weights = flatten(self.policy), flatten(self.critics)
        self.log_temperature = flatten(self.temperature)
        self.target_weights = flatten(self.target)
        self._actor_gradient = Gradient(self.policy, self.actor_weights)
        self._critic_gradient = Gradient(self.critics, self.critic_weights)
        self.actor_adam = FlatAdam(self.actor_weights, lr=config.lr, eps=config.adam_eps)
        self.critic_adam = FlatAdam(self.critic_weights, lr=config.lr, eps=config.adam_eps)
        self.temperature_adam = FlatAdam(self.log_temperature, lr=config.lr, eps=config.adam_eps)
        self.critic_step: Callable[[Tensors, Tensor, Tensor], CriticReport] = self.eager_critic_step
        self.actor_step: Callable[[Tensors, Tensor], ActorReport] = self.eager_actor_step
        self._device = self.critic_weights.device
        self._generator = torch.Generator(self._device)
        self._generator.manual_seed(int(noise_seed.generate_state(1)[0]))
        rng = np.random.default_rng(replay_seed)
        self.experience = Experience(
            config,
            spec,
            self.policy,
            self.policy.observation,
            rng=rng,
            steps=steps,
            realtime=realtime,
        )
        self.skips = Skips(self.policy)
        self._metrics: Metrics = {}
        self.parts: dict[str, Stateful] = {
            "policy": self.policy,
            "critics": self.critics,
            "target": self.target,
            "temperature": self.temperature,
            "actor_adam": self.actor_adam,
            "critic_adam": self.critic_adam,
            "temperature_adam": self.temperature_adam,
            **self.experience.parts,
            "progress": self,
        }

    def learn(self, arrivals: Iterable[Sequence[Fragment]]) -> Iterator[Metrics]:
        """Update at the configured pace; see ``Algorithm.learn``."""
        return self.experience.learn(arrivals, self._updates, self._clone)

    def prepare_demonstrations(self, settings: DemonstrationSettings) -> None:
        """Make a second replay for demonstrations; see ``LearnsFromDemonstrations``."""
        insert_part(self.parts, self.experience.prepare_demonstrations(settings))

    def demonstrate(self, episodes: Sequence[Fragment]) -> None:
        """Add whole episodes to the demonstrations."""
        self.experience.demonstrate(episodes)

    def _clone(self) -> Metrics:
        """Do one update of behaviour cloning, and one of the critics, on demonstrations."""
        batch = self.experience.sample_demonstrations()
        rows = tensors(batch.rows, self._device)
        weights = torch.from_numpy(batch.weights).to(self._device)
        critic = self.critic_step(rows, weights, self._noise(len(weights)))
        obs = self.policy.observation.parts(leaves(rows, "obs."))
        mean, log_std = self.policy.parameters_of(obs)
        # The likeliest deviation is near zero, far below the entropy that the temperature holds.
        least = self.config.entropy_per_dim - GAUSSIAN_ENTROPY
        logp = squashed_log_prob(mean, log_std.clamp_min(least), rows["action"].flatten(1))
        loss = -(weights * logp).mean()
        gradient = self._actor_gradient.of(loss)
        done = bool(critic.done) and bool(torch.linalg.vector_norm(gradient).isfinite())
        self.skips.count(skipped=not done)
        if done:
            self.actor_adam.step(gradient)
        return {
            "clone_loss": loss.item(),
            "demonstration_agreement": self._agreement(mean.detach(), rows["action"]),
            "q_mean": critic.predicted.mean().item(),
            "td_error": critic.error.mean().item(),
            "skipped": float(self.skips.total),
        }

    def offline_update(self, conservative: float) -> Metrics:
        """Do one update of critics and actor on demonstrations; see ``LearnsOffline``."""
        batch = self.experience.sample_demonstrations()
        rows = tensors(batch.rows, self._device)
        weights = torch.from_numpy(batch.weights).to(self._device)
        loss = self._critic_loss(rows, weights, self._noise(len(weights)))
        penalty = self._conservative_penalty(rows)
        total = (loss.predicted * loss.slope).sum() + conservative * (weights * penalty).mean()
        report = self._step_critics(loss, self._critic_gradient.of(total))
        self.skips.count(skipped=not report.done)
        actor = self.actor_step(rows, self._noise(len(weights)))
        return {
            "q_mean": report.predicted.mean().item(),
            "td_error": report.error.mean().item(),
            "actor_loss": actor.loss.item(),
            "conservative_penalty": penalty.mean().item(),
            "skipped": float(self.skips.total),
        }

    def _conservative_penalty(self, rows: Tensors) -> Tensor:
        """Return the penalty [B] of a batch; see ``update.conservative_penalty``."""
        size = len(rows["ret"])
        obs = self.policy.observation.parts(leaves(rows, "obs."))
        noise = self._noise(SAMPLES * size)
        uniform = 2.0 * torch.rand(noise.shape, generator=self._generator, device=self._device) - 1
        critics = partial(self.critics.quantiles, generator=self._generator)
        action = rows["action"].flatten(1)
        return conservative_penalty(self.policy.parameters_of, critics, obs, action, noise, uniform)

    def _agreement(self, mean: Tensor, action: Tensor) -> float:
        return action_agreement(self._spec.action, mean.tanh(), action).item()

    @torch.no_grad()
    def _shown(self, rows: Tensors) -> Metrics:
        """Return the metrics of the demonstrations in a batch."""
        experience, shown = self.experience, self.experience.shown
        if experience.demonstrations is None or not shown:
            return {}
        last = {name: column[-shown:] for name, column in rows.items()}
        mean, _ = self.policy.parameters_of(self.policy.observation.parts(leaves(last, "obs.")))
        metrics = measured(experience.demonstrations, shown, self.config.batch_size)
        distance = (mean.tanh() - last["action"].flatten(1)).square().mean()
        return metrics | {
            "demonstration_agreement": self._agreement(mean, last["action"]),
            "imitation_loss": distance.item(),
            "imitation_weight": experience.imitation,
        }

    def _updates(self, batch: Batch, count: int) -> Iterator[Metrics]:
        done, errors = [], []
        for part in batch.split(count):
            critic = self._update(part)
            done.append(critic.done)
            errors.append(critic.error)
            if len(done) == count:
                self.experience.update_priorities(batch, torch.stack(errors), torch.stack(done))
            yield self._metrics

    def _update(self, batch: Batch) -> CriticReport:
        """Step the critics, and every ``policy_delay`` updates actor and temperature."""
        updates = self.experience.pace.updates
        rows = tensors(batch.rows, self._device)
        weights = torch.from_numpy(batch.weights).to(self._device)
        critic = self.critic_step(rows, weights, self._noise(len(weights)))
        self.skips.count(skipped=not critic.done)
        if not critic.done:
            return critic
        if updates % self.config.policy_delay == 0:
            actor = self.actor_step(rows, self._noise(len(weights)))
            if not actor.done:
                self.skips.total += 1
            elif updates % METRICS_EVERY == 0:
                self._metrics |= {"actor_loss": actor.loss.item(), "entropy": actor.entropy.item()}
        if not self._metrics or updates % METRICS_EVERY == 0:
            self._metrics = {
                **self._metrics,
                "q_mean": critic.predicted.mean().item(),
                "td_error": critic.error.mean().item(),
                "grad_norm": critic.norm.item(),
                "temperature": self.temperature.value.item(),
                "replay_size": float(len(self.experience.replay)),
                "skipped": float(self.skips.total),
                **self._shown(rows),
            }
        return critic

    def eager_critic_step(self, rows: Tensors, weights: Tensor, noise: Tensor) -> CriticReport:
        """Do one gradient step of the critics, and move their targets.

        Args:
            rows: A batch of transitions [B, ...].
            weights: Importance weights [B].
            noise: Standard normal noise [B, A] of the next actions.
        """
        loss = self._critic_loss(rows, weights, noise)
        return self._step_critics(loss, self._critic_gradient.of(loss.predicted, loss.slope))

    def _critic_loss(self, rows: Tensors, weights: Tensor, noise: Tensor) -> CriticLoss:
        parts = self.policy.observation.parts
        return critic_loss(
            self.policy.parameters_of,
            partial(self.critics.quantiles, generator=self._generator),
            partial(self.target.quantiles, generator=self._generator),
            (parts(leaves(rows, "obs.")), parts(leaves(rows, "next_obs."))),
            rows,
            weights,
            noise,
            self.temperature.value,
            self.constants,
        )

    def _step_critics(self, loss: CriticLoss, gradient: Tensor) -> CriticReport:
        report = critic_report(loss, torch.linalg.vector_norm(gradient))
        if report.done:
            self.critic_adam.step(gradient)
            self.target_weights.lerp_(self.critic_weights, self.constants.target_ema)
        return report

    def eager_actor_step(self, rows: Tensors, noise: Tensor) -> ActorReport:
        """Do one gradient step of actor and temperature; ``noise`` [B, A] is standard normal."""
        obs = self.policy.observation.parts(leaves(rows, "obs."))
        critics = partial(self.critics.quantiles, generator=self._generator)
        self.critics.requires_grad_(False)  # or unused gradients would be computed
        loss, entropy = actor_loss(
            self.policy.parameters_of, critics, obs, noise, self.temperature.value,
            imitation_in(rows),
        )  # fmt: skip
        gradient = self._actor_gradient.of(loss)
        self.critics.requires_grad_(True)
        report = actor_report(loss, entropy, torch.linalg.vector_norm(gradient))
        if report.done:
            self.actor_adam.step(gradient)
            self.temperature_adam.step((entropy - self.constants.target_entropy).reshape(1))
        return report

    def _noise(self, batch: int) -> Tensor:
        shape = batch, prod(self.policy.shape)
        return torch.randn(shape, generator=self._generator, device=self._device)

    @property
    def hidden_product(self) -> tuple[int, int]:
        """The rows of a batch, and the width of the widest hidden layer."""
        return self.config.batch_size, max(self.config.hidden, default=1)

    def forms(self) -> dict[str, Form]:
        """Return both steps in a form that can be compiled."""
        columns = self.experience.batch_columns.items()
        empty = tensors({name: zeros(leaf, 0) for name, leaf in columns}, self._device)
        rows = examples(empty, self.config.batch_size)
        return {
            "critics": compiled.critic_form(self, rows, torch.ones_like(rows["ret"])),
            "actor": compiled.actor_form(self, rows),
        }

    def adopt(self, packages: Mapping[str, Package]) -> None:
        """Use compiled steps from now on."""
        self.critic_step = compiled.compiled_critic_step(self, packages["critics"])
        self.actor_step = compiled.compiled_actor_step(self, packages["actor"])

    def state_dict(self) -> dict[str, Any]:
        """Return the state of the pace, the generator and the skipped updates."""
        pace = self.experience.pace.state_dict()
        return {"pace": pace, "luck": self._generator.get_state(), "skipped": self.skips.total}

    def load_state_dict(self, state_dict: dict[str, Any], /) -> None:
        """Load a state; the replay is loaded before."""
        self.experience.restore(state_dict["pace"])
        self._generator.set_state(state_dict["luck"].cpu())
        self.skips.restore(int(state_dict["skipped"]))


def _hyperparameters(config: SACSettings, spec: Spec) -> Hyperparameters:
    return Hyperparameters(
        drop=config.drop,
        reward_scale=config.reward_scale,
        target_ema=config.target_ema,
        target_entropy=config.entropy_per_dim * prod(spec.action.shape),
    )
