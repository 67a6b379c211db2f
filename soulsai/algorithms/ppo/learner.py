"""Proximal policy optimisation (arXiv:1707.06347) for clients that join, lag and leave.

The behaviour policy, which acted, and the proximal policy, which bounds the update, are decoupled
(arXiv:2110.00641): importance weights correct for the first, clipping refers to the second. With
fresh experience both are equal, and this is plain PPO.
"""

import logging
import math
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any

import msgspec
import numpy as np
import torch
from msgspec import Struct
from torch import Tensor, nn

from soulsai.algorithms.base import Skips, Stateful, Tensors, remaining
from soulsai.algorithms.compile.flat import FlatAdam, Gradient, flatten
from soulsai.algorithms.demonstrations import (
    DemonstrationRollouts,
    action_agreement,
    insert_part,
    interventions,
)
from soulsai.algorithms.distributions import Distribution, distribution
from soulsai.algorithms.normalize import ObservationNormalizer
from soulsai.algorithms.ppo.batches import Batches
from soulsai.algorithms.ppo.estimates import (
    RewardScale,
    explained_variance,
    gae,
    standardized,
    surrogate,
    vtrace,
)
from soulsai.algorithms.ppo.network import ActorCritic, Feedforward
from soulsai.algorithms.ppo.recurrent import Recurrent, RecurrentActor
from soulsai.algorithms.ppo.rollouts import Rollout, client_weights, lay_out
from soulsai.algorithms.ppo.settings import PPOSettings, resolve
from soulsai.algorithms.settings import DemonstrationSettings
from soulsai.errors import ConfigError
from soulsai.types import MASK, Array, Fragment, Leaf, Metrics, Spec, zeros

log = logging.getLogger(__name__)

WORK_SECONDS = 0.8  # between two requests for arrivals, so that the node serves commands
CHUNK = 4096  # rows evaluated at once
MAX_LOG_RATIO = 20.0
MEANS = ("policy_loss", "value_loss", "entropy", "kl", "clip_fraction", "ratio", "grad_norm")


class Update(Struct):
    """The optimisation over one batch; it can be saved between two minibatches."""

    rollout: Tensors  # by column [R, ...]
    metrics: Metrics  # of the batch
    minibatches: int  # per epoch
    epoch: int = 0
    minibatch: int = 0  # the next one of this epoch
    sums: list[float] = msgspec.field(default_factory=lambda: [0.0] * len(MEANS))
    count: int = 0  # gradient steps done


