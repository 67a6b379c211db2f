"""What every off-policy learner does alike: take experience in, hand batches out, keep the pace."""

from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any, Protocol, TypeVar

import numpy as np
import torch
from torch import Tensor

from soulsai.algorithms.base import Stateful, Tensors, remaining
from soulsai.algorithms.horizon import Horizon
from soulsai.algorithms.n_step_returns import NStepReturns, transition_columns
from soulsai.algorithms.networks import Observation
from soulsai.algorithms.normalize import RunningStatistics
from soulsai.algorithms.pace import InFlight, Order, Pace
from soulsai.algorithms.settings import ReplaySettings
from soulsai.replay.prioritized import PrioritizedReplay
from soulsai.replay.ring import Batch
from soulsai.replay.storage import allocator
from soulsai.replay.uniform import UniformReplay
from soulsai.types import Array, Fragment, Metrics, Spec

Column = TypeVar("Column")


class Seeing(Protocol):
    """A policy whose observation statistics we keep."""

    observation: Observation
    newest: Order
    quota: int | None
    exploration: dict[str, float]
    warmup: int


class Experience:
    """Everything a learner remembers of its clients, and what it owes and grants them.

    ``parts`` must survive a crash, and so must the account of the pace; see ``go_on``.
    """

    def __init__(
        self,
        settings: ReplaySettings,
        spec: Spec,
        policy: Seeing,
        *,
        rng: np.random.Generator,
        steps: int,
        realtime: bool,
        horizon: Horizon | None = None,
        explore_steps: int = 0,
        masks: bool = False,
    ) -> None:
        self.settings, self.planned_steps, self.policy = settings, steps, policy
        self.horizon = horizon or Horizon(settings.n_step, settings.gamma)
        self.explore_steps = explore_steps
        self.returns = NStepReturns(spec, n=self.horizon.n_at(0), gamma=self.horizon.gamma_at(0))
        spans = self.horizon.changes_gamma
        self.columns = columns = transition_columns(spec, masks=masks, spans=spans)
        rows = settings.capacity, columns
        allocate = allocator(settings.replay_folder)
        self.replay: PrioritizedReplay | UniformReplay = (
            PrioritizedReplay(*rows, alpha=settings.priority_alpha, rng=rng, allocate=allocate)
            if settings.prioritized
            else UniformReplay(*rows, rng=rng, allocate=allocate)
        )
        policy.warmup = settings.learning_starts
        self.normalizer = RunningStatistics(policy.observation.size)
        self.pace = Pace(
            "free" if realtime and settings.pace == "hold" else settings.pace,
            samples_per_insert=settings.replay_ratio,
            error_buffer=settings.slack_steps,
            learning_starts=settings.learning_starts,
        )
        self._in_flight = InFlight()
        self.parts: dict[str, Stateful] = {
            "replay": self.replay,
            "returns": self.returns,
            "normalizer": self.normalizer,
        }
        self._grant()

    def learn(
        self, arrivals: Iterable[Sequence[Fragment]], update: Callable[[], Metrics]
    ) -> Iterator[Metrics]:
        """Call ``update`` as often as the pace says; see ``Algorithm.learn``."""
        for fragments in arrivals:
            self._in_flight.published(self.policy.newest, self.policy.quota)
            if fragments:
                self.ingest(fragments)
            if self.pace.due and len(self.replay):
                metrics = update()
                self.pace.updated()
                self._in_flight.updated()
                self._grant()
                yield metrics

    def ingest(self, fragments: Sequence[Fragment]) -> None:
        """Take in experience: complete transitions go to replay, raw, and into the statistics."""
        self.returns.n = self.horizon.n_at(self.pace.steps)
        self.returns.gamma = self.horizon.gamma_at(self.pace.steps)
        rows = self.returns.assemble(fragments)
        self.replay.append(rows)
        observation = self.policy.observation
        if self.normalizer.update(observation.elements(leaves(rows, "obs."))):
            observation.mean.copy_(torch.from_numpy(self.normalizer.mean))
            observation.inv_std.copy_(torch.from_numpy(self.normalizer.inv_std))
        self.pace.arrived(sum(map(len, fragments)))
        for fragment in fragments:
            self._in_flight.arrived(fragment)
        self._grant()

    def sample(self) -> Batch:
        """Draw a batch of transitions."""
        batch = self.replay.sample(self.settings.batch_size, beta=self.beta)
        if self.horizon.changes_gamma:
            span = batch.rows["span"]
            batch.rows["discount"] = self.horizon.discount(span, self.pace.steps)
        return batch

    @property
    def beta(self) -> float:
        """How far importance weights undo the bias of priorities; grows to 1 over the run."""
        start = self.settings.priority_beta
        return start + (1.0 - start) * (1.0 - self.remaining)

    @property
    def remaining(self) -> float:
        """The share of the planned env steps that is still to come."""
        return remaining(self.pace.steps, self.planned_steps)

    @property
    def random(self) -> float:
        """The least share of random actions: all until learning starts, then less and less."""
        if self.pace.warming_up:
            return 1.0
        since = self.pace.steps - self.pace.learning_starts
        return max(0.0, 1.0 - since / self.explore_steps) if self.explore_steps else 0.0

    def _grant(self) -> None:
        """Tell clients how far they may go, and how much of it at random."""
        self.policy.quota = self.pace.quota(self._in_flight.steps)
        self.policy.exploration = {"random": self.random}

    def go_on(self, account: dict[str, Any]) -> None:
        """Go on from the saved account of another; the replay is restored before."""
        self.pace.load_state_dict(account)
        self._in_flight.clear()
        if not len(self.replay):
            self.pace.refill()
        self._grant()


def leaves(rows: dict[str, Column], prefix: str) -> dict[str, Column]:
    """Return the observation leaves whose columns begin with ``prefix``."""
    return {n.removeprefix(prefix): rows[n] for n in rows if n.startswith(prefix)}


def tensors(rows: dict[str, Array], device: torch.device) -> Tensors:
    """Return columns as tensors on ``device``."""
    return {name: torch.from_numpy(column).to(device) for name, column in rows.items()}


def packed(rows: Tensors) -> list[Tensor]:
    """Return columns as compiled code takes them; images may come as views of another order."""
    return [column.contiguous() for column in rows.values()]
