"""Looks at the training node once a second, and writes down what changed."""

import logging
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Protocol

from msgspec import Struct

from soulsai.errors import SoulsAIError, WireError
from soulsai.types import ClientStatus, Status
from soulsai.web.journal import Journal, Note
from soulsai.web.run_store import Folders
from soulsai.wire.protocols import TelemetryWire

LOOK = 1.0  # seconds between two looks
LISTEN = 0.25  # seconds that one wait for events takes; how soon a stop is noticed
PAUSE = 2.0  # seconds before the next try, when the server cannot be reached
MOST_CHANGES = 4  # clients named one by one in one look; beyond, they are counted

_log = logging.getLogger(__name__)


class ObservedStatus(Struct, frozen=True):
    """The training node's status, and when it was seen (monotonic seconds)."""

    status: Status | None = None
    at: float = 0.0


class Listener(Protocol):
    """Somebody who is told what the watcher sees, in the watcher's thread; must not wait."""

    def noted(self, run: str, note: Note) -> None:
        """Hear of something that happened in a run."""
        ...

    def sampled(self, run: str, row: Mapping[str, float]) -> None:
        """Hear of a run's training, in numbers."""
        ...


class Watcher:
    """Follows the status and the events of the published run, in the thread that calls ``run``."""

    def __init__(
        self,
        folders: Folders,
        connect: Callable[[], TelemetryWire],
        ring: Callable[[], None],
        *,
        listeners: Sequence[Listener] = (),
        clock: Callable[[], float] = time.monotonic,
        now: Callable[[], float] = time.time,
    ) -> None:
        self.seen = ObservedStatus()
        self._listeners = listeners
        self._folders = folders
        self._connect = connect
        self._ring = ring
        self._clock = clock
        self._now = now
        self._before: Status | None = None
        self._due = -float("inf")

    def run(self, stopped: threading.Event) -> None:
        """Look until stopped; what goes wrong here is of no consequence to training."""
        said = ""
        while not stopped.is_set():
            try:
                wire = self._connect()
            except (SoulsAIError, OSError) as error:
                said = self._say(said, error)
                stopped.wait(PAUSE)
                continue
            try:
                while not stopped.is_set():
                    self.look(wire, LISTEN)
                    said = ""
            except (WireError, OSError) as error:
                said = self._say(said, error)
                self._saw(None)
                stopped.wait(PAUSE)
            finally:
                wire.close()

    def look(self, wire: TelemetryWire, wait: float) -> None:
        """Take in the status, if that is due, and the events of the next ``wait`` seconds."""
        if self._clock() >= self._due:
            self._due = self._clock() + LOOK
            self._saw(wire.status())
        for event in wire.events(wait):
            self.note(event.kind, event.text, "")

    def note(self, kind: str, text: str, who: str) -> None:
        """Write down something of the run that is seen; any thread may."""
        journal = self._journal()
        if journal:
            self._note(journal, kind, text, who)
        self._ring()

    def _saw(self, status: Status | None) -> None:
        self.seen = ObservedStatus(status, self._clock())
        journal = self._journal()
        if journal is None:
            return
        for kind, text in changes(self._before, status):
            self._note(journal, kind, text, "")
        if status is not None and (row := journal.sample(status, self._now())):
            for listener in self._listeners:
                listener.sampled(journal.run, row)
        self._before = status
        self._ring()

    def _note(self, journal: Journal, kind: str, text: str, who: str) -> None:
        note = journal.note(kind, text, self._now(), who)
        for listener in self._listeners:
            listener.noted(journal.run, note)

    def _journal(self) -> Journal | None:
        status = self.seen.status or self._before
        run = status.run if status else self._folders.live
        return self._folders.write_journal(run) if run else None

    def _say(self, said: str, error: Exception) -> str:
        """Log once per kind of trouble."""
        text = str(error)
        if text != said:
            _log.warning("the page cannot see the training node reason=%s", text)
        return text


def changes(before: Status | None, now: Status | None) -> Iterator[tuple[str, str]]:
    """Yield what is worth a line between two looks: its kind, and the line."""
    if now is None:
        if before is not None:
            yield "node", "the training node is silent"
        return
    if before is None or before.run != now.run:
        yield "node", f"the training node is {now.phase}, generation {now.generation}"
        return
    if before.generation != now.generation:
        yield "node", f"the training node has begun generation {now.generation}"
    if before.phase != now.phase:
        yield "phase", f"{before.phase} → {now.phase}"
    if before.notice != now.notice:
        yield "notice", now.notice or "all is well again"
    yield from _client_changes(before.clients, now.clients)


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
    for what, names in groups.items():
        if len(names) > MOST_CHANGES:
            yield "client", f"{len(names)} clients: each {what}"
        else:
            yield from (("client", f"{name} {what}") for name in names)
