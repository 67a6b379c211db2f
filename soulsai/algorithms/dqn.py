"""Deep Q-learning from replay, asynchronous as in Ape-X: clients explore, one learner updates.

Double (arXiv:1509.06461), dueling (1511.06581), n-step and prioritised (1511.05952), with
quantiles of the return (1710.10044); each of these is a setting.
"""

import copy
import math
from collections.abc import Iterable, Iterator, Sequence
from typing import Any, TypeVar

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from soulsai.algorithms.base import Policy, Stateful, Tensors
from soulsai.algorithms.flat import FlatAdam, Gradient, flatten
from soulsai.algorithms.networks import Encoder, Observation, QuantileHead
from soulsai.algorithms.normalize import RunningStatistics
from soulsai.algorithms.returns import NStepReturns, transition_columns
from soulsai.config import DQN as DQNConfig
from soulsai.errors import ConfigError
from soulsai.replay.prioritized import PrioritizedReplay
from soulsai.replay.ratio import Pace
from soulsai.replay.uniform import UniformReplay
from soulsai.types import MASK, Array, Fragment, Head, Metrics, Spec

Column = TypeVar("Column")

METRICS_EVERY = 16  # updates; reading numbers out of torch costs time


class QPolicy(Policy):
    """Values of all actions; the head picks the best, or a random one."""

    def __init__(self, config: DQNConfig, spec: Spec) -> None:
        head = Head(
            "epsilon_greedy", config.epsilon_base, config.epsilon_alpha, config.eval_fraction
        )
        super().__init__(head, spec, outputs=("q",))
        self.observation = Observation(spec.seen, normalize=config.normalize_obs)
        self.encoder = Encoder(self.observation, config.hidden, layer_norm=config.layer_norm)
        self.values = QuantileHead(
            self.encoder.width, spec.action.sizes[0], config.quantiles, dueling=config.dueling
        )
        self._shown: tuple[QPolicy, ...] = ()  # not a module of ours, so not in our state

    def show(self, average: "QPolicy") -> None:
        """Let clients act with ``average``, which has our shape and steadier weights."""
        self._shown = (average,)

    def twin(self) -> "QPolicy":
        """Return what clients act with."""
        return self._shown[0] if self._shown else self

    def forward(self, obs: Tensors, memory: Tensors) -> tuple[Tensors, Tensors]:
        """Return the value of each action, ``q`` [B, A]."""
        return {"q": expected(self.quantiles(self.observation.parts(obs)))}, memory

    def quantiles(self, parts: list[Tensor]) -> Tensor:
        """Map the parts of an observation to quantiles of each action's return [B, A, N]."""
        return self.values.quantiles(self.encoder.features(parts))


