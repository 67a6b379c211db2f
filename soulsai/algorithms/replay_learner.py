"""The common part of learners that replay experience: assembly, replay, sampling and pace."""

from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any, TypeVar

import numpy as np
import torch
from torch import Tensor

from soulsai.algorithms.base import Policy, Stateful, Tensors, remaining
from soulsai.algorithms.demonstrations import (
    IMITATION,
    DemonstrationReplay,
    joined,
    with_columns,
    with_imitation,
)
from soulsai.algorithms.n_step_returns import SHOWN, Horizon, NStepReturns, transition_columns
from soulsai.algorithms.networks import Observation
from soulsai.algorithms.normalize import ObservationNormalizer
from soulsai.algorithms.pace import InFlight, Pace
from soulsai.algorithms.settings import DemonstrationSettings, ReplaySettings
from soulsai.errors import ConfigError
from soulsai.replay.prioritized import PrioritizedReplay
from soulsai.replay.ring import Batch, concatenated
from soulsai.replay.storage import allocator
from soulsai.replay.uniform import UniformReplay
from soulsai.types import MASK, Array, Fragment, Leaf, Metrics, Spec

CHUNK = 2**16  # rows of replay read at once
TOGETHER = 128  # fragments assembled at once: more leave the processor's cache

Column = TypeVar("Column")


