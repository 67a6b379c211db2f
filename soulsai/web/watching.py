"""Observe the training node once a second and journal its changes."""

import logging
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Protocol, Self

from msgspec import Struct

from soulsai.errors import SoulsAIError, WireError
from soulsai.types import ClientStatus, Status
from soulsai.web.journal import Journal, Note
from soulsai.web.run_store import RunStore, Source
from soulsai.wire.protocols import TelemetryWire

LOOK = 1.0  # seconds between two readings of the status
LISTEN = 0.25  # seconds that one wait for events takes; also the delay of a stop
PAUSE = 2.0  # seconds before the next connection to a server that is away
MOST_CHANGES = 4  # clients named one by one in one reading; more are counted

_log = logging.getLogger(__name__)


class ObservedStatus(Struct, frozen=True):
    """The training node's status and the time of its reading (monotonic seconds)."""

    status: Status | None = None
    at: float = 0.0


class Listener(Protocol):
    """A receiver of notes and samples, in the watcher's thread; it must not block."""

    def noted(self, run: str, note: Note) -> None:
        """Receive a note of a run."""
        ...

    def sampled(self, run: str, row: Mapping[str, float]) -> None:
        """Receive a training sample of a run."""
        ...

    def purged(self, client: str, since: float = 0.0) -> None:
        """Receive the name of a purged client, and since when, in Unix seconds; 0: just now."""
        ...


class Watcher:
    """Follow the status and the events of the published run in the thread that calls ``run``."""

    def __init__(
        self,
        store: RunStore,
        connect: Callable[[], TelemetryWire],
        ring: Callable[[], None],
        *,
        listeners: Sequence[Listener] = (),
        clock: Callable[[], float] = time.monotonic,
        now: Callable[[], float] = time.time,
    ) -> None:
        self.seen = ObservedStatus()
        self._listeners = listeners
        self._store = store
        self._connect = connect
        self._ring = ring
        self._clock = clock
        self._now = now
        self._before: Status | None = None
        self._due = -float("inf")
        self._purged: frozenset[tuple[str, str, float]] = frozenset()  # of the last status

    def run(self, stopped: threading.Event) -> None:
        """Observe until stopped, and reconnect after failures; each reason is logged once."""
        logged = ""
        while not stopped.is_set():
            try:
                wire = self._connect()
                try:
                    while not stopped.is_set():
                        self.look(wire, LISTEN)
                        logged = ""
                finally:
                    wire.close()
            except (SoulsAIError, OSError) as error:
                if str(error) != logged:
                    logged = str(error)
                    _log.warning("the page cannot see the training node reason=%s", logged)
                if isinstance(error, WireError | OSError) and self.seen.status:
                    self._observe(None)
                stopped.wait(PAUSE)

    def look(self, wire: TelemetryWire, wait: float) -> None:
        """Read the status if that is due, and the events of the next ``wait`` seconds."""
        if self._clock() >= self._due:
            self._due = self._clock() + LOOK
            self._observe(wire.status())
        for event in wire.events(wait):
            if event.kind == "purge":
                for listener in self._listeners:
                    listener.purged(event.text)
            else:
                self.note(event.kind, event.text, event.who)

    def note(self, kind: str, text: str, operator: str) -> None:
        """Journal an event of the observed run; thread-safe.

        Args:
            kind: The event's kind, such as ``command``.
            text: One line for a reader.
            operator: Its author, or empty.
        """
        journal = self._journal(self.seen.status or self._before)
        if journal:
            self._note(journal, kind, text, operator)
        self._ring()

    def _observe(self, status: Status | None) -> None:
        """Journal the changes of the status, and only then show it."""
        journal = self._journal(status or self._before)
        if journal is not None:
            for kind, text in changes(self._before, status):
                self._note(journal, kind, text, "")
            if status is not None and (row := journal.sample(status, self._now())):
                for listener in self._listeners:
                    listener.sampled(journal.run, row)
            self._before = status
        if status is not None:
            self._catch_up(status)
        self.seen = ObservedStatus(status, self._clock())
        if journal is not None:
            self._ring()

    def _catch_up(self, status: Status) -> None:
        """Pass purges on, whose events were missed while this node was down."""
        new = [(status.run, *purge) for purge in status.purged.items()]
        for run, client, since in new:
            if (run, client, since) not in self._purged:
                for listener in self._listeners:
                    listener.purged(client, since)
        self._purged = frozenset(new)

    def _note(self, journal: Journal, kind: str, text: str, operator: str) -> None:
        note = journal.note(kind, text, self._now(), operator)
        for listener in self._listeners:
            listener.noted(journal.run, note)

    def _journal(self, status: Status | None) -> Journal | None:
        run = status.run if status else self._store.live
        return self._store.write_journal(run) if run else None


class WatcherThread:
    """Run a watcher in a thread from entering to leaving; its failures never reach training."""

    def __init__(
        self,
        saves: Path,
        source: Source,
        connect: Callable[[], TelemetryWire],
        listeners: Sequence[Listener] = (),
        ring: Callable[[], None] = lambda: None,
    ) -> None:
        """Create the watcher and its run store.

        Args:
            saves: The folder of all runs.
            source: The telemetry node's run in progress.
            connect: Opens the connection that the watcher reads from.
            listeners: Receivers of notes and samples.
            ring: Called after each change.
        """
        self.store = RunStore(saves, source)
        self.watcher = Watcher(self.store, connect, ring, listeners=listeners)
        self._stopped = threading.Event()
        self._thread = threading.Thread(
            target=lambda: self.watcher.run(self._stopped), name="page-watcher"
        )

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stopped.set()
        self._thread.join()


def changes(before: Status | None, now: Status | None) -> Iterator[tuple[str, str]]:
    """Yield kind and text of each change between two readings that deserves a note."""
    if now is None:
        if before is not None:
            yield "node", "the training node is silent"
        return
    if before is None or before.run != now.run:
        yield "node", f"the training node is {now.phase}, {_start(now)}"
        if now.notice:
            yield "notice", now.notice
        return
    if before.generation != now.generation:
        yield "node", f"the training node has started again: {_start(now)}"
    if before.phase != now.phase:
        yield "phase", f"{before.phase} → {now.phase}"
    if before.notice != now.notice:
        yield "notice", now.notice or "all is well again"
    yield from _client_changes(before.clients, now.clients)


def _start(status: Status) -> str:
    """Return which start of the run it is, counted from 1."""
    return f"start {status.generation} of the run"


def _client_changes(
    before: tuple[ClientStatus, ...], now: tuple[ClientStatus, ...]
) -> Iterator[tuple[str, str]]:
    then = {client.client: client.state == "lost" for client in before}
    here = {client.client: client.state == "lost" for client in now}
    groups = {
        "joined": [name for name in here if name not in then and not here[name]],
        "is lost": [name for name in here if here[name] and not then.get(name, False)],
        "is back": [name for name in here if then.get(name) and not here[name]],
        "was forgotten": [name for name in then if name not in here],
    }
    for change, names in groups.items():
        if len(names) > MOST_CHANGES:
            yield "client", f"{len(names)} clients: each {change}"
        else:
            yield from (("client", f"{name} {change}") for name in names)
