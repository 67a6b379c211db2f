"""Deep Q-learning from replay, asynchronous as in Ape-X: clients explore, one learner updates.

Double (arXiv:1509.06461), dueling (1511.06581), n-step and prioritised (1511.05952), with
quantiles of the return (1710.10044); each of these is a setting.
"""

import copy
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from soulsai.algorithms.base import Skips, Stateful, Tensors
from soulsai.algorithms.compile.flat import FlatAdam, Gradient, flatten
from soulsai.algorithms.compile.form import Form, Package, examples
from soulsai.algorithms.dqn import compiled
from soulsai.algorithms.dqn.network import QPolicy
from soulsai.algorithms.dqn.settings import DQNSettings
from soulsai.algorithms.dqn.update import Learner, Luck, Report, Rules, update
from soulsai.algorithms.horizon import Horizon
from soulsai.algorithms.quantiles import quantile_huber_loss
from soulsai.algorithms.replay_learner import Experience, tensors
from soulsai.algorithms.vision import spectral_convolutions
from soulsai.types import Fragment, Metrics, Spec, zeros

METRICS_EVERY = 16  # updates; reading numbers out of torch costs time


class DQN:
    """Learns the values of discrete actions from experience of any age."""

    Config = DQNSettings

    def __init__(
        self, config: DQNSettings, spec: Spec, *, seed: int, steps: int, realtime: bool
    ) -> None:
        weights_seed, replay_seed, luck_seed = np.random.SeedSequence(seed).spawn(3)
        self.config = config
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(int(weights_seed.generate_state(1)[0]))
            self.policy = QPolicy(config, spec)
        self.target = copy.deepcopy(self.policy).requires_grad_(False)
        if config.act_with == "average":
            self.policy.show(self.target)
        if self.policy.observation.size:  # the target sees through the same statistics
            self.target.observation.mean = self.policy.observation.mean
            self.target.observation.inv_std = self.policy.observation.inv_std
        weights = flatten(self.policy)
        optimizer = FlatAdam(weights, lr=config.lr, eps=config.adam_eps)
        self.learner = Learner(
            online=self.policy,
            target=self.target,
            weights=weights,
            target_weights=flatten(self.target),
            gradient=Gradient(self.policy, weights),
            optimizer=optimizer,
        )
        self.rules = _rules(config)
        self.experience = Experience(
            config,
            spec,
            self.policy,
            rng=np.random.default_rng(replay_seed),
            steps=steps,
            realtime=realtime,
            horizon=_horizon(config),
            explore_steps=config.explore_steps,
            masks=config.munchausen > 0.0,
        )
        self.luck = torch.Generator(weights.device)
        self.luck.manual_seed(int(luck_seed.generate_state(1)[0]))
        self.skips = Skips(self.policy)
        self.step: Callable[[Tensors, Tensor, Luck], Report] = self._step
        self._spectral = spectral_convolutions(self.policy, self.target)
        self._metrics: Metrics = {}
        self.parts: dict[str, Stateful] = {
            "policy": self.policy,
            "target": self.target,
            "optimizer": optimizer,
            **self.experience.parts,
            "progress": self,
        }

    def learn(self, arrivals: Iterable[Sequence[Fragment]]) -> Iterator[Metrics]:
        """Update as often as the pace says; see ``Algorithm.learn``."""
        return self.experience.learn(arrivals, self._update)

    def _update(self) -> Metrics:
        if self.config.anneal_lr:
            self.learner.optimizer.lr = self.config.lr * self.experience.remaining
        batch = self.experience.sample()
        device = self.learner.weights.device
        rows, weights = tensors(batch.rows, device), torch.from_numpy(batch.weights).to(device)
        draw = self.policy.draw
        luck = Luck(*(draw(self.config.batch_size, self.luck) for _ in Luck._fields))
        report = self.step(rows, weights, luck)
        if report.done:
            self.experience.replay.update_priorities(batch.ids, report.error.cpu().numpy())
            for part in self._spectral:
                part.power_iteration()
        self.skips.count(skipped=not report.done)
        if not self._metrics or self.experience.pace.updates % METRICS_EVERY == 0:
            self._metrics = self._measured(report, luck)
        return self._metrics

    def _step(self, rows: Tensors, weights: Tensor, luck: Luck) -> Report:
        return update(self.learner, rows, weights, self.rules, luck)

    def forms(self) -> dict[str, Form]:
        """Return the update, to be compiled."""
        batch, device = self.config.batch_size, self.learner.weights.device
        columns = self.experience.columns.items()
        rows = examples(tensors({name: zeros(leaf, 0) for name, leaf in columns}, device), batch)
        chance = torch.Generator(device).manual_seed(0)
        luck = Luck(*(self.policy.draw(batch, chance) for _ in Luck._fields))
        return {"update": compiled.form(self.learner, self.rules, rows, luck)}

    def adopt(self, packages: Mapping[str, Package]) -> None:
        """Update by a compiled form of our own from now on."""
        self.step = compiled.updating(self.learner, packages["update"])

    def _measured(self, report: Report, luck: Luck) -> Metrics:
        loss = quantile_huber_loss(report.predicted, report.goal, luck.predicted.levels)
        return {
            "loss": loss.mean().item(),
            "q_mean": report.predicted.mean().item(),
            "td_error": report.error.abs().mean().item(),
            "grad_norm": report.norm.item(),
            "lr": self.learner.optimizer.lr,
            "replay_size": float(len(self.experience.replay)),
            "beta": self.experience.beta,
            "skipped": float(self.skips.total),
        }

    def state_dict(self) -> dict[str, Any]:
        """Return the account of steps and updates, and the source of luck."""
        pace = self.experience.pace.state_dict()
        return {"pace": pace, "skipped": self.skips.total, "luck": self.luck.get_state()}

    def load_state_dict(self, state_dict: dict[str, Any], /) -> None:
        """Go on from the account of another."""
        self.experience.go_on(state_dict["pace"])
        self.skips.restore(int(state_dict["skipped"]))
        if "luck" in state_dict:  # older checkpoints left nothing to it
            self.luck.set_state(state_dict["luck"].cpu())


def _rules(config: DQNSettings) -> Rules:
    return Rules(
        double=config.double,
        reward_scale=config.reward_scale,
        grad_clip=config.grad_clip,
        target_ema=config.target_ema,
        munchausen=config.munchausen,
        temperature=config.temperature,
        rescale=config.rescale_values,
    )


def _horizon(config: DQNSettings) -> Horizon:
    first = config.n_step_first, config.gamma_first
    return Horizon(config.n_step, config.gamma, *first, config.anneal_steps)
