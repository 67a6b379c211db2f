"""Proximal policy optimisation (arXiv:1707.06347) that does not mind who joins, lags or leaves.

The policy that acted and the policy we must stay close to are two (decoupled, arXiv:2110.00641):
importance weights correct for the first, clipping keeps to the second. With fresh experience both
are the same, and this is plain PPO.
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
from soulsai.algorithms.distributions import distribution
from soulsai.algorithms.normalize import RunningStatistics
from soulsai.algorithms.ppo.batches import Batches
from soulsai.algorithms.ppo.choices import choose
from soulsai.algorithms.ppo.estimates import gae, vtrace
from soulsai.algorithms.ppo.network import ActorCritic, Feedforward, Network
from soulsai.algorithms.ppo.objective import explained, standardized, surrogate
from soulsai.algorithms.ppo.recurrent import Recurrent, RecurrentActor
from soulsai.algorithms.ppo.reward_scale import RewardScale
from soulsai.algorithms.ppo.rollouts import Rollout, balance, lay_out
from soulsai.algorithms.ppo.settings import PPOSettings
from soulsai.errors import ConfigError
from soulsai.types import MASK, Array, Fragment, Leaf, Metrics, Spec

log = logging.getLogger(__name__)

TURN = 0.8  # seconds of work after which we ask for arrivals, so that commands are served
CHUNK = 4096  # rows looked at in one piece
LARGEST = 20.0  # logarithm of a ratio
MEANS = ("policy_loss", "value_loss", "entropy", "kl", "clip_fraction", "ratio", "grad_norm")


class Update(Struct):
    """One batch that is being learnt from; it can be saved in between."""

    rollout: Tensors  # by column, of R rows
    metrics: Metrics  # of the batch
    minibatches: int  # per epoch
    epoch: int = 0
    minibatch: int = 0  # the next, in this epoch
    sums: list[float] = msgspec.field(default_factory=lambda: [0.0] * len(MEANS))
    count: int = 0  # minibatches done


class PPO:
    """Learns to act from experience that is a few iterations old at most."""

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
        self.choices = choose(config, is_box=spec.action.kind == "box", realtime=realtime)
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed % 2**63)
            self.network = build(config, spec, normalize=self.choices.normalize_obs)
        self.policy, self.critic = self.network.policy, self.network.critic
        self.policy.eager = True
        self.policy.extras = {"logp": Leaf((), "<f4")}
        both = nn.ModuleList([self.policy, self.critic])
        self.weights = weights = flatten(both)
        self._gradient, self._device = Gradient(both, weights), weights.device
        self.optimizer = FlatAdam(weights, lr=self.choices.lr, eps=config.adam_eps)

        observation = self.network.observation
        self.normalizer = RunningStatistics(
            observation.mean.numel() if observation.normalizes else 0
        )
        self.rewards = RewardScale(config.gamma)
        self.batches = Batches(
            steps=self.choices.batch_steps,
            max_lag=self.choices.max_lag,
            deadline=config.deadline,
            pace=self.choices.pace,
            clock=clock,
        )
        self._clock = clock
        self._update: Update | None = None
        self.skips = Skips(self.policy)  # of minibatches
        self._grant()
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
        """Update whenever a batch is ready; see ``Algorithm.learn``."""
        for fragments in arrivals:
            self.batches.published(self.policy.newest, self.policy.quota)
            self.batches.arrived(fragments)
            if self._update is None:
                if not self.batches.ready:
                    self._grant()
                    continue
                self._update = self._begin(*self.batches.take())
                self._grant()
            if self._improve(self._update):
                yield self._finish(self._update)

    @property
    def remaining(self) -> float:
        """The share of the planned env steps that is still to come."""
        return remaining(self.batches.arrived_steps, self.planned_steps)

    def _begin(self, fragments: Sequence[Fragment], lags: Sequence[int]) -> Update:
        """Judge a batch with the weights as they are now: the proximal policy."""
        metrics = {"batch_steps": 0.0, "lr": self.choices.lr, "clip": self.config.clip}
        if self.config.anneal_lr:
            metrics["lr"] *= self.remaining
        if self.config.anneal_clip:
            metrics["clip"] *= self.remaining
        if not fragments:  # nothing to learn from, but clients wait for a new version
            return Update({}, metrics, 0, epoch=self.choices.epochs)
        rollout = lay_out(fragments)
        self._take_statistics(rollout)
        rows = self._columns(rollout)
        prox, value = self._look(rows)
        clients = [fragment.client for fragment in rollout.fragments]
        steps = [len(fragment) for fragment in rollout.fragments]
        share = np.ones(len(steps))
        if self.config.balance:
            share = balance(clients, steps)
        numbers, health = self._estimate(rollout, prox, value, share[rollout.fragment])
        rows["numbers"] = self._tensor(numbers.astype(np.float32))
        if self.batches.judge(health["ess"]):
            lag = self.batches.max_lag
            log.warning("experience is too old to learn much from: ppo.max_lag is %d now", lag)
        taken = [len(fragment) for fragment in fragments]
        metrics |= health | {
            "batch_steps": float(len(rollout)),
            "lag": float(np.average(lags, weights=taken)),
            "lag_max": float(max(lags)),
        }
        minibatches = max(1, round(len(rollout) / self.config.minibatch))
        return Update(rows, metrics, min(minibatches, len(self.network.pieces(rows))))

    def _take_statistics(self, rollout: Rollout) -> None:
        """Count every step once; nothing changes again before the next batch."""
        self.rewards.update(rollout)
        observation = self.network.observation
        if observation.normalizes:
            seen = [rollout.obs[name][rollout.step] for name in observation.floats]
            rows = np.concatenate([part.reshape(len(part), -1) for part in seen], axis=1)
            if self.normalizer.update(rows):
                observation.mean.copy_(torch.from_numpy(self.normalizer.mean))
                observation.inv_std.copy_(torch.from_numpy(self.normalizer.inv_std))

    def _columns(self, rollout: Rollout) -> Tensors:
        columns = {f"obs.{name}": self._tensor(leaf) for name, leaf in rollout.obs.items()}
        columns["action"] = self._tensor(rollout.action)
        columns["step"] = self._tensor(rollout.step)
        others = self.network.columns(rollout)
        return columns | {name: column.to(self._device) for name, column in others.items()}

    @torch.no_grad()
    def _look(self, rows: Tensors) -> tuple[Array, Array]:
        """Return the log-probability of each action, and the value of each row [R]."""
        logp = torch.zeros(len(rows["step"]), device=self._device)
        value = torch.zeros_like(logp)
        everything = self.network.everything(rows)
        per_piece = len(logp) / len(everything)
        for pieces in everything.split(max(1, int(CHUNK / per_piece))):
            view = self.network.view(rows, pieces)
            law = self._law(rows, view.rows, view.outputs)
            logp[view.rows] = law.log_prob(rows["action"][view.rows])
            value[view.rows] = view.value
        return logp.cpu().double().numpy(), value.cpu().double().numpy()

    def _law(self, rows: Tensors, which: Tensor, outputs: Tensors) -> Any:
        mask = rows.get(f"obs.{MASK}")
        valid = None if mask is None else mask[which]
        return distribution(self.policy.head, self.spec.action, outputs, valid)

    def _estimate(
        self, rollout: Rollout, prox: Array, value: Array, share: Array
    ) -> tuple[Array, Metrics]:
        """Return what the loss needs of each row [R, 5], and how healthy the batch is."""
        c, step = self.config, rollout.step
        reward = rollout.reward
        if c.normalize_rewards:
            reward = self.rewards.scaled(reward)
        following = np.append(value[1:], 0.0)
        discount = c.gamma * ~rollout.terminated
        ratio = np.exp(np.minimum(prox - rollout.logp, LARGEST))
        weight = np.minimum(ratio, c.weight_cap)
        healthy = weight[step]
        if c.estimator == "vtrace":
            advantage, goal = vtrace(
                reward, value, following, discount, rollout.end, c.gae_lambda, ratio
            )
            weight = np.ones_like(weight)
        else:
            advantage, goal = gae(reward, value, following, discount, rollout.end, c.gae_lambda)
        advantage = standardized(advantage, weight * share * step)
        numbers = np.stack([prox, advantage, goal, weight, share], axis=1)
        return numbers, {
            "weight": float(healthy.mean()),
            "ess": float(healthy.sum() ** 2 / (len(healthy) * (healthy**2).sum() + 1e-12)),
            "explained_variance": explained(value[step], goal[step]),
            "reward_scale": self.rewards.factor if c.normalize_rewards else 1.0,
        }

    def _improve(self, update: Update) -> bool:
        """Go on with an update for one turn; say whether it is finished."""
        until = self._clock() + TURN
        while update.epoch < self.choices.epochs:
            order = self._shuffled(update)
            while update.minibatch < update.minibatches:
                if not self._descend(update, order[update.minibatch]):
                    return True
                update.minibatch += 1
                if self._clock() >= until:
                    return False
            update.epoch, update.minibatch = update.epoch + 1, 0
        return True

    def _shuffled(self, update: Update) -> Sequence[Tensor]:
        """Return the pieces of each minibatch of this epoch; always the same."""
        pieces = self.network.pieces(update.rollout)
        rng = np.random.default_rng((self.seed, self.batches.ages.iteration, update.epoch))
        order = torch.from_numpy(rng.permutation(len(pieces))).to(self._device)
        return pieces[order].tensor_split(update.minibatches)

    def _descend(self, update: Update, pieces: Tensor) -> bool:
        """Do one gradient step, unless the policy has moved far enough already."""
        c = self.config
        slope, found = self._judge(update, pieces)
        norm = torch.linalg.vector_norm(slope)
        means = torch.cat([found, norm[None]]).tolist()
        if c.target_kl and means[3] > 1.5 * c.target_kl:
            return False
        finite = all(map(math.isfinite, means))
        self.skips.count(skipped=not finite)
        if not finite:
            return True
        if means[6] > c.grad_clip:
            slope.mul_(c.grad_clip / means[6])
        self.optimizer.lr = update.metrics["lr"]
        self.optimizer.step(slope)
        update.sums = [total + mean for total, mean in zip(update.sums, means, strict=True)]
        update.count += 1
        return True

    def _judge(self, update: Update, pieces: Tensor) -> tuple[Tensor, Tensor]:
        """Return the gradient [P] by some pieces, and the first six of ``MEANS``."""
        c, rollout = self.config, update.rollout
        view = self.network.view(rollout, pieces)
        steps = rollout["step"][view.rows]
        rows, value = view.rows[steps], view.value[steps]
        outputs = {name: output[steps] for name, output in view.outputs.items()}
        law = self._law(rollout, rows, outputs)
        prox, advantage, goal, weight, share = rollout["numbers"][rows].unbind(1)
        share = share / share.sum()
        log_ratio = (law.log_prob(rollout["action"][rows]) - prox).clamp(-LARGEST, LARGEST)
        ratio, clip = log_ratio.exp(), update.metrics["clip"]

        policy_loss = -(share * surrogate(ratio, advantage, weight, clip)).sum()
        value_loss = 0.5 * (share * (value - goal).square()).sum()
        entropy = (share * law.entropy()).sum()
        loss = policy_loss + c.value * value_loss - self.choices.entropy * entropy
        slope = self._gradient.of(loss, torch.ones_like(loss))
        kl = (ratio - 1.0 - log_ratio).mean()
        clipped = ((ratio - 1.0).abs() > clip).float().mean()
        means = torch.stack([policy_loss, value_loss, entropy, kl, clipped, ratio.mean()])
        return slope, means.detach()

    def _finish(self, update: Update) -> Metrics:
        self._update = None
        self.batches.updated()
        self._grant()
        means = {name: s / max(1, update.count) for name, s in zip(MEANS, update.sums, strict=True)}
        epochs = update.count / max(1, update.minibatches)
        metrics = update.metrics | means | self.batches.metrics
        return metrics | {"epochs": epochs, "skipped": float(self.skips.total)}

    def _grant(self) -> None:
        """Say how far clients may go: no further, while a version is being made."""
        quota = self.batches.quota
        self.policy.quota = quota if quota is None or self._update is None else 0

    def _tensor(self, array: Array) -> Tensor:
        return torch.from_numpy(np.ascontiguousarray(array)).to(self._device)

    def state_dict(self) -> dict[str, Any]:
        """Return the progress, with the update that is under way."""
        update = {} if self._update is None else msgspec.structs.asdict(self._update)
        return {"seed": self.seed, "skipped": self.skips.total, "update": update}

    def load_state_dict(self, state_dict: dict[str, Any], /) -> None:
        """Go on from the progress of another, whose batches have been loaded already."""
        self.seed = int(state_dict["seed"])
        self.skips.restore(int(state_dict["skipped"]))
        saved = state_dict["update"]
        self._update = Update(**saved) if saved else None
        if self._update is not None:
            columns = self._update.rollout.items()
            self._update.rollout = {name: column.to(self._device) for name, column in columns}
        self._grant()


def build(config: PPOSettings, spec: Spec, *, normalize: bool) -> Network:
    """Make actor and critic, with a memory if one is asked for."""
    if not config.hidden:
        raise ConfigError("ppo.hidden: wanted the widths of one layer or more, found none")
    layers: Any = {"hidden": config.hidden, "activation": config.activation}
    acting: Any = {**layers, "normalize": normalize, "eval_fraction": config.eval_fraction}
    if not config.memory:
        return Feedforward(ActorCritic(spec, **acting), **layers)
    actor = RecurrentActor(spec, memory=config.memory, **acting)
    return Recurrent(actor, unroll=config.unroll, **layers)