class PPO:
    """Learns a stochastic policy from experience of the last few iterations.

    Args:
        config: The settings.
        spec: Observations and actions of the environment.
        seed: Seed of weights and minibatches.
        steps: Planned env steps; 0: unknown.
        realtime: Whether environments cannot wait for the learner.
        clock: Monotonic time in seconds.
    """

    Config = PPOSettings

    def __init__(
        self,
        config: PPOSettings,
        spec: Spec,
        *,
        seed: int,
        steps: int,
        realtime: bool,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.config, self.spec, self.seed, self.planned_steps = config, spec, seed, steps
        self.resolved = resolve(config, is_box=bool(spec.action.low), realtime=realtime)
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed % 2**63)
            self.network = build(config, spec, normalize=self.resolved.normalize_obs)
        self.policy, self.critic = self.network.policy, self.network.critic
        self.policy.eager = True
        self.policy.extras = {"logp": Leaf((), "<f4")}
        both = nn.ModuleList([self.policy, self.critic])
        self.weights = weights = flatten(both)
        self._gradient, self._device = Gradient(both, weights), weights.device
        self.optimizer = FlatAdam(weights, lr=self.resolved.lr, eps=config.adam_eps)

        self.normalizer = ObservationNormalizer(self.network.observation)
        self.rewards = RewardScale(config.gamma)
        self.batches = Batches(
            steps=self.resolved.batch_steps,
            max_lag=self.resolved.max_lag,
            deadline=config.deadline,
            pace=self.resolved.pace,
            clock=clock,
        )
        self._clock = clock
        self._update: Update | None = None
        self.demonstrations: DemonstrationRollouts | None = None
        self.skips = Skips(self.policy)  # of minibatches
        self._report()
        self.parts: dict[str, Stateful] = {
            "policy": self.policy,
            "critic": self.critic,
            "optimizer": self.optimizer,
            "normalizer": self.normalizer,
            "rewards": self.rewards,
            "batches": self.batches,
            "progress": self,
        }

    def learn(self, arrivals: Iterable[Sequence[Fragment]]) -> Iterator[Metrics]:
        """Run an update whenever a batch is ready; see ``Algorithm.learn``."""
        for fragments in arrivals:
            self.batches.published(self.policy.newest, self.policy.quota)
            self.batches.arrived(fragments)
            if self._cloning:
                yield self._clone()
                continue
            if self._update is None:
                if not self.batches.ready:
                    self._report()
                    continue
                self._update = self._begin(*self.batches.take())
                self._report()
            if self._optimize(self._update):
                yield self._finish(self._update)

    def prepare_demonstrations(self, settings: DemonstrationSettings) -> None:
        """Make the part that holds demonstrations; see ``LearnsFromDemonstrations``."""
        self.demonstrations = DemonstrationRollouts(
            settings, self.seed, lambda fragments: self._columns(lay_out(fragments))
        )
        insert_part(self.parts, self.demonstrations)
        self._report()

    def demonstrate(self, episodes: Sequence[Fragment]) -> None:
        """Add demonstrated episodes, and count their statistics."""
        if self.demonstrations is None or not episodes:
            return
        policy = self.policy
        added = [
            msgspec.structs.replace(
                episode,
                extras={name: zeros(leaf, len(episode)) for name, leaf in policy.extras.items()}
                | episode.extras,
                memory={name: zeros(leaf) for name, leaf in policy.memory.items()} | episode.memory,
            )
            for episode in episodes
        ]
        for episode in added:
            floats = self.network.observation.floats
            self.normalizer.update({name: episode.obs[name][:-1] for name in floats})
        if self.demonstrations.settings.clones:
            self.normalizer.settle()
        self.demonstrations.add(added)
        self._report()

    def _imitate(self, rollout: Rollout) -> None:
        """Add the steps that a person chose to the demonstrations."""
        if self.demonstrations is not None and rollout.intervened.any():
            self.demonstrate([part for f in rollout.fragments for part in interventions(f)])

    @property
    def _cloning(self) -> bool:
        return self.demonstrations is not None and self.demonstrations.cloning

    def _clone(self) -> Metrics:
        """Do one update of behaviour cloning, by maximum likelihood."""
        if self.demonstrations is None:
            return {}
        loss, agreement = self._cloning_loss(self.demonstrations)
        gradient = self._gradient.of(loss)
        norm = torch.linalg.vector_norm(gradient).item()
        self.skips.count(skipped=not math.isfinite(norm))
        if math.isfinite(norm):
            if norm > self.config.grad_clip:
                gradient.mul_(self.config.grad_clip / norm)
            self.optimizer.lr = self.resolved.lr
            self.optimizer.step(gradient)
        self.demonstrations.cloned += 1
        self._report()
        return {
            "clone_loss": loss.item(),
            "demonstration_agreement": agreement.item(),
            "demonstrations": float(len(self.demonstrations)),
            "grad_norm": norm,
            "skipped": float(self.skips.total),
        }

    def _cloning_loss(self, demonstrations: DemonstrationRollouts) -> tuple[Tensor, Tensor]:
        """Return the negative log-likelihood of demonstrated actions, and their agreement."""
        columns = demonstrations.columns
        items = self.network.step_items(columns)
        count = max(1, round(self.config.minibatch * len(items) / max(1, len(demonstrations))))
        rows, outputs, value = self.network.evaluate(columns, demonstrations.draw(items, count))
        steps = columns["step"][rows]
        rows, value = rows[steps], value[steps]
        actions = self._distribution(columns, rows, {n: o[steps] for n, o in outputs.items()})
        shown = columns["action"][rows]
        # The critic takes no part, but its gradient must exist.
        loss = -actions.log_prob(shown).mean() + 0.0 * value.sum()
        agreement = action_agreement(self.spec.action, actions.mode().detach(), shown)
        return loss, agreement

    @property
    def remaining(self) -> float:
        """The remaining share of the planned env steps."""
        return remaining(self.batches.arrived_steps, self.planned_steps)

    def _begin(self, fragments: Sequence[Fragment], lags: Sequence[int]) -> Update:
        """Evaluate a batch under the current weights, which are the proximal policy."""
        metrics = {"batch_steps": 0.0, "lr": self.resolved.lr, "clip": self.config.clip}
        if self.config.anneal_lr:
            metrics["lr"] *= self.remaining
        if self.config.anneal_clip:
            metrics["clip"] *= self.remaining
        if not fragments:  # nothing to learn from, but clients wait for a new version
            return Update({}, metrics, 0, epoch=self.resolved.epochs)
        rollout = lay_out(fragments)
        self._update_statistics(rollout)
        columns = self._columns(rollout)
        logp, value = self._evaluate(columns)
        steps = [len(fragment) for fragment in rollout.fragments]
        weights = np.ones(len(steps))
        if self.config.balance:
            weights = client_weights([fragment.client for fragment in rollout.fragments], steps)
        # The ratio of a person's action says nothing of the policy: its steps have no weight.
        client_weight = weights[rollout.fragment] * ~rollout.intervened
        numbers, health = self._estimate(rollout, logp, value, client_weight)
        self._imitate(rollout)
        columns["numbers"] = self._tensor(numbers.astype(np.float32))
        if self.batches.limit_lag(health["ess"]):
            log.warning(
                "ppo.max_lag is %d from now on: most of the experience is too old to learn from",
                self.batches.max_lag,
            )
        metrics |= health | {
            "batch_steps": float(len(rollout)),
            "lag": float(np.average(lags, weights=[len(fragment) for fragment in fragments])),
            "lag_max": float(max(lags)),
        }
        minibatches = max(1, round(len(rollout) / self.config.minibatch))
        return Update(columns, metrics, min(minibatches, len(self.network.step_items(columns))))

    def _update_statistics(self, rollout: Rollout) -> None:
        """Update normalisation and reward scale, which then stay constant during the update."""
        self.rewards.update(rollout)
        floats = self.network.observation.floats
        self.normalizer.update({name: rollout.obs[name][rollout.step] for name in floats})

    def _columns(self, rollout: Rollout) -> Tensors:
        columns = {f"obs.{name}": self._tensor(leaf) for name, leaf in rollout.obs.items()}
        columns["action"] = self._tensor(rollout.action)
        columns["step"] = self._tensor(rollout.step)
        others = self.network.columns(rollout)
        return columns | {name: column.to(self._device) for name, column in others.items()}

    @torch.no_grad()
    def _evaluate(self, columns: Tensors) -> tuple[Array, Array]:
        """Return the log-probability of each action and the value of each row [R]."""
        logp = torch.zeros(len(columns["step"]), device=self._device)
        value = torch.zeros_like(logp)
        items = self.network.all_items(columns)
        rows_per_item = len(logp) / len(items)
        for chunk in items.split(max(1, int(CHUNK / rows_per_item))):
            rows, outputs, values = self.network.evaluate(columns, chunk)
            actions = self._distribution(columns, rows, outputs)
            logp[rows] = actions.log_prob(columns["action"][rows])
            value[rows] = values
        return logp.cpu().double().numpy(), value.cpu().double().numpy()

    def _distribution(self, columns: Tensors, rows: Tensor, outputs: Tensors) -> Distribution:
        mask = columns.get(f"obs.{MASK}")
        valid = None if mask is None else mask[rows]
        return distribution(self.policy.head, self.spec.action, outputs, valid)

    def _estimate(
        self, rollout: Rollout, logp: Array, value: Array, client_weight: Array
    ) -> tuple[Array, Metrics]:
        """Return the loss's inputs for each row [R, 5], and metrics of the batch.

        The columns are proximal log-probability, advantage, value target, importance weight and
        client weight.
        """
        c, step = self.config, rollout.step
        reward = rollout.reward
        if c.normalize_rewards:
            reward = self.rewards.scaled(reward)
        next_value = np.append(value[1:], 0.0)
        discount = c.gamma * ~rollout.terminated
        ratio = np.exp(np.minimum(logp - rollout.logp, MAX_LOG_RATIO))
        ratio[rollout.intervened] = 1.0
        weight = np.minimum(ratio, c.weight_cap)
        weights = weight[step & ~rollout.intervened]
        if c.estimator == "vtrace":
            advantage, target = vtrace(
                reward, value, next_value, discount, rollout.end, c.gae_lambda, ratio
            )
            weight = np.ones_like(weight)
        else:
            advantage, target = gae(reward, value, next_value, discount, rollout.end, c.gae_lambda)
        advantage = standardized(advantage, weight * client_weight * step)
        numbers = np.stack([logp, advantage, target, weight, client_weight], axis=1)
        return numbers, {
            "weight": float(weights.mean()) if len(weights) else 1.0,
            "intervened": float(rollout.intervened.sum()),
            "ess": float(weights.sum() ** 2 / (len(weights) * (weights**2).sum() + 1e-12))
            if len(weights)
            else 1.0,
            "explained_variance": explained_variance(value[step], target[step]),
            "reward_scale": self.rewards.factor if c.normalize_rewards else 1.0,
        }

    def _optimize(self, update: Update) -> bool:
        """Continue an update for ``WORK_SECONDS``; return whether it is finished."""
        until = self._clock() + WORK_SECONDS
        while update.epoch < self.resolved.epochs:
            order = self._shuffled(update)
            while update.minibatch < update.minibatches:
                if not self._gradient_step(update, order[update.minibatch]):
                    return True
                update.minibatch += 1
                if self._clock() >= until:
                    return False
            update.epoch, update.minibatch = update.epoch + 1, 0
        return True

    def _shuffled(self, update: Update) -> Sequence[Tensor]:
        """Return the items of each minibatch of an epoch, reproducibly."""
        items = self.network.step_items(update.rollout)
        rng = np.random.default_rng((self.seed, self.batches.ages.iteration, update.epoch))
        order = torch.from_numpy(rng.permutation(len(items))).to(self._device)
        return items[order].tensor_split(update.minibatches)

    def _gradient_step(self, update: Update, items: Tensor) -> bool:
        """Do one step of Adam; return false if the policy has reached ``target_kl`` instead."""
        c = self.config
        gradient, losses = self._gradient_of(update, items)
        norm = torch.linalg.vector_norm(gradient)
        means = torch.cat([losses, norm[None]]).tolist()
        if c.target_kl and means[3] > 1.5 * c.target_kl:
            return False
        finite = all(map(math.isfinite, means))
        self.skips.count(skipped=not finite)
        if not finite:
            return True
        if means[6] > c.grad_clip:
            gradient.mul_(c.grad_clip / means[6])
        self.optimizer.lr = update.metrics["lr"]
        self.optimizer.step(gradient)
        update.sums = [total + mean for total, mean in zip(update.sums, means, strict=True)]
        update.count += 1
        return True

    def _gradient_of(self, update: Update, items: Tensor) -> tuple[Tensor, Tensor]:
        """Return the gradient [P] of the loss on a minibatch, and the first six of ``MEANS``."""
        c, columns = self.config, update.rollout
        rows, outputs, value = self.network.evaluate(columns, items)
        steps = columns["step"][rows]
        rows, value = rows[steps], value[steps]
        actions = self._distribution(columns, rows, {n: o[steps] for n, o in outputs.items()})
        proximal, advantage, target, weight, client = columns["numbers"][rows].unbind(1)
        own = client > 0  # not of a person
        client = client / client.sum().clamp_min(1e-8)
        log_ratio = actions.log_prob(columns["action"][rows]) - proximal
        log_ratio = log_ratio.clamp(-MAX_LOG_RATIO, MAX_LOG_RATIO)
        ratio, clip = log_ratio.exp(), update.metrics["clip"]

        policy_loss = -(client * surrogate(ratio, advantage, weight, clip)).sum()
        value_loss = 0.5 * (client * (value - target).square()).sum()
        entropy = (client * actions.entropy()).sum()
        loss = policy_loss + c.value * value_loss - self.resolved.entropy * entropy
        loss = loss + self._cloning_term(update)
        gradient = self._gradient.of(loss)
        ratio, log_ratio = ratio[own], log_ratio[own]
        count = own.sum().clamp_min(1)
        kl = (ratio - 1.0 - log_ratio).sum() / count
        clipped = ((ratio - 1.0).abs() > clip).float().sum() / count
        ratios = [kl, clipped, ratio.sum() / count]
        means = torch.stack([policy_loss, value_loss, entropy, *ratios])
        return gradient, means.detach()

    def _cloning_term(self, update: Update) -> Tensor | float:
        """Return the weighted loss of cloning, which decays; see ``DemonstrationRollouts``."""
        shown = self.demonstrations
        weight = 0.0 if shown is None else shown.weight(self.batches.ages.iteration)
        if shown is None or not weight:
            return 0.0
        loss, agreement = self._cloning_loss(shown)
        update.metrics |= {
            "clone_weight": weight,
            "clone_loss": loss.item(),
            "demonstration_agreement": agreement.item(),
            "demonstrations": float(len(shown)),
        }
        return weight * loss

    def _finish(self, update: Update) -> Metrics:
        self._update = None
        self.batches.updated()
        self._report()
        means = {name: s / max(1, update.count) for name, s in zip(MEANS, update.sums, strict=True)}
        epochs = update.count / max(1, update.minibatches)
        metrics = update.metrics | means | self.batches.metrics
        return metrics | {"epochs": epochs, "skipped": float(self.skips.total)}

    def _report(self) -> None:
        """Set the quota, zero during an update, and the number of dropped env steps."""
        quota = self.batches.quota
        self.policy.quota = quota if quota is None or self._update is None else 0
        if self._cloning:  # this holds back the first version until the policy is cloned
            self.policy.quota = 0
        self.policy.dropped = self.batches.dropped.steps

    def _tensor(self, array: Array) -> Tensor:
        return torch.from_numpy(np.ascontiguousarray(array)).to(self._device)

    def state_dict(self) -> dict[str, Any]:
        """Return the seed, the skipped steps and the update in progress."""
        update = {} if self._update is None else msgspec.structs.asdict(self._update)
        return {"seed": self.seed, "skipped": self.skips.total, "update": update}

    def load_state_dict(self, state_dict: dict[str, Any], /) -> None:
        """Load progress; ``batches`` is loaded before."""
        self.seed = int(state_dict["seed"])
        self.skips.restore(int(state_dict["skipped"]))
        saved = state_dict["update"]
        self._update = Update(**saved) if saved else None
        if self._update is not None:
            columns = self._update.rollout.items()
            self._update.rollout = {name: column.to(self._device) for name, column in columns}
        self._report()


def build(config: PPOSettings, spec: Spec, *, normalize: bool) -> Feedforward | Recurrent:
    """Return actor and critic, recurrent if ``memory`` is positive.

    Args:
        config: The settings.
        spec: Observations and actions of the environment.
        normalize: Normalise float observations.

    Raises:
        ConfigError: ``hidden`` is empty.
    """
    if not config.hidden:
        raise ConfigError("ppo.hidden: give the width of at least one layer")
    layers: Any = {"hidden": config.hidden, "activation": config.activation}
    acting: Any = {
        **layers,
        "normalize": normalize,
        "eval_fraction": config.eval_fraction,
        "custom": config.custom,
    }
    if not config.memory:
        return Feedforward(ActorCritic(spec, **acting), **layers, network=config.network)
    actor = RecurrentActor(spec, memory=config.memory, **acting)
    return Recurrent(actor, unroll=config.unroll, **layers)
