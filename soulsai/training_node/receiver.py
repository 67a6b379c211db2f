"""The thread that reads the clients' streams and hands their entries over in order."""

import logging
import random
import threading
import time
from collections import deque
from collections.abc import Callable, Iterable, Sequence
from typing import Self

from soulsai.errors import AccessDenied, WireError
from soulsai.training_node.admission import BAD_POSITION, Admission, Arrival, Decoded
from soulsai.training_node.failed_entries import FailedEntries
from soulsai.wire.protocols import Entry, Position, TrainingWire

READ_SECONDS = 0.25  # that one read may sleep, and a stop may take
FEW_STREAMS = 32  # which are read as fast as entries come
STREAM_SECONDS = 2e-4  # between two reads of more streams, for each of them
DISCOVER_SECONDS = 0.4  # between two looks for new clients, and
DISCOVER_STREAM_SECONDS = 1e-3  # longer for each stream that is known
INBOX_BYTES = 32 * 2**20
BACK_OFF = (0.1, 2.0)  # seconds: first and longest

log = logging.getLogger(__name__)


class Inbox:
    """A queue of arrivals between two threads, with a bound on their bytes."""

    def __init__(self, limit: int = INBOX_BYTES) -> None:
        self._limit = limit
        self._changed = threading.Condition()
        self._arrivals: list[Arrival] = []
        self._bytes = 0
        self._closed = False

    def put(self, arrivals: Sequence[Arrival]) -> bool:
        """Add arrivals, waiting until there is room; return whether they were added."""
        with self._changed:
            self._changed.wait_for(lambda: self._closed or self._bytes < self._limit)
            if self._closed:
                return False
            self._arrivals += arrivals
            self._bytes += sum(arrival.bytes for arrival in arrivals)
            self._changed.notify_all()
            return True

    def take(self, timeout: float) -> list[Arrival]:
        """Return all arrivals, waiting up to ``timeout`` seconds for the first."""
        with self._changed:
            if timeout > 0:
                self._changed.wait_for(lambda: self._arrivals or self._closed, timeout)
            taken, self._arrivals, self._bytes = self._arrivals, [], 0
            self._changed.notify_all()
            return taken

    def close(self) -> None:
        """Wake the threads that wait."""
        with self._changed:
            self._closed = True
            self._changed.notify_all()

    @property
    def is_empty(self) -> bool:
        """Whether there are no arrivals."""
        return not self._arrivals


