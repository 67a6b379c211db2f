"""The training node: it turns experience into weights, and does all else between two updates."""

import logging
import platform
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from datetime import datetime
from importlib import metadata
from pathlib import Path
from random import Random

import msgspec
import torch

from soulsai import __version__
from soulsai.algorithms.settings import LearnerSettings
from soulsai.config.schema import Config
from soulsai.datasets.kept_experience import KeptRun
from soulsai.errors import CheckpointError, SoulsAIError, Superseded
from soulsai.evaluations.record import awaits
from soulsai.process import MemoryRelease, available_cores
from soulsai.prometheus import Exporter, TrainingMetrics
from soulsai.training_node import learning_process, start
from soulsai.training_node.admission import Admission, Arrival
from soulsai.training_node.background_compile import BackgroundCompile
from soulsai.training_node.client_table import ClientTable
from soulsai.training_node.command_handler import CommandHandler
from soulsai.training_node.demonstrators import Demonstrators
from soulsai.training_node.failed_entries import FailedEntries
from soulsai.training_node.forecast import batch_seconds
from soulsai.training_node.publisher import Publisher
from soulsai.training_node.receiver import INBOX_BYTES, Receiver
from soulsai.training_node.retrying_wire import RetryingWire
from soulsai.training_node.saving.experience_writer import ExperienceWriter, NoExperienceWriter
from soulsai.training_node.saving.rollback import Rollback
from soulsai.training_node.saving.saver import Saver
from soulsai.training_node.start import TrainingRun
from soulsai.training_node.status import Phase, StatusReporter, TrainingStatistics
from soulsai.training_node.trust.action_check import ActionCheck, Recomputation
from soulsai.training_node.trust.audit_log import AuditLog
from soulsai.training_node.trust.grants import Grants
from soulsai.training_node.trust.quarantine import Quarantine
from soulsai.training_node.trust.rate_limit import RateLimit
from soulsai.types import Answer, Control, Event, Fragment, SaveBest, Spec, Status, Weights
from soulsai.wire.codec import decode_entry
from soulsai.wire.protocols import Position, TrainingWire

LOOK_SECONDS = 0.1  # between two looks at commands and at whether to stop
REPORT_SECONDS = 1.0  # between two reports, and between two checks of the generation
FORGET_SECONDS = 3600.0  # of silence, after which a client's stream is deleted
MOST_MARKS = 4096  # streams whose end is remembered: a client may send old entries again
STALE_SECONDS = 1.5  # after a version, during which earlier reports of clients may still arrive
ROOM_SECONDS = 2.0  # between two checkpoints that only make room on the server
CROWDED_SECONDS = 30.0  # the same, if one client takes much of it
LAST_EVALUATION_SECONDS = 120.0  # for the evaluator, after the end
LAST_EVALUATION = (
    "the evaluator plays the last checkpoint, for two minutes at most; Ctrl-C does not wait for it"
)
LAST_LOOKS = 15  # at commands after the end: the last episodes may have produced a new best
EXTRA_UPDATES = 1000  # beyond half of the updates so far: the most after the last env step
OVERFULL = 2  # times the bound of a stream, beyond which its oldest entries are deleted

log = logging.getLogger(__name__)


def serve(
    config: Config,
    spec: Spec,
    wire: TrainingWire,
    *,
    resume: str = "",
    stopped: Callable[[], bool],
) -> Status:
    """Train until the run's end, a stop command, or ``stopped``; return the last status.

    Args:
        config: All settings.
        spec: Observations and actions of the environment.
        wire: The server; it stays open.
        resume: A run's id or ``latest``, to continue from its newest undamaged checkpoint.
        stopped: Whether to write a last checkpoint and return.

    Raises:
        Superseded: Another training node has taken over; nothing was saved.
        CheckpointError: There is nothing to resume, or the last checkpoint was not written.
        WireError: There is no server at the start, or it denies access.
    """
    with learning_process.prepared(threads=config.training.threads or 1):
        if resume:
            run = start.resumed_run(config, spec, wire, resume)
        else:
            run = start.new_run(config, spec, wire, datetime.now().astimezone())
        run.folder.write_versions(_versions())
        if not run.config.training.threads:
            _choose_threads(run)
        node = TrainingNode(run, wire, stopped=stopped)
        learning_process.freeze()
        with Exporter(node.metrics.registry, config.metrics.bind, config.metrics.port):
            return node.run()


