"""What could not be sent, on disk: bounded, oldest thrown away first, and checked when read back.

An entry is written together with the place in our stream that it has been given. So whether it
was stored before the link broke need not be known: sent once more, it cannot be stored twice.

A record is ``crc32, size, epoch, seq`` and the entry; records stand in segments of a few
megabytes, named by their first place, each with the checksum of the run's spec at its beginning.
Written is what ``append`` has returned from: it is with the operating system at once, and with
the disk too (fsync), which costs a few milliseconds per second in a thread that waits anyway. A
record that is cut off or altered is left out, together with what follows it in its segment.
"""

import logging
import os
import shutil
import struct
import time
import zlib
from collections import deque
from collections.abc import Iterator, Sequence
from contextlib import suppress
from pathlib import Path
from typing import BinaryIO, NamedTuple

from soulsai.types import RunSpec
from soulsai.wire.protocols import ClientWire, Position

log = logging.getLogger(__name__)

SUFFIX = ".spool"
SEGMENT_BYTES = 4_000_000
LONGEST_ENTRY = 2_000_000
PUSH_BYTES = 256_000  # sent in one round trip
KEPT_DAYS = 7  # what a run has left behind that was not played again
_HEAD = struct.Struct("<8sI")
_MAGIC = b"soulspl1"
_RECORD = struct.Struct("<IIQQ")

Entry = tuple[Position, bytes]


class _Segment(NamedTuple):
    path: Path
    first: Position
    size: int