class Receiver:
    """Owns the receiving thread: it runs inside ``with``, and is joined at its end."""

    def __init__(
        self,
        wire: TrainingWire,
        admission: Admission,
        *,
        most: int,
        pause: float,
        failed: FailedEntries,
        rng: random.Random,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """Prepare the thread; it starts with the ``with`` block.

        Args:
            wire: The server.
            admission: Turns entries into arrivals; used by the thread only.
            most: Entries that are left in each stream; older ones are deleted.
            pause: The longest time between two reads of many streams, in seconds.
            failed: The entries that have ended a node before.
            rng: Spreads the times of new attempts.
            clock: Seconds of a monotonic clock.
        """
        self.inbox = Inbox()
        self.excluded: frozenset[str] = frozenset()  # clients; may be replaced at any time
        self.streams: frozenset[str] = frozenset()  # clients with a stream on the server
        self.crowded = False  # a client's entries take much of the server's memory
        self._wire = wire
        self._most = most
        self._pause = pause
        self._failed = failed
        self._admission = admission
        self._rng = rng
        self._clock = clock
        self._stop = threading.Event()
        self._forgotten: deque[str] = deque()
        self._again: deque[str] = deque()
        self._refusal_log = RefusalLog(clock)
        self._error: BaseException | None = None
        self._thread = threading.Thread(target=self._run, name="receiver", daemon=False)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self.inbox.close()
        self._thread.join()

    def take(self, timeout: float) -> list[Arrival]:
        """Return the arrivals; raise the exception that ended the thread, if there is one.

        ``timeout`` is the longest wait in seconds.
        """
        arrivals = self.inbox.take(timeout)
        if self._error is not None and not arrivals:
            raise self._error
        return arrivals

    def publishing(self, generation: int, version: int) -> None:
        """Admit experience of these weights; call it before they are published."""
        self._admission.newest = (generation, version)

    def read_again(self, client: str) -> None:
        """Read a client's stream from its start, for epochs before that of its mark."""
        self._again.append(client)

    def forget(self, client: str) -> None:
        """Forget a client's mark; call it after its stream was deleted."""
        self._forgotten.append(client)

    def _run(self) -> None:
        try:
            self._receive()
        except BaseException as error:  # noqa: BLE001 - ``take`` raises it again
            self._error = error
            self.inbox.close()

    def _receive(self) -> None:
        clients: list[str] = []
        looked = -DISCOVER_SECONDS
        failures = 0
        while not self._stop.is_set():
            try:
                if self._clock() - looked >= self._discover_seconds(len(clients)):
                    clients = self._discover()
                    looked = self._clock()
                began = self._clock()
                entries = self._wire.read(self._positions(clients), READ_SECONDS)
                if not self._hand_over(entries):
                    return
                self._rest(began, len(clients))
            except AccessDenied:
                raise
            except WireError as error:
                if failures == 0 and not self._stop.is_set():
                    log.warning("receiving interrupted error=%s", error)
                failures += 1
                longest = min(BACK_OFF[1], BACK_OFF[0] * 2**failures)
                self._stop.wait(self._rng.uniform(0, longest))
            else:
                if failures:
                    log.info("receiving again failures=%d", failures)
                failures = 0

    @staticmethod
    def _discover_seconds(streams: int) -> float:
        """Return the time between two looks for new clients, each of which bounds all streams."""
        return DISCOVER_SECONDS + (
            DISCOVER_STREAM_SECONDS * streams if streams > FEW_STREAMS else 0
        )

    def _rest(self, began: float, streams: int) -> None:
        """Let entries of many streams gather, as each read asks for all of them.

        Args:
            began: The time at which the last read began.
            streams: The number of streams.
        """
        pause = min(self._pause, STREAM_SECONDS * streams) if streams > FEW_STREAMS else 0.0
        left = began + pause - self._clock()
        if left > 0:
            self._stop.wait(left)

    def _discover(self) -> list[str]:
        while self._forgotten:
            self._admission.forget(self._forgotten.popleft())
        while self._again:
            self._admission.read_again(self._again.popleft())
        clients = self._wire.clients()
        self.streams = frozenset(clients)
        self._admission.server_time = self._wire.time()
        excluded = self.excluded
        self.crowded = self._wire.bound(clients, self._most)
        if excluded:
            self._discard(client for client in clients if client in excluded)
        return [client for client in clients if client not in excluded]

    def _discard(self, clients: Iterable[str]) -> None:
        """Delete the entries of excluded clients unread."""
        arrivals = []
        for client in clients:
            mark = self._admission.mark(client)
            if discarded := self._wire.discard(client, mark.position):
                arrivals.append(Arrival(client, mark, 0, discarded=discarded))
                self._admission.pass_over(client)
        if arrivals:
            self.inbox.put(arrivals)

    def _positions(self, clients: list[str]) -> dict[str, Position]:
        excluded = self.excluded
        return {
            client: self._admission.position(client) for client in clients if client not in excluded
        }

    def _admit(self, entry: Entry, decoded: Decoded | None) -> Arrival:
        if decoded is None:
            return self._admission.set_aside(entry, self._failed.set_aside(entry))
        try:
            return self._admission.admit(entry, decoded)
        except Exception as error:
            self._failed.note([(entry.client, entry.position)], error)
            raise

    def _hand_over(self, entries: list[Entry]) -> bool:
        """Admit entries and pass them on; return whether the inbox is open."""
        arrivals: list[Arrival] = []
        locked: set[str] = set()
        fresh = [entry for entry in entries if not self._failed.is_spent(entry)]
        decoded = dict(zip(map(id, fresh), self._admission.decoded(fresh), strict=True))
        for entry in entries:
            arrival = self._admit(entry, decoded.get(id(entry)))
            for reason, detail in arrival.refusals:
                self._refusal_log.write(reason, detail, entry)
                if reason == BAD_POSITION:
                    locked.add(entry.client)
            arrivals.append(arrival)
        is_open = not arrivals or self.inbox.put(arrivals)
        for client in locked:  # last, because the server may fail here
            self._wire.forget(client)
        return is_open


class RefusalLog:
    """Logs refused messages, at most once a second for each reason."""

    def __init__(self, clock: Callable[[], float]) -> None:
        self._clock = clock
        self._last: dict[str, float] = {}
        self._silent: dict[str, int] = {}

    def write(self, reason: str, detail: str, entry: Entry) -> None:
        """Log one refusal, or only count it.

        Args:
            reason: The word under which it is counted.
            detail: The line about it.
            entry: The entry that held the message.
        """
        now = self._clock()
        if now - self._last.get(reason, -1.0) < 1.0:
            self._silent[reason] = self._silent.get(reason, 0) + 1
            return
        self._last[reason] = now
        log.warning(
            "refused client=%s detail=%r data=%s more=%d",
            entry.client,
            detail,
            (entry.data or b"")[:64].hex(),
            self._silent.pop(reason, 0),
        )