class DQN:
    """Learns the values of discrete actions from experience of any age."""

    Config = DQNConfig

    def __init__(
        self, config: DQNConfig, spec: Spec, *, seed: int, steps: int, realtime: bool
    ) -> None:
        if spec.action.kind != "discrete":
            raise ConfigError(
                f"algorithm.name: dqn needs discrete actions, not {spec.action.kind!r}"
            )
        weights_seed, replay_seed = np.random.SeedSequence(seed).spawn(2)
        self.config, self.planned_steps = config, steps
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(int(weights_seed.generate_state(1)[0]))
            self.policy = QPolicy(config, spec)
        self.target = copy.deepcopy(self.policy).requires_grad_(False)
        if config.act_with == "average":
            self.policy.show(self.target)
        self._weights, self._target_weights = flatten(self.policy), flatten(self.target)
        self._gradient = Gradient(self.policy, self._weights)
        self._device = self._weights.device
        self.optimizer = FlatAdam(self._weights, lr=config.lr, eps=config.adam_eps)

        self.returns = NStepReturns(spec, n=config.n_step, gamma=config.gamma)
        self.replay = _replay(config, spec, np.random.default_rng(replay_seed))
        self.observation = self.policy.observation
        self.normalizer = RunningStatistics(self.observation.size)
        if self.observation.size:  # the target network sees through the same statistics
            self.target.observation.mean = self.observation.mean
            self.target.observation.inv_std = self.observation.inv_std
        self.policy.warmup = config.learning_starts
        self.pace = Pace(
            "free" if realtime and config.pace == "hold" else config.pace,
            ratio=config.replay_ratio,
            starts=config.learning_starts,
            slack=config.slack_steps,
        )
        self.skipped = 0  # updates whose errors or gradient were not finite
        self._metrics: Metrics = {}
        self._grant()
        self.parts: dict[str, Stateful] = {
            "policy": self.policy,
            "target": self.target,
            "optimizer": self.optimizer,
            "replay": self.replay,
            "returns": self.returns,
            "normalizer": self.normalizer,
            "progress": self,
        }

    def learn(self, arrivals: Iterable[Sequence[Fragment]]) -> Iterator[Metrics]:
        """Update as often as the pace says; see ``Algorithm.learn``."""
        for fragments in arrivals:
            if fragments:
                self._ingest(fragments)
            if self.pace.due and len(self.replay):
                self._update()
                self.pace.updated()
                self._grant()
                yield self._metrics

    @property
    def beta(self) -> float:
        """How far importance weights undo the bias of priorities; grows to 1 over the run."""
        start = self.config.priority_beta
        done = min(1.0, self.pace.steps / self.planned_steps) if self.planned_steps else 0.0
        return start + (1.0 - start) * done

    def _ingest(self, fragments: Sequence[Fragment]) -> None:
        """Take in experience: complete transitions go to replay, raw, and into the statistics."""
        rows = self.returns.assemble(fragments)
        self.replay.append(rows)
        if self.normalizer.update(self.observation.elements(leaves(rows, "obs."))):
            self.observation.mean.copy_(torch.from_numpy(self.normalizer.mean))
            self.observation.inv_std.copy_(torch.from_numpy(self.normalizer.inv_std))
        self.pace.arrived(sum(map(len, fragments)))
        self._grant()

    def _grant(self) -> None:
        """Tell clients how far they may go, and whether to act at random."""
        self.policy.quota = self.pace.quota
        self.policy.knobs = {"random": float(self.pace.warming_up)}

    def _update(self) -> None:
        """Do one gradient step, and move the target network towards the result."""
        c = self.config
        batch = self.replay.sample(c.batch_size, beta=self.beta)
        rows = {name: self._tensor(column) for name, column in batch.rows.items()}
        weights = self._tensor(batch.weights)
        goal = td_target(self.policy, self.target, rows, double=c.double, scale=c.reward_scale)
        predicted = td_predicted(self.policy, rows)
        slope = quantile_huber_slope(predicted.detach(), goal, weights)
        gradient = self._gradient.of(predicted, slope)
        norm = torch.linalg.vector_norm(gradient).item()
        error = expected(goal) - expected(predicted.detach())
        errors = error.cpu().numpy()
        if math.isfinite(norm) and np.isfinite(errors).all():
            if norm > c.grad_clip:
                gradient.mul_(c.grad_clip / norm)
            self.optimizer.step(gradient)
            self._target_weights.lerp_(self._weights, c.target_ema)
            self.replay.learned(batch.ids, errors)
        else:
            self.skipped += 1
        if not self._metrics or self.pace.updates % METRICS_EVERY == 0:
            self._metrics = {
                "loss": quantile_huber_loss(predicted.detach(), goal).mean().item(),
                "q_mean": predicted.mean().item(),
                "td_error": error.abs().mean().item(),
                "grad_norm": norm,
                "replay_size": float(len(self.replay)),
                "beta": self.beta,
                "skipped": float(self.skipped),
            }

    def _tensor(self, array: Array) -> Tensor:
        return torch.from_numpy(array).to(self._device)

    def state_dict(self) -> dict[str, Any]:
        """Return the account of steps and updates."""
        return {"pace": self.pace.state_dict(), "skipped": self.skipped}

    def load_state_dict(self, state_dict: dict[str, Any], /) -> None:
        """Go on from the account of another."""
        self.pace.load_state_dict(state_dict["pace"])
        self.skipped = int(state_dict["skipped"])
        self._grant()