def _choose_threads(run: TrainingRun) -> None:
    """Set torch's threads by a measurement, where batches have a known size."""
    config, spec, policy = run.config, run.spec.spec, run.algorithm.policy
    learner = config.learner
    if not isinstance(learner, LearnerSettings) or config.training.device != "cpu":
        return
    _, rows = learner.rows_per_update(spec.action.kind)
    threads = learning_process.choose_threads(
        lambda: batch_seconds(policy, spec, rows, time.perf_counter),
        available_cores() - config.run.clients,
    )
    log.info("threads=%d", threads)


class TrainingNode:
    """Drives one algorithm; it saves, publishes and answers while the algorithm waits for data."""

    def __init__(
        self,
        run: TrainingRun,
        wire: TrainingWire,
        *,
        stopped: Callable[[], bool],
        clock: Callable[[], float] = time.monotonic,
        now: Callable[[], float] = time.time,
    ) -> None:
        """Prepare a node.

        Args:
            run: The run, new or resumed.
            wire: The server.
            stopped: Whether to write a last checkpoint and return.
            clock: Seconds of a monotonic clock.
            now: Unix seconds.
        """
        algorithm = run.algorithm
        self._run, self._progress = run, run.progress
        self._raw_wire, self._wire = wire, RetryingWire(wire, clock)
        self._stopped = stopped
        self._clock, self._now = clock, now
        self._clients = ClientTable(clock())
        self.metrics = TrainingMetrics(algorithm=run.spec.algorithm, torch=torch.__version__)
        self._statistics = self._new_statistics()
        self._publisher = Publisher(run, self._send)
        self._saver = Saver(
            run.folder, run.config.checkpoint, run.progress, algorithm.parts,
            self._publisher.file, clock=clock, took=self.metrics.checkpoint_seconds.observe,
        )  # fmt: skip
        self._rollback = Rollback(run)
        self._failed = FailedEntries(run.folder.path)
        self._audit = AuditLog(run.folder.path, now)
        self._grants = Grants(run.progress.generation, resumed=run.progress.env_steps > 0)
        self._quarantine = self._new_quarantine()
        self._receiver = self._new_receiver()
        self._compile = self._new_compile()
        self._commands = CommandHandler(
            self._wire, self._saver, self._quarantine, self._audit, self._best_policy,
            self._rollback.refusal, self._publisher.kept_weights,
            lambda: self._clients.sharing,
        )  # fmt: skip
        self._reporter = StatusReporter(
            run, self._wire, clients=self._clients, statistics=self._statistics,
            saver=self._saver, check=self._publisher.check, quarantine=self._quarantine,
            clock=clock, now=now,
        )  # fmt: skip
        self._experience, self._demonstrators = self._new_writer(), self._new_demonstrators()
        self._requests = 0  # of the algorithm for arrivals since its last update
        self._waiting: deque[Arrival] = deque()  # received, but not admitted yet
        self._given: list[Arrival] = []  # to the algorithm, with the last answer
        self._failure: Exception | None = None  # in the handling of an arrival
        self._late_updates = 0  # after the last env step
        self._memory = MemoryRelease()
        self._trimmed: dict[str, Position] = {}  # the positions up to which streams were deleted
        self._next_look = self._next_report = -float("inf")
        self._stop_asked = False
        self._leaving: Phase | None = None

    def __repr__(self) -> str:
        progress = self._progress
        return (
            f"<TrainingNode [{progress.run}, {self.phase}, "
            f"{progress.env_steps} env steps, {progress.updates} updates]>"
        )

    def run(self) -> Status:
        """Train until the end; return the last status."""
        self._saver.notice = self._run.note
        if self._run.note:
            self._wire.attempt(lambda wire: wire.announce(Event("checkpoint", self._run.note)))
        try:
            while True:
                with self._receiver:
                    self._learn()
                    if not self._publisher.check.hopeless and self._commands.return_to is None:
                        return self._finish()
                self._go_back()
        finally:
            self._saver.close()
            self._compile.close()
            self._experience.close()

    @property
    def phase(self) -> Phase:
        """The node's present activity, in a word or two."""
        if self._leaving is not None:
            return self._leaving
        if self._commands.paused:
            return "paused"
        if not self._clients.active and not self._is_full:
            return "waiting"
        return "warming up" if self._progress.began is None else "learning"

    def _learn(self) -> None:
        """Drive the algorithm until the run's end, or until its weights cannot recover."""
        try:
            for metrics in self._run.algorithm.learn(self._arrivals()):
                self._statistics.updated(metrics)
                self._publisher.unpublished = True
                self._requests = 0
                self._late_updates += self._is_full
        except Superseded:  # the folder belongs to the newer node
            raise
        except Exception as error:
            self._failed.note(_places(self._given), error)
            try:
                self._save_last()
            except (SoulsAIError, OSError) as failure:
                log.error("no last checkpoint error=%s", failure)  # noqa: TRY400 - one line
            raise

    def _go_back(self) -> None:
        """Return to the last good version, and to the positions of the streams at that time."""
        self._saver.close()
        self._publisher.check.weights()
        asked, self._commands.return_to = self._commands.return_to, None
        if self._publisher.check.hopeless or asked is None:
            note = self._rollback.go_back(self._publisher.check.fault)
        else:
            note = self._rollback.go_back(asked.reason, asked.checkpoint)
        self._wire.attempt(lambda wire: wire.announce(Event("checkpoint", note)))
        self._publisher.restart()
        self._waiting.clear()
        self._receiver = self._new_receiver()
        self._late_updates = 0

    # ---- between two updates ----

    def _arrivals(self) -> Iterator[list[Fragment]]:
        """Yield admitted fragments to the algorithm; do the node's other work in between."""
        while True:
            self._requests += 1
            now = self._clock()
            if now >= self._next_look:
                self._next_look = now + LOOK_SECONDS
                self._look(now)
            if self._failure is not None:
                raise self._failure
            if self._is_over or self._publisher.check.hopeless:
                return
            if self._commands.return_to is not None:
                return
            starving = self._starving
            since = self._publisher.tried + STALE_SECONDS
            stuck = (
                starving
                and self._publisher.only_grants
                and self._clients.need_grant(self._progress.version, since)
            )
            if self._publisher.due(now, starving=starving, stuck=stuck):
                self._publish()
            self._receive()
            if self._commands.paused:
                continue
            if fragments := self._admit_waiting():
                self._requests = 0
            self._statistics.resumed()
            yield fragments
            self._given = []

    def _receive(self) -> None:
        """Move arrivals to ``_waiting``; wait for a moment if the algorithm needs some."""
        paused = self._commands.paused
        if self._waiting and not paused:
            return
        timeout = LOOK_SECONDS if paused or (self._requests > 1 and not self._is_full) else 0.0
        if paused and sum(arrival.bytes for arrival in self._waiting) > INBOX_BYTES:
            time.sleep(timeout)  # the others stay in the inbox and on the server
            return
        began = self._clock()
        arrivals = self._receiver.take(timeout)
        if timeout and not paused:
            self.metrics.starved.inc(max(0.0, self._clock() - began))
        for arrival in arrivals:
            if not arrival.discarded:
                self._clients.heard(arrival, self._clock())
            self._waiting.append(arrival)

    def _admit_waiting(self) -> list[Fragment]:
        """Take waiting arrivals through the pipeline; the algorithm must get the result at once."""
        fragments: list[Fragment] = []
        while self._waiting and not self._is_full:
            arrival = self._waiting.popleft()
            env_steps = self._progress.env_steps
            try:
                fragments += self._pipeline(arrival)
            except Exception as error:  # noqa: BLE001 - raised after the algorithm got the others
                self._progress.env_steps = env_steps
                if not isinstance(error, SoulsAIError):  # access denied, for example
                    self._failed.note(_places([arrival]), error)
                self._failure = error
                break
            self._given.append(arrival)
        return fragments

    def _pipeline(self, arrival: Arrival) -> list[Fragment]:
        """Take one arrival from the receiver to the algorithm; return its fragments.

        Before this, the receiver has decoded the entry, and ``Admission`` has checked its numbers
        and removed duplicates.
        """
        arrival = self._quarantine.admit(self._demonstrators.marked(arrival))
        self._receiver.excluded = self._quarantine.excluded
        fragments = self._grants.marked(self._until_full(arrival.fragments))
        steps = sum(len(fragment) for fragment in fragments)
        self._statistics.arrived(arrival, fragments)
        self._clients.count(arrival, steps)
        self._audit.count(arrival, steps)
        self._reporter.finished(arrival.episodes)
        marks = self._progress.marks
        marks.pop(arrival.client, None)  # the client silent longest is the first in order
        marks[arrival.client] = arrival.mark  # after all else: a failed entry is read again
        self._experience.keep(fragments)
        return fragments

    def _until_full(self, fragments: Iterable[Fragment]) -> list[Fragment]:
        """Return the fragments up to the one with the run's last env step."""
        limit, total = self._run.config.run.max_env_steps, self._progress.env_steps
        fitting: list[Fragment] = []
        for fragment in fragments:
            if 0 < limit <= total:
                break
            total += len(fragment)
            fitting.append(fragment)
        return fitting

    def _look(self, now: float) -> None:
        """Do the work that is due ten times a second, and the work that is due once a second."""
        self._stop_asked = self._stop_asked or self._stopped()
        self._commands.serve()
        self._quarantine.look()
        self._publisher.count(self._clients.sharing, self._clients.active)
        self._receiver.excluded = self._quarantine.excluded
        self._reporter.record()
        self._compile.look()
        if self._saver.due:
            self._save()
        if self._saver.collect():
            self._saved()
        if now >= self._next_report:
            self._next_report = now + REPORT_SECONDS
            self._clients.tick(now)
            self._check_generation()
            self._wire.attempt(lambda wire: wire.limit_connections())
            if self._wire.full or self._is_crowded:
                self._make_room()
            status = self._reporter.status(self.phase)
            self.metrics.report(status, self._now(), backlog=len(self._waiting))
            self._reporter.report(status)
            self._reporter.confirm(now)
            self._memory.look(now)

    @property
    def _is_full(self) -> bool:
        """Whether all env steps of the run are admitted."""
        return 0 < self._run.config.run.max_env_steps <= self._progress.env_steps

    @property
    def _starving(self) -> bool:
        """Whether the algorithm can do nothing until more experience comes."""
        nothing_waits = not self._waiting and self._receiver.inbox.is_empty
        return self._requests > 1 and (self._is_full or nothing_waits)

    @property
    def _is_over(self) -> bool:
        if self._stop_asked or self._commands.stopping:
            return True
        if not self._is_full or self._commands.paused:
            return False
        enough = self._late_updates > self._progress.updates // 2 + EXTRA_UPDATES
        return enough or self._starving

    # ---- publication and checkpoints ----

    def _send(self, weights: Weights) -> bool:
        self._receiver.publishing(weights.generation, weights.version)
        sent = self._wire.attempt(lambda wire: wire.publish(weights))
        self._statistics.published(weights, sent=sent)
        return sent

    def _publish(self) -> None:
        if self._publisher.publish(self._clock(), self._clients.restart_counts()):
            self._grants.published(self._publisher.granted)

    def _check_generation(self) -> bool:
        return start.check_generation(self._run, self._wire, self._publish)

    def _save(self) -> None:
        """Begin a checkpoint, unless the weights are unsound."""
        self._check_generation()
        self._publisher.check.weights()
        if self._publisher.check.fault:
            self._publisher.unpublished = True
            return
        self._progress.seconds = self._reporter.seconds
        self._saver.begin()

    def _saved(self) -> None:
        """Record and announce a new checkpoint, and delete the entries that it covers."""
        self._audit.saved(self._saver.newest, self._progress.env_steps)
        self._trim()
        event = Event("checkpoint", f"{self._saver.newest} at {self._progress.updates} updates")
        self._wire.attempt(lambda wire: wire.announce(event))
        self._reporter.write(self._reporter.status(self.phase))

    def _trim(self) -> None:
        """Delete the entries that our newest checkpoint covers, unless a newer node needs them.

        A newer node raises the generation before it looks for the newest checkpoint the last time.
        So it has found ours, or we find its generation here.
        """
        if not self._check_generation():
            return
        self._find_unread()
        marks = self._progress.marks
        upto = {
            client: position
            for client, position in self._saver.durable.items()
            if client in marks and marks[client].position >= position
        }
        if self._wire.attempt(lambda wire: wire.trim(upto)):
            self._trimmed = upto
            self._publisher.hurry()
        self._clients.found(self._receiver.streams)
        if not self._waiting and self._receiver.inbox.is_empty:  # no one is silent unread
            for client in self._clients.silent(FORGET_SECONDS):
                if self._delete_stream(client):
                    self._clients.forget(client)
        for client in list(marks)[: max(0, len(marks) - MOST_MARKS)]:
            self._receiver.forget(client)
            del marks[client]

    def _find_unread(self) -> None:
        """Find streams with new entries before their marks, and read those from their start.

        The ids are times of the server's clock. If that is set back after a stream was deleted,
        new entries have smaller ids than those that were read, and would never be read. A client
        that was heard since the last deletion is in order: the server has lost the deletion.
        """
        counts: dict[str, int] = {}
        if not self._trimmed:
            return
        self._wire.attempt(lambda wire: counts.update(wire.trim(self._trimmed)))
        marks = self._progress.marks
        for client, count in counts.items():
            if count and client in marks and marks[client].position == self._trimmed[client]:
                self._reporter.unread(client, count)
                del marks[client]
                self._receiver.read_again(client)

    def _delete_stream(self, client: str) -> bool:
        return self._wire.attempt(lambda wire: wire.forget(client))

    @property
    def _is_crowded(self) -> bool:
        age = self._saver.age
        return self._receiver.crowded and age is not None and age > CROWDED_SECONDS

    def _make_room(self) -> None:
        """Free memory of the server; save early if that is necessary for it."""
        self._wire.full = False
        age = self._saver.age
        if age is not None and age <= ROOM_SECONDS:
            self._trim()
        elif self._saver.ready:
            self._save()

    # ---- the end ----

    def _finish(self) -> Status:
        """Save everything, and tell the clients that the run has ended; the server may be gone."""
        ended = self._is_full or self._commands.stopping
        if not self._wire.fault:
            self._check_generation()
        self._leaving = "stopping"
        self._progress.seconds = self._reporter.seconds
        try:
            self._save_last()
        except CheckpointError as error:
            self._commands.answer_stops(Answer(done=False, message=str(error)))
            raise
        self._trim()
        if self._publisher.unpublished:
            self._publish()
        self._reporter.record()
        progress = self._progress
        end = (
            f"{progress.env_steps:,} env steps and {progress.updates:,} updates; "
            f"saved checkpoint {self._saver.newest}"
        )
        if ended:
            self._leaving = "ended"
            self._wire.attempt(lambda wire: wire.tell(Control("stop")))
            self._wire.attempt(lambda wire: wire.announce(Event("stopped", end)))
        status = self._reporter.status(self._leaving)
        self._reporter.write(status)
        self._reporter.report(status)
        if self._is_full:
            self._linger(status)
        self._commands.answer_stops(Answer(done=True, message=f"stopped after {end}"))
        log.info("run stopped phase=%s %s", self._leaving, end)
        return status

    def _save_last(self) -> None:
        """Write the last checkpoint; one of unsound weights would hide the last good one."""
        self._publisher.check.weights()
        if self._publisher.check.fault:
            self._saver.close()
            log.warning("no last checkpoint fault=%r", self._publisher.check.fault)
        else:
            self._saver.final()
            self._audit.saved(self._saver.newest, self._progress.env_steps)

    def _linger(self, status: Status) -> None:
        """Answer commands for a moment; everything is saved, so it may be cut short.

        The evaluator gets the time to play the last checkpoint, as that may be the best one.
        """
        looks, end = LAST_LOOKS, self._clock() + LAST_EVALUATION_SECONDS
        while looks > 0:
            if self._stopped() or self._commands.stopping:
                return
            time.sleep(LOOK_SECONDS)
            self._commands.serve()
            is_playing = self._clock() < end and awaits(
                self._run.folder.path, self._saver.newest, self._now()
            )
            if self._clock() >= self._next_report:
                self._next_report = self._clock() + REPORT_SECONDS
                notice = LAST_EVALUATION if is_playing else status.notice
                self._reporter.report(msgspec.structs.replace(status, notice=notice))
            looks = LAST_LOOKS if is_playing else looks - 1

    def _best_policy(self, command: SaveBest) -> bytes | None:
        """Return the policy that the evaluator has played, or else the published version."""
        if command.checkpoint:
            policy = self._run.folder.evaluated_policy(command.checkpoint)
            if policy is not None:
                return policy
        return self._publisher.kept_file(command.generation, command.version)

    # ---- parts that are made from the run ----

    def _new_statistics(self) -> TrainingStatistics:
        """Return the counts of the run."""
        run = self._run
        return TrainingStatistics(
            run.progress,
            run.algorithm.policy.warmup,
            self.metrics,
            info_keys=run.spec.environment.info_keys,
        )

    def _new_receiver(self) -> Receiver:
        """Return a receiver that reads from the positions of the run's marks."""
        run = self._run
        admission = Admission(
            run.spec,
            run.program.head,
            lambda entry: decode_entry(entry, run.spec),
            marks=run.progress.marks,
            newest=(run.progress.generation, run.progress.version),
            now=self._now,
        )
        receiver = Receiver(
            self._raw_wire, admission, most=OVERFULL * run.spec.stream_entries,
            pause=run.config.training.read_seconds, failed=self._failed, rng=Random(),
            clock=self._clock,
        )  # fmt: skip
        receiver.excluded = self._quarantine.excluded
        return receiver

    def _new_writer(self) -> ExperienceWriter | NoExperienceWriter:
        """Return the writer of experience; without a folder in the settings it keeps nothing."""
        run, settings = self._run, self._run.config.training
        if not settings.keep_experience:
            return NoExperienceWriter()
        return ExperienceWriter(
            Path(settings.keep_experience) / run.folder.run,
            KeptRun(run.spec, run.program.head),
            most_bytes=int(settings.keep_experience_mb * 1e6),
        )

    def _new_compile(self) -> BackgroundCompile:
        """Return what compiles the updates while the learner already learns."""
        run = self._run
        return BackgroundCompile(
            run.config, run.spec.spec, run.algorithm, self._statistics, self._clock
        )

    def _new_demonstrators(self) -> Demonstrators:
        """Return those whose whole play is a demonstration."""
        folder, taken = Path(self._run.config.redis.secrets), self._run.spec.interventions
        return Demonstrators(folder, taken=taken, clock=self._clock)

    def _new_quarantine(self) -> Quarantine:
        """Return the quarantine, with its checks."""
        run, settings = self._run, self._run.config
        policy, parts = run.algorithm.policy, run.algorithm.parts

        def announce(event: Event) -> bool:
            return self._wire.attempt(lambda wire: wire.announce(event))

        def notify(client: str, notice: str) -> bool:
            return self._wire.attempt(lambda wire: wire.notify(client, notice))

        recompute = Recomputation(policy, run.program, run.spec, self._publisher.kept)
        check = ActionCheck(
            settings.trust.action_check, recompute, self._audit,
            announce=announce, rng=Random(), clock=self._clock,
        )  # fmt: skip
        return Quarantine(
            run.progress.quarantined, parts, check,
            RateLimit(settings.training.most_times, self._clock), self._audit,
            notify=notify, announce=announce, now=self._now,
        )  # fmt: skip


def _versions() -> dict[str, str]:
    """Return the versions of the software at work."""
    found = {name: metadata.version(name) for name in ("numpy", "torch", "onnx", "gymnasium")}
    return {"soulsai": __version__, "python": platform.python_version(), **found}


def _places(arrivals: Iterable[Arrival]) -> list[tuple[str, Position]]:
    return [(arrival.client, arrival.mark.position) for arrival in arrivals]
