"""Soft actor-critic (arXiv:1812.05905) with truncated quantile critics (2005.04269), from replay.

Quantiles, dropout, n-step returns and priorities are settings. One quantile is plain SAC;
``replay_ratio: 20, policy_delay: 20, dropout: 0.01`` is DroQ (2110.02034), for environments whose
steps are dear.
"""

import copy
import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from functools import partial
from math import prod
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from soulsai.algorithms.base import Policy, Skips, Stateful, Tensors
from soulsai.algorithms.compile.dense import Tower, keep_freed_memory
from soulsai.algorithms.compile.flat import FlatAdam, Gradient, flatten
from soulsai.algorithms.compile.form import Form, Package, examples
from soulsai.algorithms.networks import Encoder, Observation
from soulsai.algorithms.replay_learner import Experience, leaves, tensors
from soulsai.algorithms.sac import compiled
from soulsai.algorithms.sac.critics import Critics
from soulsai.algorithms.sac.settings import SACSettings
from soulsai.algorithms.sac.update import (
    ActorReport,
    CriticReport,
    Rules,
    found,
    judge,
    regret,
    wanting,
)
from soulsai.errors import ConfigError
from soulsai.types import Fragment, Head, Metrics, Spec, zeros

LOG_STD = -5.0, 2.0  # bounds of what the actor may say
METRICS_EVERY = 16  # updates; reading numbers out of torch costs time


class Actor(Policy):
    """The normal law that actions are drawn from, before tanh squashes them into -1..1."""

    def __init__(self, config: SACSettings, spec: Spec) -> None:
        head = Head("squashed", eval_fraction=config.eval_fraction)
        super().__init__(head, spec, outputs=("mean", "log_std"))
        self.shape = spec.action.shape
        self.observation = Observation(spec.seen, normalize=config.normalize_obs)
        self.encoder = Encoder(self.observation, (), layer_norm=False)
        self.tower = Tower(self.encoder.width, config.hidden, 2 * prod(self.shape))

    def forward(self, obs: Tensors, memory: Tensors) -> tuple[Tensors, Tensors]:
        """Return ``mean`` and ``log_std``, each in the action's shape."""
        mean, log_std = self.law(self.observation.parts(obs))
        shape = (-1, *self.shape)
        return {"mean": mean.reshape(shape), "log_std": log_std.reshape(shape)}, memory

    def law(self, parts: list[Tensor]) -> tuple[Tensor, Tensor]:
        """Map the parts of an observation to means and logarithms of deviations [B, A]."""
        mean, log_std = self.tower(self.encoder.features(parts)).chunk(2, dim=1)
        return mean, log_std.clamp(*LOG_STD)


class Temperature(nn.Module):
    """How much a nat of entropy is worth in reward."""

    def __init__(self, initial: float) -> None:
        super().__init__()
        self.log = nn.Parameter(torch.tensor([math.log(initial)]))

    @property
    def now(self) -> Tensor:
        """The temperature [1]."""
        return self.log.detach().exp()


