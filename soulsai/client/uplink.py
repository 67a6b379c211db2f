"""The background thread of a client, which owns the connection; the player never waits for it."""

import logging
import math
import random
import threading
import time
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from types import TracebackType
from typing import Self

from soulsai.client.actor import Actor
from soulsai.client.player_link import (
    EvaluationTask,
    Instructions,
    Outbox,
    PlayerProgress,
    printable,
)
from soulsai.client.spool import Spool
from soulsai.client.trial_load import try_program
from soulsai.client.unconfirmed import PUSH_BYTES, Entry, UnconfirmedEntries
from soulsai.errors import AccessDenied, NoRun, Rejected, Unreachable, WireError
from soulsai.types import (
    Control,
    Episode,
    EvaluationRequest,
    Fragment,
    Heartbeat,
    Pointer,
    Program,
    RunSpec,
    Spec,
    Weights,
)
from soulsai.wire.codec import LINE, encode_message, pack
from soulsai.wire.limits import MessageLimits
from soulsai.wire.protocols import ClientWire, Position

log = logging.getLogger(__name__)

ENTRY_BYTES = 16_000  # at which an entry is sent without waiting for more messages
ENTRY_SECONDS = 0.02  # that a message waits for others in its entry
POLL_SECONDS = 1.0  # between two reads of the pointer without a hint
IMPATIENT_SECONDS = 0.25  # the same, while the player waits
DAMAGED_SECONDS = 5.0  # until damaged weights are fetched again
RECONNECT_SECONDS = 3.0  # at most, between two attempts to connect
GRACE_SECONDS = 2.0  # to send the queue at the end
SLOW_SECONDS = 10.0  # that a call to an environment takes before the client reports it
LOG_SECONDS = 600.0  # between two lines on the progress
SPILL_SECONDS = 1.0  # without a server, between two writes of the queue to disk
SPILL_BYTES = 200_000  # of an entry on disk; larger ones are fewer to send later

SLOW = f"its environment has not answered for more than {SLOW_SECONDS:.0f} s"
Trial = Callable[[Program, Weights, Spec], None]


class Backoff:
    """Full jitter: a uniform draw below a bound that doubles with each failure."""

    def __init__(self, rng: random.Random, first: float = 0.1, most: float = 10.0) -> None:
        """Start with a bound of ``first`` seconds, which grows up to ``most``."""
        self._rng = rng
        self._first = first
        self._most = most
        self._failures = 0

    def next(self) -> float:
        """Return the seconds to wait after one more failure."""
        bound = min(self._most, self._first * 2.0 ** min(self._failures, 30))
        self._failures += 1
        return self._rng.uniform(0.0, bound)

    def reset(self) -> None:
        """Start again with short waits after a success."""
        self._failures = 0


