"""The training node: experience in, weights out, and everything else between two updates."""

import logging
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from datetime import datetime
from functools import partial

import torch

from soulsai.config.schema import Config
from soulsai.errors import CheckpointError, SoulsAIError, Superseded
from soulsai.prometheus import Exporter, TrainingMetrics
from soulsai.training_node import entrance, start
from soulsai.training_node.admission import Arrival, surplus
from soulsai.training_node.client_table import Roster
from soulsai.training_node.command_handler import Orders
from soulsai.training_node.compiling import Compiling
from soulsai.training_node.failed_entries import FailedEntries
from soulsai.training_node.fence import Fence
from soulsai.training_node.measures import Measures
from soulsai.training_node.publisher import Publisher
from soulsai.training_node.receiver import INBOX_BYTES
from soulsai.training_node.retrying_wire import Line
from soulsai.training_node.saving.rollback import Rollback
from soulsai.training_node.saving.saver import Saver
from soulsai.training_node.start import Run
from soulsai.training_node.status import Phase, Reporter
from soulsai.training_node.trust.audit_log import AuditLog
from soulsai.types import Answer, Control, Event, Fragment, Spec, Status, Weights
from soulsai.wire.protocols import Position, TrainingWire

LOOK_SECONDS = 0.1  # between two looks at commands and at whether to stop
REPORT_SECONDS = 1.0  # between two reports, and between two looks for a newer node
FORGET_SECONDS = 3600.0  # of silence, after which a client's stream is deleted
MOST_MARKS = 4096  # streams whose end is kept in mind: a client may send again what was counted
STALE_SECONDS = 1.5  # after a version, what clients said before it is no news any more
ROOM_SECONDS = 2.0  # between two checkpoints that only make room on the server
LAST_LOOKS = 15  # at commands after the end: the last episodes may have shown what was best
EXTRA_UPDATES = 1000  # beyond a doubling: the most that is worked off after the last env step

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
        spec: What the environment looks like.
        wire: The server; it stays open.
        resume: A run's id or ``latest``, to go on from its newest undamaged checkpoint.
        stopped: Whether to take a last checkpoint and return.

    Raises:
        Superseded: Another training node has taken over; nothing was saved.
        CheckpointError: Nothing to resume, or the last checkpoint could not be written.
        WireError: There is no server at the start, or it refuses us.
    """
    torch.set_num_threads(config.training.threads)
    if resume:
        run = start.go_on(config, spec, wire, resume)
    else:
        run = start.begin(config, spec, wire, datetime.now().astimezone())
    node = TrainingNode(run, wire, stopped=stopped)
    with Exporter(node.metrics.registry, config.metrics.bind, config.metrics.port):
        return node.run()


class TrainingNode:
    """Drives one algorithm; saves, publishes and answers only while it waits for arrivals."""

    def __init__(
        self,
        run: Run,
        wire: TrainingWire,
        *,
        stopped: Callable[[], bool],
        clock: Callable[[], float] = time.monotonic,
        now: Callable[[], float] = time.time,
    ) -> None:
        config, progress = run.config, run.progress
        self._run = run
        self._wire = wire
        self._stopped = stopped
        self._clock = clock
        self._progress = progress
        self._line = Line(clock)
        self._roster = Roster(clock())
        self.metrics = TrainingMetrics(algorithm=run.spec.algorithm, torch=torch.__version__)
        self._measures = Measures(progress, run.algorithm.policy.warmup, self.metrics)
        algorithm = run.algorithm
        self._publisher = Publisher(
            algorithm.policy, run.program, run.spec, progress, config.training, self._send,
            config.run.clients,
        )  # fmt: skip
        self._saver = Saver(
            run.folder, config.checkpoint, progress, algorithm.parts, self._publisher.file,
            clock=clock, took=self.metrics.checkpoint_seconds.observe,
        )  # fmt: skip
        self._now = now
        self._failed = FailedEntries(run.folder.path)
        self._receiver = entrance.receiver(run, wire, self._failed, clock, now)
        self._compiling = Compiling(config, run.spec.spec, run.algorithm, self._measures, clock)
        self._rollback = Rollback(run)
        self._fence = Fence(run, wire, self._line, self._publish)
        self._audit = AuditLog(run.folder.path, now)
        self._quarantine = entrance.quarantine(
            run, self._publisher, self._audit, wire, self._line, clock, now
        )
        self._orders = Orders(
            wire, self._line, self._saver, self._quarantine, self._audit,
            self._publisher.kept_file,
        )  # fmt: skip
        self._reporter = Reporter(
            run, wire, self._line, self._roster, self._measures, self._saver, self._publisher.gate,
            self._quarantine, clock=clock, now=now,
        )  # fmt: skip
        self._asked = 0  # times that the algorithm asked for arrivals since its last update
        self._waiting: deque[Arrival] = deque()  # noted, but not yet admitted
        self._given: list[Arrival] = []  # held by the algorithm since it got control
        self._failure: Exception | None = None  # in the handling of an arrival
        self._worked_off = 0  # updates after the last env step
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
        try:
            while True:
                with self._receiver:
                    self._learn()
                    if not self._publisher.gate.hopeless:
                        return self._finish()
                self._go_back()
        finally:
            self._saver.close()
            self._compiling.close()

    def _learn(self) -> None:
        """Drive the algorithm until the run's end, or until its weights are past mending."""
        try:
            for metrics in self._run.algorithm.learn(self._arrivals()):
                self._measures.updated(metrics)
                self._publisher.unpublished = True
                self._asked = 0
                self._worked_off += self._is_full
        except Superseded:
            raise
        except Exception as error:
            self._failed.note(_places(self._given), error)
            try:
                self._save_last()
            except (SoulsAIError, OSError) as failure:
                log.error("no last checkpoint error=%s", failure)  # noqa: TRY400 - one line
            raise

    def _go_back(self) -> None:
        """Return to the last good version, and to where the streams stood then."""
        self._saver.close()
        self._rollback.go_back(self._publisher.gate.judge().fault)
        self._publisher.restart()
        self._waiting.clear()
        self._receiver = entrance.receiver(
            self._run, self._wire, self._failed, self._clock, self._now
        )
        self._worked_off = 0

    @property
    def phase(self) -> Phase:
        """What the node is doing, in a word or two."""
        if self._leaving is not None:
            return self._leaving
        if self._orders.paused:
            return "paused"
        if not self._roster.active and not self._is_full:
            return "waiting"
        return "warming up" if self._progress.began is None else "learning"

    # ---- between two updates ----

    def _arrivals(self) -> Iterator[list[Fragment]]:
        """Give the algorithm what came; everything else the node does, it does in here."""
        while True:
            self._asked += 1
            now = self._clock()
            if now >= self._next_look:
                self._next_look = now + LOOK_SECONDS
                self._look(now)
            if self._failure is not None:
                raise self._failure
            if self._is_over or self._publisher.gate.hopeless:
                return
            starving = self._starving
            since = self._publisher.tried + STALE_SECONDS
            stuck = starving and self._roster.all_wait(self._progress.version, since)
            if self._publisher.due(now, starving=starving, stuck=stuck):
                self._publish()
            self._listen()
            if self._orders.paused:
                continue
            if given := self._take_in():
                self._asked = 0
            self._measures.given()
            yield given
            self._given = []

    def _listen(self) -> None:
        """Note what has come; sleep for a moment if there is nothing to do without it."""
        paused = self._orders.paused
        if self._waiting and not paused:
            return
        timeout = LOOK_SECONDS if paused or (self._asked > 1 and not self._is_full) else 0.0
        if paused and sum(arrival.bytes for arrival in self._waiting) > INBOX_BYTES:
            time.sleep(timeout)  # the rest stays where it is
            return
        began = self._clock()
        arrivals = self._receiver.take(timeout)
        if timeout and not paused:
            self.metrics.starved.inc(max(0.0, self._clock() - began))
        for arrival in arrivals:
            if not arrival.discarded:
                self._roster.heard(arrival, self._clock())
            self._waiting.append(arrival)

    def _take_in(self) -> list[Fragment]:
        """Admit what waits; what is counted here is given to the algorithm at once."""
        fragments: list[Fragment] = []
        while self._waiting and not self._is_full:
            arrival = self._waiting.popleft()
            env_steps = self._progress.env_steps
            try:
                fragments += self._handle(arrival)
            except Exception as error:  # noqa: BLE001 - raised once the algorithm has the others
                self._progress.env_steps = env_steps
                self._failed.note(_places([arrival]), error)
                self._failure = error
                break
            self._given.append(arrival)
        return fragments

    def _handle(self, arrival: Arrival) -> list[Fragment]:
        fragments: list[Fragment] = []
        arrival = self._quarantine.admit(arrival)
        self._receiver.held = self._quarantine.excluded
        self._measures.arrived(arrival)
        before = self._progress.env_steps
        for fragment in arrival.fragments:
            if not self._is_full:
                self._measures.admitted(fragment, self._progress.version)
                fragments.append(fragment)
        taken = self._progress.env_steps - before
        self._roster.admitted(arrival, taken)
        self._audit.count(arrival, taken)
        for episode in self._reporter.note(arrival.episodes):
            self._measures.finished(episode)
        self._progress.marks[arrival.client] = arrival.mark  # last: a failed entry is read again
        return fragments

    def _look(self, now: float) -> None:
        """Do what is due about ten times a second, and what is due once a second."""
        self._stop_asked = self._stop_asked or self._stopped()
        self._orders.serve()
        self._quarantine.look()
        self._publisher.count(self._roster.active)
        self._receiver.held = self._quarantine.excluded
        self._reporter.record()
        self._compiling.look()
        if self._saver.due:
            self._save()
        if self._saver.collect():
            self._saved()
        if now >= self._next_report:
            self._next_report = now + REPORT_SECONDS
            self._roster.tick(now)
            self._fence()
            if self._line.full:
                self._make_room()
            status = self._reporter.status(self.phase)
            self.metrics.report(status, self._now(), backlog=len(self._waiting))
            self._reporter.report(status)

    @property
    def _is_full(self) -> bool:
        """Whether all env steps of the run have been admitted."""
        return 0 < self._run.config.run.max_env_steps <= self._progress.env_steps

    @property
    def _starving(self) -> bool:
        """Whether the algorithm can do nothing until more experience comes."""
        nothing_waits = not self._waiting and self._receiver.inbox.is_empty
        return self._asked > 1 and (self._is_full or nothing_waits)

    @property
    def _is_over(self) -> bool:
        if self._stop_asked or self._orders.stopping:
            return True
        if not self._is_full or self._orders.paused:
            return False
        enough = self._worked_off > self._progress.updates // 2 + EXTRA_UPDATES
        return enough or self._starving

    # ---- out ----

    def _send(self, weights: Weights) -> bool:
        self._receiver.publishing(weights.generation, weights.version)
        sent = self._line.attempt(lambda: self._wire.publish(weights))
        self._measures.published(weights, sent=sent)
        return sent

    def _publish(self) -> None:
        self._publisher.publish(self._clock(), self._roster.published())

    def _save(self) -> None:
        """Begin a checkpoint, unless the weights are worse than those of the last one."""
        self._fence()
        if self._publisher.gate.judge().fault:
            self._publisher.unpublished = True
            return
        self._progress.seconds = self._reporter.seconds
        self._saver.begin()

    def _saved(self) -> None:
        """Let go of what a checkpoint covers."""
        self._rollback.saved()
        self._audit.saved(self._saver.newest, self._progress.env_steps)
        self._trim()
        event = Event("checkpoint", f"{self._saver.newest} at {self._progress.updates} updates")
        self._line.attempt(lambda: self._wire.announce(event))
        self._reporter.write(self._reporter.status(self.phase))

    def _trim(self) -> None:
        """Let go of what our newest checkpoint covers, unless a newer node needs it.

        That node has made itself known before it looks for a checkpoint the last time: so it has
        found ours, or we find it here.
        """
        if not self._fence():
            return
        if self._line.attempt(lambda: self._wire.trim(self._saver.durable)):
            self._publisher.hurry()
        for client in self._roster.silent(FORGET_SECONDS):
            if self._line.attempt(partial(self._wire.forget, client)):
                self._roster.forget(client)
        for client in surplus(self._progress.marks, MOST_MARKS):
            self._receiver.forget(client)
            del self._progress.marks[client]

    def _make_room(self) -> None:
        """Free what the server holds for us; save early if that is what it takes."""
        self._line.full = False
        age = self._saver.age
        if age is not None and age <= ROOM_SECONDS:
            self._trim()
        elif self._saver.ready:
            self._save()

    def _finish(self) -> Status:
        """Save everything, and say goodbye; the server may be gone."""
        ended = self._is_full or self._orders.stopping
        if not self._line.fault:
            self._fence()
        self._leaving = "stopping"
        self._progress.seconds = self._reporter.seconds
        try:
            self._save_last()
        except CheckpointError as error:
            self._orders.stopped(Answer(done=False, message=str(error)))
            raise
        self._trim()
        if self._publisher.unpublished:
            self._publish()
        self._reporter.record()
        progress = self._progress
        said = f"{progress.env_steps} env steps, {progress.updates} updates, {self._saver.newest}"
        if ended:
            self._leaving = "ended"
            self._line.attempt(lambda: self._wire.tell(Control("stop")))
            self._line.attempt(lambda: self._wire.announce(Event("stopped", said)))
        status = self._reporter.status(self._leaving)
        self._reporter.write(status)
        self._reporter.report(status)
        if self._is_full:
            self._linger()
        self._orders.stopped(Answer(done=True, message=f"stopped after {said}"))
        log.info("run stopped phase=%s %s", self._leaving, said)
        return status

    def _save_last(self) -> None:
        """Write the last checkpoint; one of unsound weights would only hide the last good one."""
        if not self._publisher.gate.judge().fault:
            self._saver.final()
            self._audit.saved(self._saver.newest, self._progress.env_steps)
        else:
            self._saver.close()
            log.warning("no last checkpoint fault=%r", self._publisher.gate.fault)

    def _linger(self) -> None:
        """Go on answering for a moment; everything is saved, so it may be cut short."""
        for _ in range(LAST_LOOKS):
            if self._stopped() or self._orders.stopping:
                return
            time.sleep(LOOK_SECONDS)
            self._orders.serve()


def _places(arrivals: Iterable[Arrival]) -> list[tuple[str, Position]]:
    return [(arrival.client, arrival.mark.position) for arrival in arrivals]
