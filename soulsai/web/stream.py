"""News of a run as server-sent events, which a browser resumes after an interruption.

Each ``head`` holds the newest numbers of episode, sample and event; the page then requests the
rows that it lacks. A slow reader misses heads, never data, and nothing queues up for it.
"""

import asyncio
import threading
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any

import msgspec
from msgspec import Struct

from soulsai.types import Status
from soulsai.web.journal import Note
from soulsai.web.schemas import EventRow, iso

BEAT = 15.0  # seconds of silence before a comment that keeps the connection open
REST = 0.25  # shortest time in seconds between two heads
RETRY = 1000  # milliseconds before a browser reconnects


class Bell:
    """Wake all streams of one event loop from any thread."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._loop: asyncio.AbstractEventLoop | None = None
        self._rung = asyncio.Event()
        self.closed = False

    def attach(self) -> None:
        """Wake streams of the running loop from now on."""
        with self._lock:
            self._loop = asyncio.get_running_loop()

    def ring(self) -> None:
        """Wake all waiting streams."""
        with self._lock:
            if self._loop is not None and not self._loop.is_closed():
                self._loop.call_soon_threadsafe(self._wake)

    def close(self) -> None:
        """End all streams."""
        self.closed = True
        self.ring()

    def detach(self) -> None:
        """Stop waking streams: the loop has ended."""
        with self._lock:
            self._loop = None

    def next(self) -> asyncio.Event:
        """Return the event that the next ring sets."""
        return self._rung

    def _wake(self) -> None:
        self._rung.set()
        self._rung = asyncio.Event()


class StreamHead(Struct, frozen=True):
    """The newest episode, sample and event of a run, and its status while it is in progress."""

    run: str
    live: bool
    episode: int = 0
    sample: int = 0
    event: int = 0
    best: dict[str, Any] = {}
    status: Status | None = None  # without its clients, which have a request of their own
    clients: int = 0  # alive

    @property
    def id(self) -> str:
        """The event id, which a browser sends back when it reconnects."""
        return f"{self.run}:{self.event}"


def resumed(last: str, run: str) -> int | None:
    """Return the number of the last event of ``run`` in an event id, or ``None``."""
    then, _, number = last.rpartition(":")
    return int(number) if then == run and number.isdecimal() and len(number) < 16 else None


async def stream(
    bell: Bell,
    read: Callable[[str], Awaitable[tuple[StreamHead, list[Note]]]],
    last: str,
) -> AsyncIterator[bytes]:
    """Yield a head after each change, and every event since the id ``last``.

    Args:
        bell: Wakes the stream.
        read: Returns the head, and the events after an event id.
        last: Id of the last event that the browser has received, or empty.
    """
    before: StreamHead | None = None
    yield f"retry: {RETRY}\n\n".encode()
    while not bell.closed:
        rung = bell.next()
        now, notes = await read(last)
        for note in notes:
            yield message("log", f"{now.run}:{note.number}", event_row(note))
        last = now.id
        if now != before:
            before = now
            yield message("head", now.id, now)
        await asyncio.sleep(REST)
        try:
            await asyncio.wait_for(rung.wait(), BEAT)
        except TimeoutError:
            yield b": still here\n\n"


def message(kind: str, id: str, data: Struct) -> bytes:
    """Return one server-sent event of the WHATWG HTML standard.

    Args:
        kind: The event's type.
        id: The event's id; white space is normalized.
        data: The data, as one line of JSON.
    """
    head = f"event: {kind}\nid: {' '.join(id.split())}\ndata: "
    return head.encode() + msgspec.json.encode(data) + b"\n\n"


def event_row(note: Note) -> EventRow:
    """Return a note as the API's event."""
    return EventRow(note.number, iso(note.time), note.kind, note.text, note.who)
