"""The files of a run beside its record: samples of the training, and a journal of events."""

import logging
import os
import threading
from collections import deque
from collections.abc import Callable, Iterable, Mapping
from itertools import takewhile
from pathlib import Path

import msgspec
from msgspec import Struct

from soulsai.episode_metrics import Meter
from soulsai.types import Episode, Status
from soulsai.web.tables import Episodes, Table, sample_row

RESULTS = "results.jsonl"
SAMPLES = "training.jsonl"
EVENTS = "events.jsonl"
MOST_NOTES = 10_000
SHORTEST, LONGEST = 1.0, 10.0  # seconds between two samples
SAMPLES_PER_RUN = 2000  # about; beyond, they are taken less often

_log = logging.getLogger(__name__)
_episodes = msgspec.json.Decoder(Episode)
_rows = msgspec.json.Decoder(dict[str, float | None])


class Note(Struct, frozen=True):
    """One line of the journal: an event, and the operator behind it, if any."""

    number: int
    time: float
    kind: str
    text: str
    who: str = ""


_notes = msgspec.json.Decoder(Note)


class Follower:
    """Read the lines that were appended to a file since the last call."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._offset = 0
        self._inode = 0

    def fresh(self) -> tuple[list[bytes], bool]:
        """Return the new complete lines, and whether the file was replaced."""
        try:
            with self._path.open("rb") as file:
                state = os.fstat(file.fileno())
                anew = self._inode != 0 and (
                    state.st_ino != self._inode or state.st_size < self._offset
                )
                if anew:
                    self._offset = 0
                self._inode = state.st_ino
                file.seek(self._offset)
                lines = file.readlines()
        except FileNotFoundError:
            return [], False
        if lines and not lines[-1].endswith(b"\n"):
            lines.pop()
        self._offset += sum(map(len, lines))
        return lines, anew


def parts(folder: Path) -> list[Path]:
    """Return the files of the record of a run, oldest first."""
    stem, _, ending = RESULTS.partition(".")
    full = sorted(folder.glob(f"{stem}-[0-9]*.{ending}"), key=lambda path: (len(path.name), path))
    last = folder / RESULTS
    return [*full, *([last] if last.exists() else [])]


class RecordReader:
    """Read the episodes of a run that another process records."""

    def __init__(self, folder: Path, meter: Callable[[], Meter] = Meter) -> None:
        self._folder = folder
        self._file = Follower(folder / RESULTS)
        self._new_meter = meter
        self._restart()

    def read(self) -> Episodes:
        """Return all recorded episodes."""
        lines, anew = self._file.fresh()
        if anew:  # the record was replaced, or it goes on in another file
            self._restart()
        self._take(lines)
        return self._episodes

    def _restart(self) -> None:
        self._meter = self._new_meter()
        self._episodes = Episodes()
        for path in parts(self._folder)[:-1]:
            self._take(path.read_bytes().splitlines())

    def _take(self, lines: Iterable[bytes]) -> None:
        for line in lines:
            try:
                episode = _episodes.decode(line)
            except (msgspec.MsgspecError, UnicodeDecodeError):
                continue
            self._episodes.add(episode, self._meter(episode))


class Journal:
    """Samples and notes of one run; one thread adds samples, any thread adds notes and reads.

    Both are appended to files in the run's folder and survive a restart. A full disk costs the
    files their lines and nothing else.
    """

    def __init__(self, folder: Path) -> None:
        self.samples = Table()
        self.notes: deque[Note] = deque(maxlen=MOST_NOTES)
        self._folder = folder
        self._due = 0.0
        self._noting = threading.Lock()
        self._followers = Follower(folder / SAMPLES), Follower(folder / EVENTS)
        self._torn = {name: _torn(folder / name) for name in (SAMPLES, EVENTS)}
        self.refresh()

    @property
    def last(self) -> int:
        """The number of the newest note."""
        return self.notes[-1].number if self.notes else 0

    def refresh(self) -> None:
        """Read the lines that another process has appended."""
        samples, events = self._followers
        for line in samples.fresh()[0]:
            try:
                row = _rows.decode(line)
            except (msgspec.MsgspecError, UnicodeDecodeError):
                continue
            self.samples.append({name: x for name, x in row.items() if x is not None})
        for line in events.fresh()[0]:
            try:
                self.notes.append(_notes.decode(line))
            except (msgspec.MsgspecError, UnicodeDecodeError):
                continue

    @property
    def run(self) -> str:
        """The name of the run."""
        return self._folder.name

    def sample(self, status: Status, time: float) -> Mapping[str, float] | None:
        """Keep the numbers of a status if the last sample is old enough; return them if so."""
        if time < self._due:
            return None
        wait = min(LONGEST, max(SHORTEST, status.seconds / SAMPLES_PER_RUN))
        self._due = time + 0.9 * wait  # a reading that comes slightly early must still count
        row = sample_row(status, time)
        self.samples.append(row)
        self._write(SAMPLES, row)
        return row

    def note(self, kind: str, text: str, time: float, operator: str = "") -> Note:
        """Add a note.

        Args:
            kind: The event's kind.
            text: One line for a reader.
            time: Unix seconds.
            operator: Its author, or empty.
        """
        with self._noting:
            note = Note(self.last + 1, time, kind, text, operator)
            self.notes.append(note)
            self._write(EVENTS, note)
            return note

    def after(self, number: int) -> list[Note]:
        """Return the notes with larger numbers, oldest first."""
        newest = takewhile(lambda note: note.number > number, reversed(list(self.notes)))
        return list(newest)[::-1]

    def _write(self, name: str, row: object) -> None:
        line = msgspec.json.encode(row) + b"\n"
        try:
            with (self._folder / name).open("ab") as file:
                file.write(b"\n" + line if self._torn[name] else line)
        except OSError as error:
            _log.warning("not written path=%s error=%s", self._folder / name, error)
            return
        self._torn[name] = False


def _torn(path: Path) -> bool:
    """Return whether the last line of a file is unfinished."""
    try:
        with path.open("rb") as file:
            if file.seek(0, os.SEEK_END) == 0:
                return False
            file.seek(-1, os.SEEK_END)
            return file.read(1) != b"\n"
    except OSError:
        return False
