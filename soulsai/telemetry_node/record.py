"""The record of a run: ``results.jsonl``, one line per episode, only ever appended to.

Each line carries the id that the episode has in the stream, so the last line is also the position
from which to read on: record and position cannot disagree, whenever the process dies.
"""

import fcntl
import os
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import BinaryIO

import msgspec

from soulsai.errors import SoulsAIError
from soulsai.types import Episode

NAME = "results.jsonl"
FIRST = "0-0"  # before every id


class Line(Episode, frozen=True):
    """One line: an episode, its id, and whether episodes before it may be missing."""

    id: str = FIRST
    gap: bool = False


_decoder = msgspec.json.Decoder(Line)
_encoder = msgspec.json.Encoder()


def order(id: str) -> tuple[int, int]:
    """Return what makes one stream id later than another."""
    milliseconds, _, number = id.partition("-")
    return int(milliseconds), int(number or 0)


def read(path: Path) -> Iterator[Line]:
    """Yield the lines of a record, oldest first, leaving out those that are damaged."""
    with path.open("rb") as file:
        for line, _ in _lines(file):
            yield line


class Record:
    """Appends episodes to ``results.jsonl`` in one folder; only one process can at a time.

    ``replay`` is given the lines that are there, oldest first. A last line that was never finished
    is cut off.
    """

    def __init__(self, folder: Path, replay: Callable[[Line], object]) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self.path = folder / NAME
        self.position = FIRST  # id of the last episode recorded
        self._file = self.path.open("a+b", buffering=0)
        try:
            fcntl.flock(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            self._file.close()
            raise SoulsAIError(
                f"{self.path}: another telemetry node is writing this record; stop one of the two"
            ) from None
        good = 0
        with self.path.open("rb") as file:
            for line, end in _lines(file):
                self.position, good = line.id, end
                replay(line)
        self._file.truncate(good)

    def append(self, episodes: Iterable[tuple[str, Episode]], *, gap: bool = False) -> None:
        """Record episodes later than ``position``; all of them, or none if there is no room.

        ``gap`` says that episodes before the first of them may be missing.
        """
        lines: list[bytes] = []
        position = self.position
        for id, episode in episodes:
            lines.append(_encode(id, episode, gap and not lines))
            position = id
        size = self._file.seek(0, os.SEEK_END)
        data = memoryview(b"".join(lines))
        try:
            while data:
                data = data[self._file.write(data) :]
        except OSError:
            self._file.truncate(size)
            raise
        self.position = position

    def close(self) -> None:
        """Make it durable, and let another process write."""
        if not self._file.closed:
            os.fsync(self._file.fileno())
            self._file.close()


def _encode(id: str, episode: Episode, gap: bool) -> bytes:
    head = b'{"id":' + _encoder.encode(id) + (b',"gap":true,' if gap else b",")
    return head + _encoder.encode(episode)[1:] + b"\n"


def _lines(file: BinaryIO) -> Iterator[tuple[Line, int]]:
    """Yield each sound line, and where it ends in the file."""
    end = 0
    for raw in file:
        end += len(raw)
        if not raw.endswith(b"\n"):
            return
        try:
            line = _decoder.decode(raw)
        except (msgspec.MsgspecError, UnicodeDecodeError):
            continue
        yield line, end
