"""The one background thread: it owns the connection, so that the player never waits for it."""

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
from soulsai.client.player_link import Instructions, Outbox, PlayerProgress
from soulsai.client.spool import Spool
from soulsai.errors import AccessDenied, NoRun, Unreachable, WireError
from soulsai.types import Control, Episode, Fragment, Heartbeat, Pointer, Program, RunSpec
from soulsai.wire.codec import encode_message, pack
from soulsai.wire.protocols import ClientWire, Position

log = logging.getLogger(__name__)

ENTRY_BYTES = 16_000  # messages of the same moment share an entry of about this size
ENTRY_SECONDS = 0.02  # which waits at most so long for others
PUSH_BYTES = 256_000  # sent in one round trip when there is a backlog
POLL_SECONDS = 1.0  # without a hint
IMPATIENT_SECONDS = 0.25  # the same, while the player waits
DAMAGED_SECONDS = 5.0  # until weights that could not be used are tried again
RECONNECT_SECONDS = 3.0  # at most, between two tries: a network that is back is noticed soon
GRACE_SECONDS = 2.0  # for what is queued when the player is done
SPILL_SECONDS = 1.0  # without a server, after which what waits goes to disk; and then so often
SPILL_BYTES = 200_000  # entries are larger then: what comes back at once is less of them

Entry = tuple[Position, bytes]


class Backoff:
    """Full jitter: a uniform draw below a bound that doubles with each failure."""

    def __init__(self, rng: random.Random, first: float = 0.1, most: float = 10.0) -> None:
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
        """Begin again with short waits: it worked."""
        self._failures = 0


