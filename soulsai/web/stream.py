"""News of a run as server-sent events, which a browser takes up again where it was cut off.

Each ``head`` says how far everything has come; the page then asks for what it shows and lacks. So
a slow reader misses heads, never data, and nothing queues up for him.
"""

import asyncio
import threading
from collections.abc import AsyncIterator, Callable, Iterator
from typing import Any

import msgspec
from msgspec import Struct

from soulsai.types import Status
from soulsai.web.journal import Note
from soulsai.web.schemas import EventRow, iso

BEAT = 15.0  # seconds of silence after which a comment shows that the stream lives
REST = 0.25  # seconds between two heads, at least
RETRY = 1000  # milliseconds after which a browser connects again


class Bell:
    """Rung by any thread, heard by every stream of one event loop."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._loop: asyncio.AbstractEventLoop | None = None
        self._rung = asyncio.Event()
        self.closed = False

    def open(self) -> None:
        """Begin to be heard in the loop that runs."""
        with self._lock:
            self._loop = asyncio.get_running_loop()

    def ring(self) -> None:
        """Wake all who wait."""
        with self._lock:
            if self._loop is not None and not self._loop.is_closed():
                self._loop.call_soon_threadsafe(self._wake)

    def close(self) -> None:
        """End all streams."""
        self.closed = True
        self.ring()

    def silence(self) -> None:
        """Ring no more: the loop is over."""
        with self._lock:
            self._loop = None

    def next(self) -> asyncio.Event:
        """Return what is set when the bell is rung after now."""
        return self._rung

    def _wake(self) -> None:
        self._rung.set()
        self._rung = asyncio.Event()


class StreamHead(Struct, frozen=True):
    """How far a run has come: the newest episode, sample and event, and the status if it lives."""

    run: str
    live: bool
    episode: int = 0
    sample: int = 0
    event: int = 0
    best: dict[str, Any] = {}
    status: Status | None = None  # without its clients, who have a page of their own
    clients: int = 0  # alive

    @property
    def id(self) -> str:
        """What the browser gives back when it connects again."""
        return f"{self.run}:{self.event}"


def resumed(last: str, run: str) -> int | None:
    """Return the number of the last event that a browser has seen of this run, if it says so."""
    then, _, number = last.rpartition(":")
    return int(number) if then == run and number.isdecimal() and len(number) < 16 else None


async def stream(
    bell: Bell, head: Callable[[], StreamHead], notes: Callable[[str, int], list[Note]], last: str
) -> AsyncIterator[bytes]:
    """Yield heads when something is new, and every event since the ``last`` id."""
    before: StreamHead | None = None
    yield f"retry: {RETRY}\n\n".encode()
    while not bell.closed:
        rung = bell.next()
        now = head()
        seen = resumed(last, now.run)
        for note in notes(now.run, seen) if seen is not None else ():
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
    """Return one server-sent event; its data is one line, since JSON escapes newlines."""
    return b"".join(_lines(kind, id, msgspec.json.encode(data)))


def event_row(note: Note) -> EventRow:
    """Return an event as the API shows it."""
    return EventRow(note.number, iso(note.time), note.kind, note.text, note.who)


def _lines(kind: str, id: str, data: bytes) -> Iterator[bytes]:
    yield f"event: {kind}\n".encode()
    yield b"id: " + " ".join(id.split()).encode() + b"\n"
    yield b"data: " + data + b"\n\n"
