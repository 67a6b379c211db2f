"""The training node's report of itself: counters, averages, its status, and finished episodes."""

import logging
import math
from collections import deque
from collections.abc import Callable, Iterable, Sequence
from itertools import islice
from typing import Literal

import msgspec
import numpy as np

from soulsai.prometheus import Stopwatch, TrainingMetrics
from soulsai.training_node.admission import BAD_POSITION, Arrival
from soulsai.training_node.client_table import ClientTable, Rate, bounded
from soulsai.training_node.publisher import WeightsCheck
from soulsai.training_node.retrying_wire import RetryingWire
from soulsai.training_node.saving.saver import Saver
from soulsai.training_node.saving.snapshot import Progress
from soulsai.training_node.settled_marks import SettledMarks
from soulsai.training_node.start import TrainingRun
from soulsai.training_node.trust.quarantine import EXCLUDED, Quarantine
from soulsai.types import Episode, Event, Fragment, Metrics, Status, Weights

WINDOW = 100  # episodes in the mean reward
LAGS = 256  # fragments in the mean lag, and in the mean reward of a step
PENDING = 10_000  # episodes that wait while the server cannot be reached
IDLE_NOTICE_SECONDS = 60.0  # without an env step, after which a client is named in the notice
RECORDED_AT_ONCE = 500  # episodes
UNVERIFIED_AT_ONCE = 1000  # episodes whose steps did not all arrive, of all clients, that are
UNVERIFIED_PER_SECOND = 5.0  # recorded; anybody can claim any number of episodes
UNVERIFIED_BYTES = 1024  # of such an episode; a larger one counts as several
UNVERIFIED = "unverified"  # the reason under which the others are counted
TROUBLE_SECONDS = 600.0  # between two announcements of the trouble of one client
NEXT_TROUBLE_SECONDS = 10.0  # the same of any clients

Phase = Literal["starting", "waiting", "warming up", "learning", "paused", "stopping", "ended"]

log = logging.getLogger(__name__)


class TrainingStatistics:
    """Counts into the progress and into the metrics, and keeps moving averages."""

    def __init__(
        self,
        progress: Progress,
        warmup: int,
        metrics: TrainingMetrics | None = None,
        *,
        info_keys: Iterable[str] = (),
    ) -> None:
        """Begin to count.

        Args:
            progress: The run's counters.
            warmup: Env steps that are collected before learning begins.
            metrics: The metrics to count into.
            info_keys: Keys of the info that the settings name.
        """
        self._counters = metrics or TrainingMetrics()
        self._update_time = Stopwatch()
        self.update_seconds = 0.0  # spent on all updates
        self._metrics: Metrics = {}  # of the algorithm's last update
        self.progress = progress
        self._warmup = warmup
        self._rewards: deque[float] = deque(maxlen=2 * WINDOW)
        self._greedy: deque[float] = deque(maxlen=WINDOW)
        self._unseen_info = list(info_keys)  # keys that no episode has given yet
        self._has_episodes = False
        self._lags: deque[int] = deque(maxlen=LAGS)
        self._step_rewards: deque[tuple[float, int]] = deque(maxlen=LAGS)  # with their env steps
        self._steps, self._updates = Rate(), Rate()

    def arrived(self, arrival: Arrival, fragments: Sequence[Fragment]) -> None:
        """Count one arrival, and those of its fragments that go to the algorithm."""
        progress = self.progress
        progress.bytes_received += arrival.bytes
        progress.duplicates += arrival.duplicate
        if arrival.lost:
            progress.lost = bounded(progress.lost + arrival.lost)
        if messages := len(arrival.fragments) + len(arrival.refusals):
            self._counters.received.inc(messages)
        for reason, _ in arrival.refusals:
            progress.rejected[reason] = progress.rejected.get(reason, 0) + 1
        if arrival.discarded:
            unread = progress.rejected.get(EXCLUDED, 0)
            progress.rejected[EXCLUDED] = unread + arrival.discarded
        for fragment in fragments:
            steps = len(fragment)
            progress.env_steps += steps
            age = max(0, progress.version - fragment.version)
            self._lags.append(age)
            self._step_rewards.append((float(np.add.reduce(fragment.reward, dtype="f8")), steps))
            self._counters.sample_age.observe(age)

    def finished(self, episode: Episode) -> None:
        """Count an episode."""
        self.progress.episodes += 1
        self._counters.outcomes.labels("terminated" if episode.terminated else "truncated").inc()
        self._has_episodes = True
        if self._unseen_info:
            self._unseen_info = [key for key in self._unseen_info if key not in episode.info]
        if not episode.verified:  # its reward is a mere claim
            return
        if episode.kind == "intervened":  # a person has played a part of it
            return
        self._rewards.append(episode.reward)
        if episode.greedy:
            self._greedy.append(episode.reward)

    def updated(self, metrics: Metrics) -> None:
        """Count an update."""
        if self.progress.began is None:
            self.progress.began = self.progress.env_steps
        self.progress.updates += 1
        seconds = self._update_time.lap()
        self.update_seconds += seconds
        self._counters.update_seconds.observe(seconds)
        self._metrics = metrics

    def resumed(self) -> None:
        """Start to measure the time of the next update."""
        self._update_time.start()

    def published(self, weights: Weights, *, sent: bool) -> None:
        """Count the bytes of a version, if it was sent."""
        if sent:
            size = sum(array.nbytes for array in weights.arrays.values())
            self._counters.published.inc(size)

    def rates(self, now: float) -> tuple[float, float]:
        """Return the recent env steps and updates per second."""
        progress = self.progress
        steps = self._steps.per_second(now, progress.env_steps)
        return steps, self._updates.per_second(now, progress.updates)

    @property
    def missing_info(self) -> list[str]:
        """The keys of the info that no episode has given, once there are episodes."""
        return self._unseen_info if self._has_episodes else []

    @property
    def replay_ratio(self) -> float:
        """Updates per env step after the warm-up."""
        progress = self.progress
        steps = progress.env_steps - self._warmup
        return progress.updates / steps if steps > 0 else 0.0

    @property
    def reward_mean(self) -> float | None:
        """The mean reward of the last ``WINDOW`` episodes."""
        return _mean(list(self._rewards)[-WINDOW:])

    @property
    def reward_trend(self) -> float | None:
        """The difference between that mean and the mean of the episodes before."""
        rewards = list(self._rewards)
        half = len(rewards) // 2
        before, after = _mean(rewards[:half][-WINDOW:]), _mean(rewards[half:])
        return None if before is None or after is None else after - before

    @property
    def reward_per_step(self) -> float | None:
        """The mean reward of the env steps of recent fragments."""
        steps = sum(count for _, count in self._step_rewards)
        return math.fsum(total for total, _ in self._step_rewards) / steps if steps else None

    @property
    def lag(self) -> float:
        """Mean number of versions by which recent fragments were behind."""
        return _mean(self._lags) or 0.0

    @property
    def metrics(self) -> Metrics:
        """The algorithm's metrics, and the mean reward of greedy episodes."""
        greedy = _mean(self._greedy)
        return self._metrics if greedy is None else {**self._metrics, "greedy_reward_mean": greedy}


