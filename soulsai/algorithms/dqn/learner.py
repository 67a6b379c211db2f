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
from soulsai.algorithms.demonstrations import insert_part, measured
from soulsai.algorithms.dqn.cloning import clone, conservative_update
from soulsai.algorithms.dqn.compiled import compiled_updates, updates_form
from soulsai.algorithms.dqn.margin import large_margin_loss
from soulsai.algorithms.dqn.network import QPolicy
from soulsai.algorithms.dqn.settings import DQNSettings
from soulsai.algorithms.dqn.update import (
    NO_UPDATE_NOISE,
    Learner,
    Report,
    UpdateNoise,
    best_action,
    update,
)
from soulsai.algorithms.n_step_returns import Horizon
from soulsai.algorithms.quantiles import quantile_huber_loss
from soulsai.algorithms.replay_learner import Experience, leaves, tensors
from soulsai.algorithms.settings import DemonstrationSettings
from soulsai.algorithms.vision import spectral_convolutions
from soulsai.replay.ring import Batch, in_parts
from soulsai.types import MASK, Fragment, Metrics, Spec, zeros

METRICS_EVERY = 64  # updates; reading numbers out of torch takes time


class DQN:
    """Learns the values of discrete actions from experience of any age."""

    Config = DQNSettings

    def __init__(
        self, config: DQNSettings, spec: Spec, *, seed: int, steps: int, realtime: bool
    ) -> None:
        weights_seed, replay_seed, noise_seed = np.random.SeedSequence(seed).spawn(3)
        self.config = config
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(_number(weights_seed))
            self.policy = QPolicy(config, spec)
        self.target = copy.deepcopy(self.policy).requires_grad_(False)
        if config.act_with == "average":
            self.policy.act_with(self.target)
        if self.policy.observation.size:  # both networks share the statistics of observations
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
        first = config.n_step_first, config.gamma_first
        self.experience = Experience(
            config,
            spec,
            self.policy,
            self.policy.observation,
            rng=np.random.default_rng(replay_seed),
            steps=steps,
            realtime=realtime,
            horizon=Horizon(config.n_step, config.gamma, *first, config.anneal_steps),
            explore_steps=config.explore_steps,
            masks=config.munchausen > 0.0,
        )
        self.rng = torch.Generator(weights.device).manual_seed(_number(noise_seed))
        self.skips = Skips(self.policy)
        self.steps: Callable[[Tensors, Tensor, Sequence[UpdateNoise]], Report] = self._steps
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
        """Update as often as the pace allows; see ``Algorithm.learn``."""
        return self.experience.learn(arrivals, self._updates, self._clone)

    def prepare_demonstrations(self, settings: DemonstrationSettings) -> None:
        """Make a second replay for demonstrations; see ``LearnsFromDemonstrations``."""
        insert_part(self.parts, self.experience.prepare_demonstrations(settings))

    def demonstrate(self, episodes: Sequence[Fragment]) -> None:
        """Add whole episodes to the demonstrations."""
        self.experience.demonstrate(episodes)

    def _clone(self) -> Metrics:
        """Do one update of behaviour cloning."""
        batch = self.experience.sample_demonstrations()
        device = self.learner.weights.device
        rows, weights = tensors(batch.rows, device), torch.from_numpy(batch.weights).to(device)
        noise = self._noise(self.rng)
        report, margin, agreement = clone(self.learner, rows, weights, self.config, noise)
        self.skips.count(skipped=not report.done)
        if report.done:
            for part in self._spectral:
                part.power_iteration()
        return self._measured(report, noise) | {
            "clone_loss": margin.item(),
            "demonstration_agreement": agreement.item(),
        }

    def _updates(self, batch: Batch, count: int) -> Iterator[Metrics]:
        if self.config.anneal_lr:
            self.learner.optimizer.lr = self.config.lr * self.experience.remaining
        device = self.learner.weights.device
        rows = tensors({name: in_parts(each, count) for name, each in batch.rows.items()}, device)
        weights = torch.from_numpy(in_parts(batch.weights, count)).to(device)
        noise = [self._noise(self.rng) for _ in range(count)]
        report = self.steps(rows, weights, noise)
        for done in report.done.tolist():
            self.skips.count(skipped=not done)
        self.experience.update_priorities(batch, report.error, report.done)
        for index in range(count):
            if not self._metrics or self.experience.pace.updates % METRICS_EVERY == 0:
                one = Report(*(result[index] for result in report))
                shown = self._shown({name: column[index] for name, column in rows.items()})
                self._metrics = self._measured(one, noise[index]) | shown
            yield self._metrics

    def _steps(self, rows: Tensors, weights: Tensor, noise: Sequence[UpdateNoise]) -> Report:
        """Do K updates with columns and weights [K, B, ...], and the noise of each."""
        reports = []
        for index, drawn in enumerate(noise):
            own = {name: column[index] for name, column in rows.items()}
            report = update(self.learner, own, weights[index], self.config, drawn)
            if report.done:
                for part in self._spectral:
                    part.power_iteration()
            reports.append(report)
        return Report(*map(torch.stack, zip(*reports, strict=True)))

    def offline_update(self, conservative: float) -> Metrics:
        """Do one update on demonstrations alone; see ``LearnsOffline``."""
        batch = self.experience.sample_demonstrations()
        device = self.learner.weights.device
        rows, weights = tensors(batch.rows, device), torch.from_numpy(batch.weights).to(device)
        noise = self._noise(self.rng)
        report, penalty = conservative_update(
            self.learner, rows, weights, self.config, conservative, noise
        )
        self.skips.count(skipped=not report.done)
        if report.done and self.experience.demonstrations is not None:
            errors = report.error.cpu().numpy()
            self.experience.demonstrations.replay.update_priorities(batch.ids, errors)
        return self._measured(report, noise) | {"conservative_penalty": penalty.item()}

    @torch.no_grad()
    def _shown(self, batch: Tensors) -> Metrics:
        """Return the metrics of the demonstrations in a batch."""
        experience, shown = self.experience, self.experience.shown
        if experience.demonstrations is None or not shown:
            return {}
        rows = {name: column[-shown:] for name, column in batch.items()}
        memory = {name: zeros(leaf, shown) for name, leaf in self.policy.memory.items()}
        device = self.learner.weights.device
        q = self.policy(leaves(rows, "obs."), tensors(memory, device))[0]["q"]
        mask, sizes = rows.get(f"obs.{MASK}"), self.policy.sizes
        best = best_action(q, mask, sizes)
        agreement = (best == rows["action"].long()).float().mean().item()
        metrics = measured(experience.demonstrations, shown, self.config.batch_size)
        return metrics | {
            "demonstration_agreement": agreement,
            "imitation_loss": large_margin_loss(q, rows["action"], mask, sizes).mean().item(),
            "imitation_weight": experience.imitation,
        }

    def _noise(self, rng: torch.Generator) -> UpdateNoise:
        if not self.config.sampled and not self.config.noisy:
            return NO_UPDATE_NOISE
        return UpdateNoise(
            *(self.policy.draw(self.config.batch_size, rng) for _ in UpdateNoise._fields)
        )

    @property
    def hidden_product(self) -> tuple[int, int]:
        """The rows of a batch, and the width of the widest hidden layer."""
        return self.config.batch_size, max(self.config.hidden, default=1)

    def forms(self) -> dict[str, Form]:
        """Return the updates as a form to compile."""
        device = self.learner.weights.device
        columns = {name: zeros(leaf, 0) for name, leaf in self.experience.batch_columns.items()}
        rows = examples(tensors(columns, device), self.config.batch_size)
        noise = self._noise(torch.Generator(device).manual_seed(0))
        most = self.experience.most_updates
        return {"updates": updates_form(self.learner, self.config, rows, noise, most)}

    def adopt(self, packages: Mapping[str, Package]) -> None:
        """Run the compiled package of the updates from now on."""
        most = self.experience.most_updates
        self.steps = compiled_updates(self.learner, packages["updates"], most)

    def _measured(self, report: Report, noise: UpdateNoise) -> Metrics:
        levels, components = noise.predicted.levels, len(self.policy.sizes)
        if levels is not None:
            levels = levels.repeat_interleave(components, 0)
        loss = quantile_huber_loss(report.predicted, report.goal, levels)
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
        """Return the account of steps and updates, and the state of the random generator."""
        pace = self.experience.pace.state_dict()
        return {"pace": pace, "skipped": self.skips.total, "luck": self.rng.get_state()}

    def load_state_dict(self, state_dict: dict[str, Any], /) -> None:
        """Restore a saved state."""
        self.experience.restore(state_dict["pace"])
        self.skips.restore(int(state_dict["skipped"]))
        if "luck" in state_dict:  # absent in the oldest checkpoints
            self.rng.set_state(state_dict["luck"].cpu())


def _number(seed: np.random.SeedSequence) -> int:
    return int(seed.generate_state(1)[0])
