"""What the training node tells the others: episodes with a stamp, and its status."""

import logging
from collections import deque
from collections.abc import Callable, Iterable
from functools import partial
from typing import Literal

import msgspec

from soulsai.training_node.client_table import Roster
from soulsai.training_node.gate import Gate
from soulsai.training_node.measures import Measures
from soulsai.training_node.retrying_wire import Line
from soulsai.training_node.saving.saver import Saver
from soulsai.training_node.start import Run
from soulsai.training_node.trust.quarantine import Quarantine
from soulsai.types import Episode, Status
from soulsai.wire.protocols import TrainingWire

PENDING = 10_000  # episodes that wait while the server cannot be reached
AT_ONCE = 500

Phase = Literal["starting", "waiting", "warming up", "learning", "paused", "stopping", "ended"]

log = logging.getLogger(__name__)


class Reporter:
    """Records episodes and reports the status, later if it cannot be now."""

    def __init__(
        self,
        run: Run,
        wire: TrainingWire,
        line: Line,
        roster: Roster,
        measures: Measures,
        saver: Saver,
        gate: Gate,
        quarantine: Quarantine,
        *,
        clock: Callable[[], float],
        now: Callable[[], float],
    ) -> None:
        self._run = run
        self._progress = run.progress
        self._wire = wire
        self._line = line
        self._roster = roster
        self._measures = measures
        self._saver = saver
        self._gate = gate
        self._quarantine = quarantine
        self._clock = clock
        self._now = now
        self._start = clock()
        self._before = run.progress.seconds
        self._pending: deque[Episode] = deque()
        self._unrecorded = 0
        self._reduced = False  # a status could not be encoded

    @property
    def seconds(self) -> float:
        """How long this run has been trained, by all nodes together."""
        return self._before + self._clock() - self._start

    def note(self, episodes: Iterable[Episode]) -> list[Episode]:
        """Stamp episodes, and record them soon."""
        time, env_steps = self._now(), self._progress.env_steps
        stamped = [
            msgspec.structs.replace(episode, env_steps=env_steps, time=time) for episode in episodes
        ]
        self._pending.extend(stamped)
        while len(self._pending) > PENDING:
            self._pending.popleft()
            self._unrecorded += 1
        return stamped

    def record(self) -> None:
        """Record what is pending, as far as that works."""
        while self._pending:
            some = [self._pending[i] for i in range(min(AT_ONCE, len(self._pending)))]
            if not self._line.attempt(partial(self._wire.record, some)):
                return
            for _ in some:
                self._pending.popleft()

    def report(self, status: Status) -> None:
        """Store the status, if that works now."""
        self._attempt(status, lambda each: self._line.attempt(lambda: self._wire.report(each)))

    def write(self, status: Status) -> None:
        """Write the status into the run's folder, if that works."""
        try:
            self._attempt(status, self._run.folder.write_status)
        except OSError as error:
            log.warning("status not written error=%s", error)

    def _attempt(self, status: Status, act: Callable[[Status], object]) -> None:
        """Hand over a status; one that cannot be encoded is replaced by a reduced one."""
        try:
            act(status)
        except (OverflowError, ValueError, TypeError) as error:  # the encoder's
            if not self._reduced:
                log.warning("status cannot be encoded, a reduced one is sent error=%s", error)
            self._reduced = True
            act(reduced(status, str(error)))

    def status(self, phase: Phase) -> Status:
        """Return the training node in numbers."""
        run, progress, measures = self._run, self._progress, self._measures
        env_steps_per_second, updates_per_second = measures.rates(self._clock())
        return Status(
            run=run.spec.run,
            generation=progress.generation,
            phase=phase,
            algorithm=run.spec.algorithm,
            environment=run.spec.environment.id,
            env_steps=progress.env_steps,
            max_env_steps=run.config.run.max_env_steps,
            updates=progress.updates,
            version=progress.version,
            episodes=progress.episodes,
            seconds=self.seconds,
            env_steps_per_second=env_steps_per_second,
            updates_per_second=updates_per_second,
            replay_ratio=measures.replay_ratio,
            reward_mean=measures.reward_mean,
            reward_trend=measures.reward_trend,
            lag=measures.lag,
            rejected=dict(progress.rejected),
            duplicates=progress.duplicates,
            lost=progress.lost,
            dropped=self._roster.dropped + run.algorithm.policy.dropped,
            bytes_received=progress.bytes_received,
            checkpoint=self._saver.newest,
            checkpoint_age=self._saver.age,
            clients=self._roster.statuses(
                progress.version, self._quarantine.reason, self._quarantine.finding
            ),
            metrics=measures.told,
            notice=self._notice,
            withheld=progress.withheld,
            rollbacks=progress.rollbacks,
            restarts=self._roster.restarts,
            faults=dict(self._roster.faults),
        )

    @property
    def _notice(self) -> str:
        unrecorded = f"{self._unrecorded} episodes were not recorded" if self._unrecorded else ""
        gate = f"no version is published: {self._gate.fault}" if self._gate.fault else ""
        kept_out = self._quarantine.notice
        parts = (self._line.fault, self._saver.notice, gate, unrecorded, kept_out)
        return "; ".join(filter(None, parts))


def reduced(status: Status, error: str) -> Status:
    """Return the part of a status that no client and no algorithm supplies."""
    return Status(
        run=status.run,
        generation=status.generation,
        phase=status.phase,
        algorithm=status.algorithm,
        environment=status.environment,
        env_steps=status.env_steps,
        max_env_steps=status.max_env_steps,
        updates=status.updates,
        version=status.version,
        seconds=status.seconds,
        checkpoint=status.checkpoint,
        checkpoint_age=status.checkpoint_age,
        notice=f"the full status cannot be encoded: {error}",
    )