class StatusReporter:
    """Records episodes and reports the status; both are repeated while the server is away."""

    def __init__(
        self,
        run: TrainingRun,
        wire: RetryingWire,
        *,
        clients: ClientTable,
        statistics: TrainingStatistics,
        saver: Saver,
        check: WeightsCheck,
        quarantine: Quarantine,
        clock: Callable[[], float],
        now: Callable[[], float],
    ) -> None:
        """Prepare reports of a run.

        Args:
            run: The run.
            wire: The server.
            clients: The clients' states.
            statistics: The run's averages.
            saver: The state of the checkpoints.
            check: The fault of the weights, if there is one.
            quarantine: The excluded clients.
            clock: Seconds of a monotonic clock.
            now: Unix seconds.
        """
        self._run = run
        self._progress = run.progress
        self._wire = wire
        self._clients = clients
        self._statistics = statistics
        self._saver = saver
        self._check = check
        self._quarantine = quarantine
        self._clock = clock
        self._now = now
        self._start = clock()
        self._before = run.progress.seconds
        self._settled = SettledMarks()
        self._pending: deque[Episode] = deque()
        self._unrecorded = 0
        self._unverified = float(UNVERIFIED_AT_ONCE), self._start  # left to record, and since when
        self._unread = ""  # the last client with entries that were deleted unread
        self._troubles: dict[str, float] = {}  # clients whose trouble was announced, and when
        self._next_trouble = -math.inf  # the earliest time of the next announcement
        self._reduced = False  # a status could not be encoded

    @property
    def seconds(self) -> float:
        """The seconds of training of this run, by all nodes together."""
        return self._before + self._clock() - self._start

    def finished(self, episodes: Iterable[Episode]) -> None:
        """Count finished episodes and stamp them; they are recorded soon."""
        time, env_steps = self._now(), self._progress.env_steps
        for episode in episodes:
            if not episode.verified and not self._may_record(episode):
                continue
            self._statistics.finished(episode)
            self._pending.append(msgspec.structs.replace(episode, env_steps=env_steps, time=time))
        while len(self._pending) > PENDING:
            self._pending.popleft()
            self._unrecorded += 1

    def _may_record(self, episode: Episode) -> bool:
        """Return whether an episode may be recorded that is a mere claim; count it if not."""
        cost = max(1.0, len(msgspec.msgpack.encode(episode)) / UNVERIFIED_BYTES)
        (left, since), now = self._unverified, self._clock()
        left = min(UNVERIFIED_AT_ONCE, left + UNVERIFIED_PER_SECOND * (now - since))
        may = left >= cost
        self._unverified = left - cost * may, now
        if not may:
            rejected = self._progress.rejected
            rejected[UNVERIFIED] = rejected.get(UNVERIFIED, 0) + 1
        return may

    def unread(self, client: str, entries: int) -> None:
        """Count entries that were deleted unread, because their positions were read before."""
        rejected = self._progress.rejected
        rejected[BAD_POSITION] = rejected.get(BAD_POSITION, 0) + entries
        self._unread = (
            f"{client}: {entries} entries with old positions were not read; the server's clock was "
            "set back, or two computers use this name"
        )
        log.warning("entries not read client=%s entries=%d", client, entries)
        event = Event("client", self._unread)
        self._wire.attempt(lambda wire: wire.announce(event))

    def record(self) -> None:
        """Record the pending episodes, unless the server is away."""
        while self._pending:
            batch = tuple(islice(self._pending, RECORDED_AT_ONCE))
            if not self._recorded(batch):
                return
            for _ in batch:
                self._pending.popleft()

    def _recorded(self, batch: Sequence[Episode]) -> bool:
        return self._wire.attempt(lambda wire: wire.record(batch))

    def report(self, status: Status) -> None:
        """Store the status on the server, unless it is away, and announce clients' troubles."""
        self._announce_trouble(status)
        self._encoded(status, lambda each: self._wire.attempt(lambda wire: wire.report(each)))

    def confirm(self, now: float) -> None:
        """Tell clients how far they need not keep their entries any longer, given the time."""
        settled = self._settled.due(self._progress.marks, now)
        excluded = self._quarantine.excluded  # of whom nothing is to be left on the server
        upto = {client: place for client, place in settled.items() if client not in excluded}
        if upto:
            self._wire.attempt(lambda wire: wire.confirm(upto))

    def _announce_trouble(self, status: Status) -> None:
        """Announce the trouble of one client; any client may change its text at any time."""
        now = self._clock()
        present = {client.client for client in status.clients}
        self._troubles = {name: at for name, at in self._troubles.items() if name in present}
        if now < self._next_trouble:
            return
        for name, trouble in ((client.client, client.trouble) for client in status.clients):
            if trouble and now - self._troubles.get(name, -math.inf) >= TROUBLE_SECONDS:
                self._troubles[name], self._next_trouble = now, now + NEXT_TROUBLE_SECONDS
                event = Event("client", f"{name}: {trouble}")
                break
        else:
            return
        self._wire.attempt(lambda wire: wire.announce(event))

    def write(self, status: Status) -> None:
        """Write the status into the run's folder, unless the disk fails."""
        try:
            self._encoded(status, self._run.folder.write_status)
        except OSError as error:
            log.warning("status not written error=%s", error)

    def _encoded(self, status: Status, act: Callable[[Status], object]) -> None:
        """Call ``act`` with a status, or with a reduced one if it cannot be encoded."""
        try:
            act(status)
        except (OverflowError, ValueError, TypeError, msgspec.MsgspecError) as error:
            if not self._reduced:
                log.warning("status cannot be encoded, a reduced one is sent error=%s", error)
            self._reduced = True
            act(reduced(status, str(error)))

    def status(self, phase: Phase) -> Status:
        """Return the present status."""
        run, progress, statistics = self._run, self._progress, self._statistics
        env_steps_per_second, updates_per_second = statistics.rates(self._clock())
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
            replay_ratio=statistics.replay_ratio,
            reward_mean=statistics.reward_mean,
            reward_trend=statistics.reward_trend,
            reward_per_step=statistics.reward_per_step,
            lag=statistics.lag,
            rejected=dict(progress.rejected),
            duplicates=progress.duplicates,
            lost=progress.lost,
            dropped=bounded(self._clients.dropped + run.algorithm.policy.dropped),
            bytes_received=progress.bytes_received,
            checkpoint=self._saver.newest,
            checkpoint_age=self._saver.age,
            clients=self._clients.statuses(
                progress.version, self._quarantine.reason, self._quarantine.finding
            ),
            metrics=statistics.metrics,
            notice=self._notice,
            purged=self._quarantine.purged,
            withheld=progress.withheld,
            rollbacks=progress.rollbacks,
            restarts=self._clients.restarts,
            faults=dict(self._clients.faults),
        )

    @property
    def _notice(self) -> str:
        unrecorded = f"{self._unrecorded} episodes were not recorded" if self._unrecorded else ""
        unsound = f"no version is published: {self._check.fault}" if self._check.fault else ""
        kept_out = self._quarantine.notice
        idle = self._clients.idle(IDLE_NOTICE_SECONDS)
        others = f" and {len(idle) - 1} more" if len(idle) > 1 else ""
        stuck = f"no env steps for a minute: {idle[0]}{others}" if idle else ""
        missing = self._statistics.missing_info
        unknown = (
            f"no episode's info has had the number{'s' * (len(missing) > 1)} {', '.join(missing)} "
            "(of environment.info_keys or telemetry.metrics)"
            if missing
            else ""
        )
        parts = (
            self._wire.fault,
            self._saver.notice,
            unsound,
            unrecorded,
            kept_out,
            stuck,
            self._unread,
            unknown,
        )
        return "; ".join(filter(None, parts))


def _mean(numbers: Sequence[float] | deque[float] | deque[int]) -> float | None:
    """Return the mean, or ``None`` of nothing."""
    return float(np.mean(numbers)) if numbers else None


def reduced(status: Status, error: str) -> Status:
    """Return a status without the parts that come from clients and from the algorithm."""
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