class Uplink:
    """Sends experience and heartbeats, and fetches weights; a context manager.

    Its exit sends the queue for at most ``GRACE_SECONDS``, and raises the error that ended the
    thread, if there is one.
    """

    def __init__(
        self,
        wire: ClientWire,
        spec: RunSpec,
        program: Program,
        outbox: Outbox,
        progress: PlayerProgress,
        *,
        position: Position,
        rng: random.Random,
        unconfirmed: UnconfirmedEntries,
        spool: Spool | None = None,
        trial: Trial | None = try_program,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """Prepare to start the thread.

        Args:
            wire: The connection; the caller closes it.
            spec: The run.
            program: The run's policy program.
            outbox: The queue to send.
            progress: The player's progress, for the heartbeat.
            position: The position of this session's hello.
            rng: Of the pauses between attempts to connect.
            unconfirmed: Keeps entries until the training node has them; they are sent again after
                each break of the connection.
            spool: Keeps the queue on disk while there is no server; its entries are sent first.
            trial: Loads the program before this process does; ``None`` for one of this machine.
            clock: Monotonic seconds.
        """
        self._wire = wire
        self._spec = spec
        self._program = program
        self._limits = MessageLimits(spec, program.head)
        self._refused: set[str] = set()  # reasons why messages were not sent
        self._outbox = outbox
        self._progress = progress
        self._position = position
        self._clock = clock
        self._backoff = Backoff(rng, most=RECONNECT_SECONDS)
        self._changed = threading.Condition()
        self._instructions = Instructions()
        self._closing = False
        self._unconfirmed = unconfirmed  # earlier than all in the spool
        self._broken = False  # the connection, since the unconfirmed entries were sent
        self._in_doubt: list[Entry] = []  # pushed without a reply; later than all in the spool
        self._spool = spool
        self._pushed = position  # the last position ever pushed
        self._retry_at = 0.0  # the next attempt to connect
        self._spill_at = math.inf  # the next write to disk
        self._connected = True
        self._beat_at = clock()  # the next heartbeat
        self._log_at = -math.inf  # the next line on the progress
        self._polled_at = -math.inf  # the last read of the pointer
        self._notice = ""  # of the training node for us
        self._slow = False  # a call to an environment takes long
        self._tried = (0, 0)  # generation and version of the last fetch
        self._damaged_until = 0.0
        self._requested: EvaluationRequest | None = None  # that is not fetched yet
        self._evaluated = (0, 0)  # generation and version of the last evaluation
        self._trial = trial
        self._fault = ""  # of the program, by its trial
        self._executor = ThreadPoolExecutor(1, "uplink")
        self._thread: Future[None] | None = None

    def __repr__(self) -> str:
        state = "connected" if self._connected else "not connected"
        return f"Uplink({state}, {len(self._outbox)} queued, {self._instructions.actor})"

    def __enter__(self) -> Self:
        self._thread = self._executor.submit(self._run)
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._closing = True
        self._wire.wake()
        self._executor.shutdown()
        if self._progress.steps:  # for somebody who has lent a PC and ends it
            self._log("played")
        if error is None and self._thread is not None:
            self._thread.result()

    @property
    def instructions(self) -> Instructions:
        """Return the newest instructions."""
        return self._instructions

    def send(self, message: Fragment | Episode) -> None:
        """Encode a message and queue it, unless the training node would refuse it."""
        steps = len(message) if isinstance(message, Fragment) else 0
        try:
            self._limits.check(message)
        except Rejected as error:
            self._progress.discarded += steps
            self._progress.trouble = f"not sent: {printable(str(error))}"
            if error.reason not in self._refused:
                self._refused.add(error.reason)
                log.warning("not sent, as the training node would refuse it: %s", error)
            return
        before = self._outbox.size
        self._outbox.put(encode_message(message, self._spec), steps)
        if before == 0 or before < ENTRY_BYTES <= self._outbox.size:
            self._wire.wake()

    def wait(self, known: Instructions, timeout: float) -> None:
        """Wait for instructions other than ``known``, for at most ``timeout`` seconds."""
        with self._changed:
            self._changed.wait_for(lambda: self._instructions is not known, timeout)

    def _instruct(self, instructions: Instructions) -> None:
        with self._changed:
            self._instructions = instructions
            self._changed.notify_all()

    # All methods below run in the uplink's thread.

    def _run(self) -> None:
        try:
            # The player still has fragments to send after a stop.
            while not self._closing and self._instructions.over != "run":
                self._round()
            if self._instructions.over != "run":
                self._finish()
        except BaseException:
            self._instruct(self._instructions._replace(over="error"))
            raise

    def _round(self) -> None:
        """Wait until work is due, and do it; without a server, wait longer."""
        try:
            self._listen()
            now = self._clock()
            if now < self._retry_at:
                self._spill(now)
                return
            self._push(now)
            if self._wire.hinted or now >= self._poll_due() or not self._connected:
                self._poll(now)
            self._fetch_requested()
            self._on_connected()
        except AccessDenied:
            raise
        except WireError as error:
            self._on_lost(error)
            self._spill(self._clock())

    def _listen(self) -> None:
        """Wait for work, and do what controls say."""
        controls = self._wire.wait(max(0.0, self._due() - self._clock()))
        for control in controls:
            self._on_control(control)
        if controls:
            self._read_notice()

    def _due(self) -> float:
        if not self._connected:
            return min(self._retry_at, self._spill_at)
        if self._spool:
            return 0.0
        due = min(self._beat_at, self._poll_due())
        oldest = self._outbox.oldest()
        if oldest is not None:
            full = self._outbox.size >= ENTRY_BYTES
            due = min(due, oldest if full else oldest + ENTRY_SECONDS)
        return due

    def _poll_due(self) -> float:
        return self._polled_at + (IMPATIENT_SECONDS if self._progress.waiting else POLL_SECONDS)

    def _on_control(self, control: Control) -> None:
        self._requested = control.evaluation or self._requested
        if control.op == "stop":
            log.info("control=stop")
            self._instruct(self._instructions._replace(over="stop"))
        elif self._instructions.paused != (control.op == "pause"):
            log.info("control=%s", control.op)
            self._instruct(self._instructions._replace(paused=control.op == "pause"))

    def _read_notice(self) -> None:
        """Log why this client is kept out, and when it is let in again; each once."""
        notice = self._wire.notice()
        if notice == self._notice:
            return
        self._notice = notice
        if notice:
            log.warning(
                "kept out by the training node, which learns nothing from this client: %s", notice
            )
        else:
            log.info("let in again by the training node")

    def _push(self, now: float) -> None:
        """Send a piece of the spool; when it is empty, the entries in doubt and those due.

        After a break of the connection, the unconfirmed entries are sent before.
        """
        if self._broken:
            self._unconfirmed.send(self._wire)
            self._broken = False
        if self._spool:
            entries = self._spool.oldest()
            self._send(entries)
            self._spool.done(entries)
            if self._spool:
                return
        if self._in_doubt:
            self._send(self._in_doubt)
            self._in_doubt = []
        oldest = self._outbox.oldest()
        beat = now >= self._beat_at
        due = oldest is not None and (
            now >= oldest + ENTRY_SECONDS or self._outbox.size >= ENTRY_BYTES
        )
        if beat or due:
            self._in_doubt = self._entries(beat=beat, most=ENTRY_BYTES)
            self._send(self._in_doubt)
            self._in_doubt = []
        if beat:
            self._beat_at = now + max(0.1, self._spec.heartbeat_seconds)
            self._log_progress(now)

    def _log_progress(self, now: float) -> None:
        """Log, from the first env steps on and now and then, that this client takes part."""
        if not self._progress.steps or now < self._log_at:
            return
        self._log_at = now + LOG_SECONDS
        self._log("playing")

    def _log(self, state: str) -> None:
        progress, (downloaded, shared) = self._progress, self._wire.weights_bytes
        log.info(
            "%s env_steps=%d episodes=%d version=%d queued=%d weights_mb=%.1f shared_mb=%.1f",
            state, progress.steps, progress.episodes, progress.version, len(self._outbox),
            1e-6 * downloaded, 1e-6 * shared,
        )  # fmt: skip

    def _send(self, entries: list[Entry]) -> None:
        """Push entries; the server may have only those that were pushed before."""
        if not entries:
            return
        again = entries[0][0] <= self._pushed
        self._pushed = max(self._pushed, entries[-1][0])
        self._wire.push(entries, retry=again)
        self._unconfirmed.add(entries)

    def _spill(self, now: float) -> None:
        """Write the queue to disk, if the server is gone for a while."""
        if self._spool is None or now < self._spill_at:
            return
        self._spill_at = now + SPILL_SECONDS
        stored = [] if self._spool else self._unconfirmed.take()
        if stored and not self._spool.append(stored):
            self._unconfirmed.add(stored)
            return
        while self._in_doubt or len(self._outbox):
            if not self._in_doubt:
                self._in_doubt = self._entries(beat=False, most=SPILL_BYTES)
            if not self._spool.append(self._in_doubt):
                return
            self._in_doubt = []

    def _entries(self, *, beat: bool, most: int) -> list[Entry]:
        """Take messages from the outbox, and assign each entry its final position."""
        entries: list[Entry] = []
        size = 0
        while size < PUSH_BYTES:
            messages = self._outbox.take(most)
            if beat and not entries:
                messages.append(encode_message(self._heartbeat(), self._spec))
            if not messages:
                break
            self._position = Position(self._position.epoch, self._position.seq + 1)
            entries.append((self._position, pack(messages)))
            size += len(entries[-1][1])
        return entries

    def _heartbeat(self) -> Heartbeat:
        progress = self._progress
        return Heartbeat(
            steps=progress.steps,
            episodes=progress.episodes,
            dropped=self._outbox.dropped + progress.discarded,
            queued=len(self._outbox),
            version=progress.version,
            restarts=progress.restarts,
            waiting=progress.waiting,
            faults=progress.faults,
            trouble=self._trouble()[:LINE],
            kwargs=progress.kwargs,
        )

    def _trouble(self) -> str:
        """Return the reasons why env steps were lost, and the last fault of an environment."""
        parts = [self._progress.trouble]
        called = self._progress.called
        is_slow = called is not None and self._clock() - called > SLOW_SECONDS
        if is_slow:
            parts.insert(0, SLOW)
        if is_slow and not self._slow:
            log.warning(SLOW)
        self._slow = is_slow
        if self._outbox.dropped:
            parts.insert(0, "its outbox was full, and steps were lost: raise client.outbox_mb")
        if self._spool is not None and self._spool.dropped:
            parts.insert(0, "its spool was full, and steps were lost: raise client.spool_mb")
        return "; ".join(filter(None, parts))

    def _poll(self, now: float) -> None:
        """Read the pointer: to a newer version, or to another run."""
        pointer = self._wire.pointer()
        self._polled_at = now
        if self._unconfirmed and (received := self._wire.received()):
            self._unconfirmed.confirm(received)
        known = self._instructions.pointer
        if pointer is None or known is None or pointer.generation != known.generation:
            self._check_run()
        if pointer is None or self._instructions.over:
            return
        if pointer.run != self._spec.run:
            self._end_of_run(pointer.run)
        elif pointer.order > self._tried or (self._damaged_until and now >= self._damaged_until):
            self._fetch(pointer, now)

    def _check_run(self) -> None:
        try:
            spec = self._wire.spec()
        except NoRun:
            return
        if spec.crc != self._spec.crc:
            self._end_of_run(spec.run)

    def _end_of_run(self, other: str) -> None:
        log.info("run=%s ends; run=%s begins", self._spec.run, other)
        self._instruct(self._instructions._replace(over="run"))

    def _fetch(self, pointer: Pointer, now: float) -> None:
        """Fetch a newer version, and hand its weights and its quota over together.

        If the weights cannot act, the quota is handed over alone, so that the player goes on.
        """
        self._tried, self._damaged_until = pointer.order, 0.0
        try:
            weights = self._wire.weights(pointer, self._program)
            self._try_program(weights)
            actor = Actor.load(self._program, weights, self._spec.spec)
        except (Unreachable, AccessDenied):
            self._tried = (0, 0)
            raise
        except WireError as error:
            log.warning("weights=%s: %s", pointer.order, error)
            self._damaged_until = now + DAMAGED_SECONDS
            self._instruct(self._instructions._replace(pointer=pointer))
            return
        self._instruct(self._instructions._replace(pointer=pointer, actor=actor))

    def _fetch_requested(self) -> None:
        """Fetch the version of an evaluation that is asked for, and hand it over, once."""
        request, self._requested = self._requested, None
        if request is None:
            return
        try:
            pointer = self._wire.requested(request)
            if pointer.order == self._evaluated:
                return
            weights = self._wire.weights(pointer, self._program)
            self._try_program(weights)
            actor = Actor.load(self._program, weights, self._spec.spec)
        except (Unreachable, AccessDenied) as error:
            if isinstance(error, Unreachable):
                self._requested = request
                raise
            log.warning("evaluation not played: %s", error)
            return
        except WireError as error:
            log.warning("evaluation not played: %s", error)
            return
        self._evaluated = pointer.order
        log.info("evaluation=%s episodes=%d", actor, request.episodes)
        task = EvaluationTask(actor, request.episodes)
        self._instruct(self._instructions._replace(evaluation=task))

    def _try_program(self, weights: Weights) -> None:
        """Load the program once in a process with limits; raise ``WireError`` if that failed."""
        trial, self._trial = self._trial, None
        if trial is not None:
            try:
                trial(self._program, weights, self._spec.spec)
            except WireError as error:
                self._fault = str(error)
        if self._fault:
            raise WireError(self._fault)

    def _on_connected(self) -> None:
        self._backoff.reset()
        if not self._connected:
            self._connected, self._spill_at = True, math.inf
            log.info("connected=true queued=%d dropped=%d", len(self._outbox), self._outbox.dropped)
            self._check_run()

    def _on_lost(self, error: WireError) -> None:
        now = self._clock()
        self._broken = self._broken or isinstance(error, Unreachable)
        if now >= self._retry_at:
            self._retry_at = now + self._backoff.next()
        if self._connected:
            self._connected, self._spill_at = False, now + SPILL_SECONDS
            log.warning("connected=false: %s", error)

    def _finish(self) -> None:
        """Send the queue and a last heartbeat within ``GRACE_SECONDS``."""
        deadline = self._clock() + GRACE_SECONDS
        self._beat_at = 0.0
        while self._clock() < deadline:
            try:
                self._push(math.inf)
            except AccessDenied:
                raise
            except WireError as error:
                self._on_lost(error)
                with self._changed:
                    self._changed.wait(min(self._retry_at, deadline) - self._clock())
            else:
                if not len(self._outbox) and not self._spool:
                    return
        self._spill(math.inf)
        if len(self._outbox) or self._in_doubt:
            log.warning("unsent=%d: the server could not be reached in time", len(self._outbox))
        elif self._spool:
            log.info("spooled=%r: will be sent by the next client of this name", self._spool)