class Spool:
    """The entries of one client of one run, oldest first; survives both.

    Whatever the disk does, nothing is raised: it is logged, and what cannot be kept is lost.
    """

    def __init__(self, folder: Path, spec: RunSpec, client: str, limit: int) -> None:
        """Look for what an earlier life has left; ``limit`` is in bytes."""
        self.dropped = 0  # entries, for want of room
        self._folder = folder / spec.run / client
        self._crc = spec.crc
        self._limit = limit
        self._largest = min(SEGMENT_BYTES, max(1, limit // 4))
        self._segments: deque[_Segment] = deque()
        self._loaded: deque[Entry] | None = None  # of the first segment
        self._file: BinaryIO | None = None  # of the last one
        try:
            self._find()
        except OSError as error:
            log.warning("spool=%s cannot be read: %s", self._folder, error)

    def __repr__(self) -> str:
        return f"Spool({self._folder}, {len(self._segments)} segments, {self.size} bytes)"

    def __bool__(self) -> bool:
        """Whether there is anything to send."""
        return bool(self._segments)

    @property
    def size(self) -> int:
        """How many bytes it takes."""
        return sum(segment.size for segment in self._segments)

    def append(self, entries: Sequence[Entry]) -> bool:
        """Write entries, each later than those before; return whether all are kept."""
        try:
            for position, data in entries:
                self._write(position, data)
            if self._file is not None:
                self._file.flush()
                os.fsync(self._file.fileno())
        except OSError as error:
            log.warning("spool=%s cannot be written: %s", self._folder, error)
            self._close_file()
            return False
        self._make_room()
        return True

    def oldest(self, most: int = PUSH_BYTES) -> list[Entry]:
        """Return the oldest entries, in order: one, and more up to ``most`` bytes."""
        while self._segments:
            if self._loaded is None:
                self._loaded = self._load(self._segments[0])
            if not self._loaded:
                self._remove_first()
                continue
            taken: list[Entry] = []
            size = 0
            for entry in self._loaded:
                size += len(entry[1])
                if taken and size > most:
                    break
                taken.append(entry)
            return taken
        return []

    def done(self, entries: Sequence[Entry]) -> None:
        """Forget the oldest entries: the server has them."""
        if self._loaded is None:
            return
        for _ in entries:
            self._loaded.popleft()
        if not self._loaded:
            self._remove_first()

    def deliver(self, wire: ClientWire) -> int:
        """Send all that an earlier life has left, before a new one says hello; return how many.

        Raises what the wire raises; to be tried again then.
        """
        sent = 0
        while entries := self.oldest():
            wire.push(entries, retry=True)
            self.done(entries)
            sent += len(entries)
        return sent

    def discard(self) -> None:
        """Throw everything away."""
        while self._segments:
            self._remove_first()

    def close(self) -> None:
        """Let go of the disk; what is not sent stays there."""
        self._close_file()
        for folder in (self._folder, self._folder.parent):
            with suppress(OSError):
                folder.rmdir()  # unless there is something in it

    def _find(self) -> None:
        found = []
        for path in self._folder.glob(f"*{SUFFIX}"):
            epoch, _, seq = path.stem.partition("-")
            if epoch.isdecimal() and seq.isdecimal():
                found.append(_Segment(path, Position(int(epoch), int(seq)), path.stat().st_size))
        self._segments.extend(sorted(found, key=lambda segment: segment.first))

    def _write(self, position: Position, data: bytes) -> None:
        file = self._file
        if file is None or self._segments[-1].size >= self._largest:
            file = self._begin(position)
        place = struct.pack("<QQ", *position)
        record = struct.pack("<II", zlib.crc32(data, zlib.crc32(place)), len(data)) + place + data
        file.write(record)
        last = self._segments[-1]
        self._segments[-1] = last._replace(size=last.size + len(record))

    def _begin(self, position: Position) -> BinaryIO:
        """Begin a segment."""
        self._close_file()
        self._folder.mkdir(parents=True, exist_ok=True)
        path = self._folder / f"{position.epoch}-{position.seq}{SUFFIX}"
        self._file = path.open("wb")
        self._file.write(_HEAD.pack(_MAGIC, self._crc))
        self._segments.append(_Segment(path, position, _HEAD.size))
        return self._file

    def _make_room(self) -> None:
        while len(self._segments) > 1 and self.size > self._limit:
            if self._loaded is None:
                self._loaded = self._load(self._segments[0])
            self.dropped += len(self._loaded)
            self._remove_first()
            log.warning("spool=%s is full: dropped=%d entries so far", self._folder, self.dropped)

    def _load(self, segment: _Segment) -> deque[Entry]:
        """Read a segment back, as far as it is undamaged; it is not written to any more."""
        if len(self._segments) == 1:
            self._close_file()
        try:
            data = segment.path.read_bytes()
        except OSError as error:
            log.warning("spool=%s cannot be read: %s", segment.path, error)
            return deque()
        if data[: _HEAD.size] != _HEAD.pack(_MAGIC, self._crc):
            log.warning("spool=%s is of another run or damaged: left out", segment.path)
            return deque()
        entries: deque[Entry] = deque()
        at = _HEAD.size
        for position, entry in _records(data):
            if entries and position <= entries[-1][0]:
                break
            entries.append((position, entry))
            at += _RECORD.size + len(entry)
        if at < len(data):
            log.warning("spool=%s is damaged: %d bytes left out", segment.path, len(data) - at)
        return entries

    def _remove_first(self) -> None:
        if len(self._segments) == 1:
            self._close_file()
        self._loaded = None
        with suppress(OSError):
            self._segments.popleft().path.unlink()

    def _close_file(self) -> None:
        if self._file is not None:
            with suppress(OSError):
                self._file.close()
            self._file = None


def _records(data: bytes) -> Iterator[Entry]:
    """Yield the records of a segment until one is not as it was written."""
    at = _HEAD.size
    while at + _RECORD.size <= len(data):
        crc, size, epoch, seq = _RECORD.unpack_from(data, at)
        at += _RECORD.size
        entry = data[at : at + size]
        if size > LONGEST_ENTRY or zlib.crc32(entry, zlib.crc32(data[at - 16 : at])) != crc:
            return
        if len(entry) != size:
            return
        yield Position(epoch, seq), entry
        at += size


def clean(folder: Path, now: float | None = None) -> None:
    """Remove what runs have left behind that nobody has played for days."""
    oldest = (time.time() if now is None else now) - KEPT_DAYS * 24 * 3600
    with suppress(OSError):
        for run in folder.iterdir():
            files = [path.stat().st_mtime for path in run.rglob(f"*{SUFFIX}")]
            if files and max(files) < oldest:
                shutil.rmtree(run, ignore_errors=True)