def _replay(
    config: DQNConfig, spec: Spec, rng: np.random.Generator
) -> PrioritizedReplay | UniformReplay:
    columns = transition_columns(spec)
    if config.prioritized:
        return PrioritizedReplay(config.capacity, columns, alpha=config.priority_alpha, rng=rng)
    return UniformReplay(config.capacity, columns, rng=rng)


@torch.inference_mode()
def td_target(
    policy: QPolicy, target: QPolicy, rows: Tensors, *, double: bool, scale: float
) -> Tensor:
    """Return what the taken actions' quantiles should be [B, N]."""
    parts = policy.observation.parts(leaves(rows, "next_obs."))
    quantiles = target.quantiles(parts)  # [B, A, N]
    judged = policy.quantiles(parts) if double else quantiles
    best = best_action(expected(judged), rows.get(f"next_obs.{MASK}"))  # [B]
    future = taken(quantiles, best)  # [B, N]
    return rows["ret"][:, None] * scale + rows["discount"][:, None] * future


def td_predicted(policy: QPolicy, rows: Tensors) -> Tensor:
    """Return the quantiles of the actions that were taken [B, N]."""
    quantiles = policy.quantiles(policy.observation.parts(leaves(rows, "obs.")))
    return taken(quantiles, rows["action"])


def quantile_huber_loss(predicted: Tensor, goal: Tensor) -> Tensor:
    """Return the loss [B] of quantiles [B, N] against samples of the goal [B, M].

    Quantile i stands for the level (i + 1/2) / N. One quantile is the mean: plain Huber loss.
    """
    error = goal[:, None, :] - predicted[:, :, None]  # [B, N, M]
    huber = F.smooth_l1_loss(error, torch.zeros_like(error), reduction="none")
    if predicted.shape[1] == 1:
        return huber.mean((1, 2))
    level = levels(predicted)[:, None]
    return ((level - (error < 0).float()).abs() * huber).mean(2).sum(1)


def quantile_huber_slope(predicted: Tensor, goal: Tensor, weights: Tensor) -> Tensor:
    """Return the derivative [B, N] of the weighted mean of ``quantile_huber_loss``.

    Learning needs the loss only through this, so nothing of it is recorded for autograd.
    """
    weights = weights[:, None] * (-1.0 / len(weights))
    error = goal[:, None, :] - predicted[:, :, None]  # [B, N, M]
    pull = error.clamp_(-1.0, 1.0)
    if predicted.shape[1] == 1:
        return weights * pull.mean(2)
    level = levels(predicted)
    upwards, both = pull.clamp(min=0.0).mean(2), pull.mean(2)
    return weights * (level * upwards + (1.0 - level) * (both - upwards))


def levels(quantiles: Tensor) -> Tensor:
    """Return the levels [N] that quantiles [B, N] stand for."""
    n = quantiles.shape[1]
    return (torch.arange(n, device=quantiles.device) + 0.5) / n


def expected(quantiles: Tensor) -> Tensor:
    """Return the mean [...] of quantiles [..., N]."""
    return quantiles.mean(-1) if quantiles.shape[-1] > 1 else quantiles.squeeze(-1)


def best_action(q: Tensor, mask: Tensor | None) -> Tensor:
    """Return the valid action of highest value [B] of [B, A]: the torch twin of ``heads.best``."""
    if mask is not None:
        q = q.masked_fill(~mask, -torch.inf)
    return q.argmax(-1)


def taken(quantiles: Tensor, action: Tensor) -> Tensor:
    """Return the quantiles [B, N] of one action [B] each, from [B, A, N]."""
    index = action[:, None, None].expand(-1, 1, quantiles.shape[2])
    return quantiles.gather(1, index).squeeze(1)


def leaves(rows: dict[str, Column], prefix: str) -> dict[str, Column]:
    """Return the observation leaves whose columns begin with ``prefix``."""
    return {n.removeprefix(prefix): rows[n] for n in rows if n.startswith(prefix)}