class Experience:
    """The experience of one learner: assembles, replays and counts it.

    A checkpoint saves ``parts`` and the state of ``pace``; see ``restore``.

    Args:
        settings: The settings of the algorithm.
        spec: Observations and actions of the environment.
        policy: The policy; its quota and exploration are set here.
        observation: The statistics of its observations, which are updated here.
        rng: Source of randomness for sampling.
        steps: Env steps planned for the run; 0 if unknown.
        realtime: Whether the environment never waits for the learner.
        horizon: n and gamma; those of the settings by default.
        explore_steps: Env steps after ``learning_starts`` over which random actions decrease to 0.
        masks: Whether to store the masks of observations, besides those of next observations.
    """

    def __init__(
        self,
        settings: ReplaySettings,
        spec: Spec,
        policy: Policy,
        observation: Observation,
        *,
        rng: np.random.Generator,
        steps: int,
        realtime: bool,
        horizon: Horizon | None = None,
        explore_steps: int = 0,
        masks: bool = False,
    ) -> None:
        self.settings, self.planned_steps = settings, steps
        self.policy, self.observation = policy, observation
        self.horizon = horizon or Horizon(settings.n_step, settings.gamma)
        self.explore_steps = explore_steps
        self.returns = NStepReturns(spec, n=self.horizon.n_at(0), gamma=self.horizon.gamma_at(0))
        spans = self.horizon.changes_gamma
        self.columns = transition_columns(spec, masks=masks, spans=spans)
        self._allocate = allocator(settings.replay_folder)
        self.replay = self._new_replay(settings.capacity, self.columns, rng)
        policy.warmup = settings.learning_starts
        self.normalizer = ObservationNormalizer(observation, self._stored)
        self.pace = Pace(
            "free" if realtime and settings.pace == "hold" else settings.pace,
            samples_per_insert=settings.replay_ratio,
            error_buffer=settings.slack_steps,
            learning_starts=settings.learning_starts,
        )
        self._in_flight = InFlight()
        self._spec, self._rng = spec, rng
        self.demonstrations: DemonstrationReplay | None = None
        self.parts: dict[str, Stateful] = {
            "replay": self.replay,
            "returns": self.returns,
            "normalizer": self.normalizer,
        }
        self._grant()

    def learn(
        self,
        arrivals: Iterable[Sequence[Fragment]],
        updates: Callable[[Batch, int], Iterator[Metrics]],
        clone: Callable[[], Metrics],
    ) -> Iterator[Metrics]:
        """Update as often as the pace allows; see ``Algorithm.learn``.

        Args:
            arrivals: Groups of new fragments.
            updates: Does so many updates, each on its part of a batch, and yields their metrics.
            clone: Does one update of behaviour cloning; called before all others.
        """
        for fragments in arrivals:
            self._in_flight.published(self.policy.newest, self.policy.quota)
            if fragments:
                self.ingest(fragments)
            if self.demonstrations is not None and self.demonstrations.cloning:
                metrics = clone()
                self.demonstrations.cloned += 1
                self._grant()
                yield metrics
            elif self.pace.due and len(self.replay):
                count = min(self.most_updates, self.pace.whole_updates)
                for done, metrics in enumerate(updates(self.sample(count), count), 1):
                    self.pace.updated()
                    self._in_flight.updated()
                    if done == count:
                        self._grant()
                    yield metrics

    def prepare_demonstrations(self, settings: DemonstrationSettings) -> DemonstrationReplay:
        """Make and return a second replay, with columns and priorities as in the first."""
        columns = transition_columns(
            self._spec, masks=MASK in self._spec.obs, spans=self.horizon.changes_gamma
        )
        (child,) = self._rng.spawn(1)
        replay = self._new_replay(settings.capacity, columns, child)
        horizon = self.horizon
        returns = NStepReturns(self._spec, n=horizon.n_at(0), gamma=horizon.gamma_at(0))
        self.demonstrations = DemonstrationReplay(settings, replay, returns)
        self._grant()
        return self.demonstrations

    def _new_replay(
        self, capacity: int, columns: dict[str, Leaf], rng: np.random.Generator
    ) -> PrioritizedReplay | UniformReplay:
        settings, allocate = self.settings, self._allocate
        shared = settings.share_observations
        if not settings.prioritized:
            return UniformReplay(capacity, columns, rng=rng, allocate=allocate, shared=shared)
        return PrioritizedReplay(
            capacity,
            columns,
            alpha=settings.priority_alpha,
            rng=rng,
            allocate=allocate,
            shared=shared,
        )

    def demonstrate(self, episodes: Sequence[Fragment]) -> None:
        """Add whole episodes to the demonstrations, and count their statistics."""
        if self.demonstrations is not None and episodes:
            self.normalizer.update(leaves(self.demonstrations.add(episodes), "obs."))
            if self.demonstrations.settings.clones:
                self.normalizer.settle()
            self._grant()

    def ingest(self, fragments: Sequence[Fragment]) -> None:
        """Add the transitions that fragments complete to replay, and count their statistics."""
        self.returns.n = self.horizon.n_at(self.pace.steps)
        self.returns.gamma = self.horizon.gamma_at(self.pace.steps)
        for first in range(0, len(fragments), TOGETHER):
            rows = self.returns.assemble(fragments[first : first + TOGETHER])
            self.replay.append(rows)
            if self.demonstrations is not None and (shown := rows.get(SHOWN)) is not None:
                self.demonstrations.append({name: column[shown] for name, column in rows.items()})
            self.normalizer.update(leaves(rows, "obs."))
        granted = [fragment for fragment in fragments if fragment.granted]
        self.pace.arrived(sum(map(len, granted)))
        for fragment in granted:
            self._in_flight.arrived(fragment)
        self._grant()

    def _stored(self) -> Iterator[dict[str, Array]]:
        """Yield the float leaves of all observations in replay, as chunks of rows."""
        names = self.observation.floats
        shown = [] if self.demonstrations is None else [self.demonstrations.replay.ring]
        for ring in (self.replay.ring, *shown):
            for first in range(0, len(ring), CHUNK):
                part = slice(first, min(first + CHUNK, len(ring)))
                yield {name: ring.columns[f"obs.{name}"][part] for name in names}

    @property
    def most_updates(self) -> int:
        """The most updates before the next arrival; one with images, whose updates are long."""
        return 1 if self.observation.images else self.settings.updates_per_call

    def sample(self, count: int = 1) -> Batch:
        """Draw the rows of ``count`` updates; the last ``shown`` of each are demonstrations."""
        size, shown = self.settings.batch_size, self.shown
        batch = self._drawn(self.replay, size - shown, count)
        if self.demonstrations is None:
            return batch
        demonstrated: Sequence[Batch | None] = [None] * count
        if shown:
            demonstrated = self._drawn(self.demonstrations.replay, shown, count).split(count)
        columns, weight = self.batch_columns, self.imitation
        return concatenated(
            [
                with_imitation(joined(with_columns(own, columns), other), shown, weight)
                for own, other in zip(batch.split(count), demonstrated, strict=True)
            ]
        )

    @property
    def batch_columns(self) -> dict[str, Leaf]:
        """The columns of a batch: those of replay, and more if there may be demonstrations."""
        if self.demonstrations is None:
            return self.columns
        flags = {f"obs.{MASK}": self._spec.obs[MASK]} if MASK in self._spec.obs else {}
        return {**self.columns, **flags, IMITATION: Leaf((), "<f4")}

    @property
    def imitation(self) -> float:
        """The weight of imitation; it falls to zero over the planned env steps."""
        if self.demonstrations is None:
            return 0.0
        return self.demonstrations.settings.imitation * self.remaining

    def sample_demonstrations(self) -> Batch:
        """Draw a batch of demonstrations only, none to be imitated beside what is learnt."""
        if self.demonstrations is None:
            raise ConfigError("demonstrations.data: there are none")
        batch = self._drawn(self.demonstrations.replay, self.settings.batch_size, 1)
        batch = with_imitation(batch, 0, 0.0)
        # Compiled steps take columns by their place.
        rows = {name: batch.rows[name] for name in self.batch_columns}
        return Batch(rows, batch.ids, batch.weights)

    @property
    def shown(self) -> int:
        """The rows of a batch that are demonstrations."""
        if self.demonstrations is None:
            return 0
        return self.demonstrations.share_of(self.settings.batch_size)

    def _drawn(self, replay: PrioritizedReplay | UniformReplay, size: int, count: int) -> Batch:
        batch = replay.sample(size, beta=self.beta, batches=count)
        if self.horizon.changes_gamma:
            span = batch.rows["span"]
            batch.rows["discount"] = self.horizon.discount(span, self.pace.steps)
        return batch

    def update_priorities(self, batch: Batch, errors: Tensor, done: Tensor) -> None:
        """Set the priorities of the rows of updates from their errors.

        Args:
            batch: The rows of K updates, B of each.
            errors: Their errors [K, B].
            done: Whether an update was done [K]; the rows of others keep their priorities.
        """
        if not self.settings.prioritized:
            return
        numbers, kept = errors.cpu().numpy(), done.cpu().numpy()
        ids = batch.ids.reshape(numbers.shape)
        own = self.settings.batch_size - self.shown
        parts = [(self.replay, slice(own))]
        if self.demonstrations is not None and self.shown:
            parts.append((self.demonstrations.replay, slice(own, None)))
        for replay, part in parts:
            replay.update_priorities(ids[kept, part].ravel(), numbers[kept, part].ravel())

    @property
    def beta(self) -> float:
        """Exponent of importance weights; grows to 1 over the run (arXiv:1511.05952)."""
        start = self.settings.priority_beta
        return start + (1.0 - start) * (1.0 - self.remaining)

    @property
    def remaining(self) -> float:
        """The fraction of the planned env steps that remains."""
        return remaining(self.pace.steps, self.planned_steps)

    @property
    def random(self) -> float:
        """The least share of random actions: 1 until learning starts, then less and less.

        A policy that was cloned, or taken from another run, acts from the first step.
        """
        if self.demonstrations is not None and self.demonstrations.settings.clones:
            if self.explore_steps or not self.planned_steps:
                return 0.0
            return self.demonstrations.settings.random_actions * self.remaining
        if self.policy.warm:
            return 0.0
        if self.pace.warming_up:
            return 1.0
        since = self.pace.steps - self.pace.learning_starts
        return max(0.0, 1.0 - since / self.explore_steps) if self.explore_steps else 0.0

    def restore(self, account: dict[str, Any]) -> None:
        """Restore the saved state of ``pace``, after that of the replay."""
        self.pace.load_state_dict(account)
        self._in_flight.clear()
        if not len(self.replay):
            self.pace.refill()
        self._grant()

    def _grant(self) -> None:
        cloning = self.demonstrations is not None and self.demonstrations.cloning
        # A quota of zero holds back the first version until the policy is cloned.
        quota = 0 if cloning else self.pace.quota(self._in_flight.steps)
        if quota != self.policy.quota:  # to set an attribute of a module takes 5 us
            self.policy.quota = quota
        if (random := self.random) != self.policy.exploration.get("random"):
            self.policy.exploration = {"random": random}


def leaves(rows: dict[str, Column], prefix: str) -> dict[str, Column]:
    """Return the observation leaves of the columns that begin with ``prefix``."""
    return {n.removeprefix(prefix): rows[n] for n in rows if n.startswith(prefix)}


def tensors(rows: dict[str, Array], device: torch.device) -> Tensors:
    """Return columns as tensors on ``device``."""
    here = {name: torch.from_numpy(column) for name, column in rows.items()}
    if device.type == "cpu":  # every call of a tensor's method takes a microsecond
        return here
    return {name: column.to(device) for name, column in here.items()}
