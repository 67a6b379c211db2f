"""The record of a run: ``results.jsonl``, one line per episode, append-only.

A file that has reached its size limit is renamed to ``results-0001.jsonl`` and so on, and a new
file begins; all parts in the order of their names are the record. pandas reads it in one line:
``concat(read_json(part, lines=True) for part in sorted(Path(run).glob("results*.jsonl")))``.

Each line holds the episode's id in the stream, so the last line is also the position of the next
read: record and position cannot disagree, whenever the process dies.
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
    """Return the sort key of a stream id."""
    milliseconds, _, number = id.partition("-")
    return int(milliseconds), int(number or 0)


def read(path: Path) -> Iterator[RecordLine]:
    """Yield the lines of one file, oldest first, without the damaged ones."""
    with path.open("rb") as file:
        for line, _ in _lines(file):
            yield line


class Record:
    """Append episodes to ``results.jsonl`` in a folder, as the only process that does."""

    def __init__(
        self, folder: Path, replay: Callable[[RecordLine], object], largest: float = LARGEST
    ) -> None:
        """Open the record, replay its lines, and cut off an unfinished last line.

        Args:
            folder: The run's folder; it is created if it is missing.
            replay: Called with each existing line, oldest first.
            largest: Size in bytes at which the next file begins.

        Raises:
            SoulsAIError: Another process writes this record.
        """
        folder.mkdir(parents=True, exist_ok=True)
        self.path = folder / NAME
        self.position = FIRST  # id of the last recorded episode
        self._largest = largest
        self._file = self._open()
        good = 0
        for path in parts(folder):
            good = 0
            with path.open("rb") as file:
                for line, end in _lines(file):
                    self.position, good = line.id, end
                    replay(line)
        self._file.truncate(good)  # the last part is the open one

    def append(
        self,
        episodes: Sequence[tuple[str, Episode]],
        measured: Sequence[Mapping[str, float]] = (),
        *,
        gap: bool = False,
    ) -> None:
        """Append all episodes, or none of them if the disk is full.

        Args:
            episodes: Stream id and episode, ascending, later than ``position``.
            measured: The measures of each episode.
            gap: Whether episodes before the first one may be missing.

        Raises:
            OSError: The disk refuses; the record is unchanged.
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
        """Make the record durable and release the lock."""
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
    """Yield each sound line and its end in the file in bytes."""
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