class SAC:
    """Learns continuous actions from experience of any age."""

    Config = SACSettings

    def __init__(
        self, config: SACSettings, spec: Spec, *, seed: int, steps: int, realtime: bool
    ) -> None:
        keep_freed_memory()
        weights_seed, replay_seed, noise_seed = np.random.SeedSequence(seed).spawn(3)
        self.config = config
        self.rules = _rules(config, spec)
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(int(weights_seed.generate_state(1)[0]))
            self.policy = Actor(config, spec)
            self.critics = Critics(
                self.policy.observation,
                prod(spec.action.shape),
                config.hidden,
                count=config.critics,
                quantiles=config.quantiles,
                layer_norm=config.layer_norm,
                dropout=config.dropout,
            )
        self.target = copy.deepcopy(self.critics).requires_grad_(False)
        self.temperature = Temperature(config.temperature)
        self.actor, self.judges = flatten(self.policy), flatten(self.critics)
        self.warmth, self.target_judges = flatten(self.temperature), flatten(self.target)
        self._actor_gradient = Gradient(self.policy, self.actor)
        self._critic_gradient = Gradient(self.critics, self.judges)
        self.actor_adam = FlatAdam(self.actor, lr=config.lr, eps=config.adam_eps)
        self.critic_adam = FlatAdam(self.judges, lr=config.lr, eps=config.adam_eps)
        self.temperature_adam = FlatAdam(self.warmth, lr=config.lr, eps=config.adam_eps)
        self.judge: Callable[[Tensors, Tensor, Tensor], CriticReport] = self.judge_rows
        self.act: Callable[[Tensors, Tensor], ActorReport] = self.act_rows
        self._device = self.judges.device
        self._luck = torch.Generator(self._device).manual_seed(int(noise_seed.generate_state(1)[0]))
        rng = np.random.default_rng(replay_seed)
        self.experience = Experience(
            config, spec, self.policy, rng=rng, steps=steps, realtime=realtime
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
        """Update as often as the pace says; see ``Algorithm.learn``."""
        return self.experience.learn(arrivals, self._update)

    def _update(self) -> Metrics:
        """Do one gradient step of the critics, and now and then one of the actor."""
        updates = self.experience.pace.updates
        batch = self.experience.sample()
        rows = tensors(batch.rows, self._device)
        weights = torch.from_numpy(batch.weights).to(self._device)
        report = self.judge(rows, weights, self._noise(len(weights)))
        self.skips.count(skipped=not report.done)
        if not report.done:
            return self._metrics
        self.experience.replay.update_priorities(batch.ids, report.error.cpu().numpy())
        if updates % self.config.policy_delay == 0:
            self._improve(rows)
        if not self._metrics or updates % METRICS_EVERY == 0:
            self._metrics = {
                **self._metrics,
                "q_mean": report.predicted.mean().item(),
                "td_error": report.error.mean().item(),
                "grad_norm": report.norm.item(),
                "temperature": self.temperature.now.item(),
                "replay_size": float(len(self.experience.replay)),
                "skipped": float(self.skips.total),
            }
        return self._metrics

    def _improve(self, rows: Tensors) -> None:
        """Do one gradient step of the actor, and one of the temperature."""
        report = self.act(rows, self._noise(len(rows["ret"])))
        if not report.done:
            self.skips.total += 1
        elif self.experience.pace.updates % METRICS_EVERY == 0:
            self._metrics |= {
                "actor_loss": report.loss.item(),
                "entropy": report.entropy.item(),
            }

    def judge_rows(self, rows: Tensors, weights: Tensor, noise: Tensor) -> CriticReport:
        """Do one gradient step of the critics."""
        see = self.policy.observation.parts
        seen = see(leaves(rows, "obs.")), see(leaves(rows, "next_obs."))
        judges = partial(self.critics.quantiles, luck=self._luck)
        targets = partial(self.target.quantiles, luck=self._luck)
        now = self.temperature.now
        judged = judge(
            self.policy.law, judges, targets, seen, rows, weights, noise, now, self.rules
        )
        gradient = self._critic_gradient.of(judged.predicted, judged.slope)
        report = found(judged, gradient)
        if report.done:
            self.critic_adam.step(gradient)
            self.target_judges.lerp_(self.judges, self.rules.target_ema)
        return report

    def act_rows(self, rows: Tensors, noise: Tensor) -> ActorReport:
        """Do one gradient step of the actor and the temperature."""
        obs = self.policy.observation.parts(leaves(rows, "obs."))
        judges = partial(self.critics.quantiles, luck=self._luck)
        self.critics.requires_grad_(False)  # or their gradients would be computed, for nobody
        loss, entropy = regret(self.policy.law, judges, obs, noise, self.temperature.now)
        gradient = self._actor_gradient.of(loss, torch.ones_like(loss))
        self.critics.requires_grad_(True)
        loss = loss.detach()
        report = wanting(loss, entropy, gradient)
        if report.done:
            self.actor_adam.step(gradient)
            self.temperature_adam.step((entropy - self.rules.target_entropy).reshape(1))
        return report

    def _noise(self, batch: int) -> Tensor:
        shape = batch, prod(self.policy.shape)
        return torch.randn(shape, generator=self._luck, device=self._device)

    def forms(self) -> dict[str, Form]:
        """Return both steps of the update, to be compiled."""
        columns = self.experience.columns.items()
        empty = tensors({name: zeros(leaf, 0) for name, leaf in columns}, self._device)
        rows = examples(empty, self.config.batch_size)
        return {
            "critics": compiled.critic_form(self, rows, torch.ones_like(rows["ret"])),
            "actor": compiled.actor_form(self, rows),
        }

    def adopt(self, packages: Mapping[str, Package]) -> None:
        """Update by compiled forms of our own from now on."""
        self.judge = compiled.judging(self, packages["critics"])
        self.act = compiled.acting(self, packages["actor"])

    def state_dict(self) -> dict[str, Any]:
        """Return what belongs to no other part: the account, the source of noise, the skips."""
        pace = self.experience.pace.state_dict()
        return {"pace": pace, "luck": self._luck.get_state(), "skipped": self.skips.total}

    def load_state_dict(self, state_dict: dict[str, Any], /) -> None:
        """Go on where another left off."""
        self.experience.go_on(state_dict["pace"])
        self._luck.set_state(state_dict["luck"].cpu())
        self.skips.restore(int(state_dict["skipped"]))


def _rules(config: SACSettings, spec: Spec) -> Rules:
    if not np.isfinite((*spec.action.low, *spec.action.high)).all():
        raise ConfigError("algorithm.name: sac needs actions with finite bounds; choose ppo")
    return Rules(
        drop=config.drop,
        reward_scale=config.reward_scale,
        target_ema=config.target_ema,
        target_entropy=config.entropy_per_dim * prod(spec.action.shape),
    )