class Uplink:
    """Sends what was played, says that we live, and fetches weights; a context manager.

    Leaving it sends what is queued, for at most ``GRACE_SECONDS``, and raises what ended the
    thread, if anything did.
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
        spool: Spool | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """Prepare to connect; ``position`` is that of our hello.

        A ``spool`` keeps what waits while there is no server; all in it is sent first.
        """
        self._wire = wire
        self._spec = spec
        self._program = program
        self._outbox = outbox
        self._progress = progress
        self._position = position
        self._clock = clock
        self._backoff = Backoff(rng, most=RECONNECT_SECONDS)
        self._changed = threading.Condition()
        self._orders = Instructions()
        self._closing = False
        self._woken = False  # by the player, not by a hint
        self._doubt: list[Entry] = []  # pushed, and never heard of; later than what is in the spool
        self._spool = spool
        self._pushed = position  # nothing later has ever been sent
        self._retry_at = 0.0  # no use in trying before
        self._spill_at = math.inf  # due then
        self._connected = True
        self._beat_at = clock()  # due then
        self._poll_at = -math.inf  # done then
        self._notice = ""  # of the training node for us
        self._tried = (0, 0)  # generation and version of the pointer last looked into
        self._damaged_until = 0.0
        self._executor = ThreadPoolExecutor(1, "uplink")
        self._thread: Future[None] | None = None

    def __repr__(self) -> str:
        state = "connected" if self._connected else "not connected"
        return f"Uplink({state}, {len(self._outbox)} queued, {self._orders.actor})"

    def __enter__(self) -> Self:
        self._thread = self._executor.submit(self._live)
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
        if error is None and self._thread is not None:
            self._thread.result()

    @property
    def orders(self) -> Instructions:
        """What the server wants now."""
        return self._orders

    def send(self, message: Fragment | Episode) -> None:
        """Encode a message, here and now, and queue it."""
        steps = len(message) if isinstance(message, Fragment) else 0
        before = self._outbox.size
        self._outbox.put(encode_message(message, self._spec), steps)
        if before == 0 or before < ENTRY_BYTES <= self._outbox.size:
            self._woken = True
            self._wire.wake()

    def wait(self, orders: Instructions, timeout: float) -> None:
        """Sleep until the orders are others than those given, or ``timeout`` seconds pass."""
        with self._changed:
            self._changed.wait_for(lambda: self._orders is not orders, timeout)

    def _give(self, orders: Instructions) -> None:
        with self._changed:
            self._orders = orders
            self._changed.notify_all()

    # All below runs in our own thread.

    def _live(self) -> None:
        try:
            # After a stop the player still has something to send
            while not self._closing and self._orders.over != "run":
                self._round()
            if self._orders.over != "run":
                self._finish()
        except BaseException:
            self._give(self._orders._replace(over="error"))
            raise

    def _round(self) -> None:
        """Sleep until there is something to do, and do it; without a server, sleep longer."""
        try:
            woken, due = self._listen()
            now = self._clock()
            if now < self._retry_at:
                self._spill(now)
                return
            self._push(now)
            hinted = now < due - 0.001 and not woken  # somebody woke us, and not the player
            if hinted or now >= self._poll_due() or not self._connected:
                self._poll(now)
            self._found()
        except AccessDenied:
            raise
        except WireError as error:
            self._lost(error)
            self._spill(self._clock())

    def _listen(self) -> tuple[bool, float]:
        """Sleep; return whether the player woke us, and when we would have woken by ourselves."""
        due = self._due()
        controls = self._wire.wait(max(0.0, due - self._clock()))
        woken, self._woken = self._woken, False
        for control in controls:
            self._obey(control)
        if controls:
            self._read_notice()
        return woken, due

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
        return self._poll_at + (IMPATIENT_SECONDS if self._progress.waiting else POLL_SECONDS)

    def _obey(self, control: Control) -> None:
        if control.op == "stop":
            log.info("control=stop")
            self._give(self._orders._replace(over="stop"))
        elif self._orders.paused != (control.op == "pause"):
            log.info("control=%s", control.op)
            self._give(self._orders._replace(paused=control.op == "pause"))

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
        """Send what is on disk, piece by piece, then what is in doubt, then what is due."""
        if self._spool:
            entries = self._spool.oldest()
            self._send(entries)
            self._spool.done(entries)
            if self._spool:
                return
        if self._doubt:
            self._send(self._doubt)
            self._doubt = []
        oldest = self._outbox.oldest()
        beat = now >= self._beat_at
        due = oldest is not None and (
            now >= oldest + ENTRY_SECONDS or self._outbox.size >= ENTRY_BYTES
        )
        if beat or due:
            self._doubt = self._entries(beat=beat, most=ENTRY_BYTES)
            self._send(self._doubt)
            self._doubt = []
        if beat:
            self._beat_at = now + max(0.1, self._spec.heartbeat_seconds)

    def _send(self, entries: list[Entry]) -> None:
        """Push entries; only those that may have been pushed before may be there already."""
        if not entries:
            return
        again = entries[0][0] <= self._pushed
        self._pushed = max(self._pushed, entries[-1][0])
        self._wire.push(entries, retry=again)

    def _spill(self, now: float) -> None:
        """Put what waits on disk, if there has been no server for a while."""
        if self._spool is None or now < self._spill_at:
            return
        self._spill_at = now + SPILL_SECONDS
        while self._doubt or len(self._outbox):
            if not self._doubt:
                self._doubt = self._entries(beat=False, most=SPILL_BYTES)
            if not self._spool.append(self._doubt):
                return
            self._doubt = []

    def _entries(self, *, beat: bool, most: int) -> list[Entry]:
        """Take messages from the outbox and give each entry its place, once and for all."""
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
            trouble=progress.trouble,
        )

    def _poll(self, now: float) -> None:
        """Look for a newer version, and whether the run is still the one that we play for."""
        pointer = self._wire.pointer()
        self._poll_at = now
        known = self._orders.pointer
        if pointer is None or known is None or pointer.generation != known.generation:
            self._check_run()
        if pointer is None or self._orders.over:
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
        self._give(self._orders._replace(over="run"))

    def _fetch(self, pointer: Pointer, now: float) -> None:
        """Hand over a newer version when its weights can act: its quota is for them, not for older.

        Weights that cannot act would hold the player up for ever: their quota is for any.
        """
        self._tried, self._damaged_until = pointer.order, 0.0
        try:
            weights = self._wire.weights(pointer, self._program)
            actor = Actor.load(self._program, weights, self._spec.spec)
        except (Unreachable, AccessDenied):
            self._tried = (0, 0)
            raise
        except WireError as error:
            log.warning("weights=%s: %s", pointer.order, error)
            self._damaged_until = now + DAMAGED_SECONDS
            self._give(self._orders._replace(pointer=pointer))
            return
        self._give(self._orders._replace(pointer=pointer, actor=actor))

    def _found(self) -> None:
        self._backoff.reset()
        if not self._connected:
            self._connected, self._spill_at = True, math.inf
            log.info("connected=true queued=%d dropped=%d", len(self._outbox), self._outbox.dropped)
            self._check_run()

    def _lost(self, error: WireError) -> None:
        now = self._clock()
        if now >= self._retry_at:
            self._retry_at = now + self._backoff.next()
        if self._connected:
            self._connected, self._spill_at = False, now + SPILL_SECONDS
            log.warning("connected=false: %s", error)

    def _finish(self) -> None:
        """Send what is queued, and a last heartbeat, for at most the time of grace."""
        deadline = self._clock() + GRACE_SECONDS
        self._beat_at = 0.0
        while self._clock() < deadline:
            try:
                self._push(math.inf)
            except AccessDenied:
                raise
            except WireError as error:
                self._lost(error)
                with self._changed:
                    self._changed.wait(min(self._retry_at, deadline) - self._clock())
            else:
                if not len(self._outbox) and not self._spool:
                    return
        self._spill(math.inf)
        if len(self._outbox) or self._doubt:
            log.warning("unsent=%d: the server could not be reached in time", len(self._outbox))
        elif self._spool:
            log.info("spooled=%r: will be sent by the next client of this name", self._spool)
