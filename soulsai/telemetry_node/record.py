"""The record of a run: ``results.jsonl``, one line per episode, only ever appended to.

A file that has grown large is closed as ``results-0001.jsonl`` and so on, and the next one begun;
in the order of their names all of them are the record. pandas reads it in one line:
``concat(read_json(part, lines=True) for part in sorted(Path(run).glob("results*.jsonl")))``.

Each line carries the id that the episode has in the stream, so the last line is also the position
from which to read on: record and position cannot disagree, whenever the process dies.
"""

import fcntl
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from io import FileIO
from pathlib import Path
from typing import BinaryIO

import msgspec

from soulsai.errors import SoulsAIError
from soulsai.types import Episode
from soulsai.web.journal import RESULTS as NAME
from soulsai.web.journal import parts

FIRST = "0-0"  # before every id
LARGEST = 64e6  # bytes


class RecordLine(Episode, frozen=True):
    """One line: an episode, its id, and whether episodes before it may be missing."""

    id: str = FIRST
    gap: bool = False


_decoder = msgspec.json.Decoder(RecordLine)
_encoder = msgspec.json.Encoder()


def order(id: str) -> tuple[int, int]:
    """Return what makes one stream id later than another."""
    milliseconds, _, number = id.partition("-")
    return int(milliseconds), int(number or 0)


def read(path: Path) -> Iterator[RecordLine]:
    """Yield the lines of a record, oldest first, leaving out those that are damaged."""
    with path.open("rb") as file:
        for line, _ in _lines(file):
            yield line


class Record:
    """Appends episodes to ``results.jsonl`` in one folder; only one process can at a time.

    ``replay`` is given the lines that are there, oldest first. A last line that was never finished
    is cut off.
    """

    def __init__(
        self, folder: Path, replay: Callable[[RecordLine], object], largest: float = LARGEST
    ) -> None:
        """``largest`` is how many bytes a file may have before the next one is begun."""
        folder.mkdir(parents=True, exist_ok=True)
        self.path = folder / NAME
        self.position = FIRST  # id of the last episode recorded
        self._largest = largest
        self._file = self._open()
        good = 0
        for path in parts(folder):
            good = 0
            with path.open("rb") as file:
                for line, end in _lines(file):
                    self.position, good = line.id, end
                    replay(line)
        self._file.truncate(good)  # the last part is the one that is open

    def append(
        self,
        episodes: Sequence[tuple[str, Episode]],
        measured: Sequence[Mapping[str, float]] = (),
        *,
        gap: bool = False,
    ) -> None:
        """Record episodes later than ``position``; all of them, or none if there is no room.

        ``measured`` are more numbers of each. ``gap`` says that episodes before the first of them
        may be missing.
        """
        if not episodes:
            return
        numbers = measured or [{}] * len(episodes)
        lines = [
            _encode(id, episode, more, gap and number == 0)
            for number, ((id, episode), more) in enumerate(zip(episodes, numbers, strict=True))
        ]
        size = self._file.seek(0, os.SEEK_END)
        data = memoryview(b"".join(lines))
        try:
            while data:
                data = data[self._file.write(data) :]
        except OSError:
            self._file.truncate(size)
            raise
        self.position = episodes[-1][0]
        if self._file.tell() >= self._largest:
            self._rotate()

    def close(self) -> None:
        """Make it durable, and let another process write."""
        if not self._file.closed:
            os.fsync(self._file.fileno())
            self._file.close()

    def _open(self) -> FileIO:
        file = self.path.open("a+b", buffering=0)
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            file.close()
            raise SoulsAIError(
                f"{self.path}: another telemetry node is writing this record; stop one of the two"
            ) from None
        return file

    def _rotate(self) -> None:
        """Go on in a new file; what is full keeps its lines under a number."""
        os.fsync(self._file.fileno())
        number = len(parts(self.path.parent))
        self.path.rename(self.path.with_name(f"{self.path.stem}-{number:04d}{self.path.suffix}"))
        full, self._file = self._file, self._open()
        full.close()


def _encode(id: str, episode: Episode, measured: Mapping[str, float], gap: bool) -> bytes:
    head = b'{"id":' + _encoder.encode(id) + (b',"gap":true,' if gap else b",")
    line = head + _encoder.encode(episode)[1:-1]
    return line + (b"," + _encoder.encode(measured)[1:] if measured else b"}") + b"\n"


def _lines(file: BinaryIO) -> Iterator[tuple[RecordLine, int]]:
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
