"""Entries that could not be sent, in an SQLite file: bounded, in order, and checked when read.

An entry is stored with its position in the client's stream. A position is assigned once, and the
server ignores an entry that it has: it is safe to send an entry again after a lost reply.
"""

import logging
import shutil
import sqlite3
import time
import zlib
from collections import deque
from collections.abc import Sequence
from contextlib import closing, suppress
from pathlib import Path

from soulsai.client.unconfirmed import PUSH_BYTES, Entry, UnconfirmedEntries
from soulsai.types import RunSpec
from soulsai.wire.protocols import START, ClientWire, Position

log = logging.getLogger(__name__)

SUFFIX = ".sqlite3"
READ_BYTES = 4_000_000  # read, and later deleted, in one transaction
KEPT_DAYS = 7  # after the last write, until the file of an abandoned run is removed
_OLD_SUFFIX = ".spool"  # of the segment files of versions before SQLite
# Errors of the disk or of its use at this moment: the file is sound, and a later try may succeed.
_PASSING = {
    sqlite3.SQLITE_BUSY,
    sqlite3.SQLITE_CANTOPEN,
    sqlite3.SQLITE_FULL,
    sqlite3.SQLITE_INTERRUPT,
    sqlite3.SQLITE_IOERR,
    sqlite3.SQLITE_LOCKED,
    sqlite3.SQLITE_NOMEM,
    sqlite3.SQLITE_PERM,
    sqlite3.SQLITE_READONLY,
}
_OPEN = """
PRAGMA page_size = 32768; PRAGMA journal_mode = WAL; PRAGMA wal_autocheckpoint = 256;
CREATE TABLE IF NOT EXISTS entries
    (epoch INTEGER, seq INTEGER, crc INTEGER, data BLOB, PRIMARY KEY (epoch, seq));
"""


class Spool:
    """The unsent entries of one client of one run, oldest first; a later process continues it.

    An error of the disk is logged and never raised. The file exists while there are entries.
    """

    def __init__(self, folder: Path, spec: RunSpec, client: str, limit: int) -> None:
        """Open the file of an earlier process, if there is one.

        Args:
            folder: The folder of all spools.
            spec: The run; its checksum is part of the checksum of each entry.
            client: The client's name.
            limit: Bytes of entries to keep; the oldest are deleted beyond it.
        """
        self.dropped = 0  # entries, for lack of space
        self.size = 0  # bytes of the unsent entries
        self._count = 0  # unsent entries
        self._path = folder / spec.run / f"{client}{SUFFIX}"
        self._crc = spec.crc
        self._limit = limit
        self._loaded: deque[Entry] = deque()  # the oldest unsent entries
        self._sent = START  # the last position sent; not all up to it is deleted yet
        self._database: sqlite3.Connection | None = None
        old = folder / spec.run / client
        if any(old.glob(f"*{_OLD_SUFFIX}")):
            log.warning(
                "spool=%s is of an older version of SoulsAI, which alone can send it; run that "
                "version once more, or delete the folder",
                old,
            )
        if self._path.exists():
            try:
                self._open()
            except (OSError, sqlite3.Error) as error:
                self._fail("cannot be read", error)

    def __repr__(self) -> str:
        return f"Spool({self._path}, {self._count} entries, {self.size} bytes)"

    def __bool__(self) -> bool:
        """Return whether there is an entry to send."""
        return self._count > 0

    def append(self, entries: Sequence[Entry]) -> bool:
        """Write entries to the disk, all or none, and return whether this succeeded.

        A file that is damaged is deleted, and the entries are written to a new one.

        Args:
            entries: Pairs of a position and its bytes, each later than all before.
        """
        for _ in range(2):
            try:
                self._append(entries)
            except (OSError, sqlite3.Error) as error:
                if not self._fail("cannot be written", error):
                    break
            else:
                return True
        return False

    def _append(self, entries: Sequence[Entry]) -> None:
        rows = [(*position, self._checksum(position, data), data) for position, data in entries]
        database = self._database or self._open()
        self._delete_sent()
        database.execute("PRAGMA synchronous = FULL")  # an append survives a power failure
        with database:
            database.executemany("INSERT INTO entries VALUES (?, ?, ?, ?)", rows)
        self._count += len(rows)
        self.size += sum(len(data) for _, data in entries)
        self._make_room(database)

    def oldest(self, most: int = PUSH_BYTES) -> list[Entry]:
        """Return the oldest entries, in order: one, and more up to ``most`` bytes."""
        if self._count and not self._loaded:
            try:
                self._load()
            except sqlite3.Error as error:
                self._fail("cannot be read", error)
        taken: list[Entry] = []
        size = 0
        for entry in self._loaded:
            size += len(entry[1])
            if taken and size > most:
                break
            taken.append(entry)
        return taken

    def done(self, entries: Sequence[Entry]) -> None:
        """Remove the oldest entries, after the server has stored them."""
        for position, data in entries:
            self._loaded.popleft()
            self._sent = position
            self._count -= 1
            self.size -= len(data)
        if not self._count:
            self.discard()
        elif not self._loaded:
            try:
                self._delete_sent()
            except sqlite3.Error as error:
                self._fail("cannot be written", error)

    def deliver(self, wire: ClientWire, unconfirmed: UnconfirmedEntries) -> int:
        """Send all entries of an earlier process and return their number.

        They precede the hello of this process, because they are of an earlier epoch. An error of
        the wire is raised; the rest is sent by the next call.

        Args:
            wire: The server.
            unconfirmed: Receives the entries that were sent.
        """
        sent = 0
        while entries := self.oldest():
            wire.push(entries, retry=True)
            unconfirmed.add(entries)
            self.done(entries)
            sent += len(entries)
        return sent

    def discard(self) -> None:
        """Delete all entries."""
        if self._database is not None:
            self._database.close()
        self._database, self._count, self.size, self._sent = None, 0, 0, START
        self._loaded.clear()
        for end in ("", "-wal", "-shm"):
            with suppress(OSError):
                self._path.with_name(self._path.name + end).unlink(missing_ok=True)

    def close(self) -> None:
        """Close the file; entries that are not sent stay in it."""
        if not self._count:
            self.discard()
        if self._database is not None:
            with suppress(sqlite3.Error):
                self._delete_sent()
            self._database.close()
            self._database = None
        with suppress(OSError):
            self._path.parent.rmdir()  # it stays if it is not empty

    def _open(self) -> sqlite3.Connection:
        self._path.parent.mkdir(parents=True, exist_ok=True)
        # The main thread opens the file and the uplink's thread uses it, never both at once.
        database = sqlite3.connect(self._path, timeout=1.0, check_same_thread=False)
        try:
            database.executescript(_OPEN)
            total = database.execute("SELECT count(*), total(length(data)) FROM entries").fetchone()
        except BaseException:
            database.close()
            raise
        self._database, self._count, self.size = database, total[0], int(total[1])
        return database

    def _load(self) -> None:
        """Read the oldest unsent entries; entries that are damaged or of another spec count out."""
        self._delete_sent()
        if self._database is None:
            return
        size = 0
        query = "SELECT epoch, seq, crc, data FROM entries ORDER BY epoch, seq"
        with closing(self._database.execute(query)) as rows:
            for epoch, seq, crc, data in rows:
                position = Position(epoch, seq)
                if crc != self._checksum(position, data):
                    log.warning("spool=%s: %s is of another run or damaged", self._path, position)
                    self._count -= 1
                    self.size -= len(data)
                    continue
                self._loaded.append((position, data))
                size += len(data)
                if size >= READ_BYTES:
                    break
        if not self._loaded:
            self.discard()

    def _delete_sent(self) -> None:
        if self._database is None or self._sent == START:
            return
        # A deletion that a power failure undoes costs no more than to send the entries again.
        self._database.execute("PRAGMA synchronous = NORMAL")
        with self._database:
            self._database.execute("DELETE FROM entries WHERE (epoch, seq) <= (?, ?)", self._sent)
        self._sent = START

    def _make_room(self, database: sqlite3.Connection) -> None:
        if self.size <= self._limit:
            return
        query = "SELECT epoch, seq, length(data) FROM entries ORDER BY epoch, seq"
        with closing(database.execute(query)) as rows:
            while self.size > self._limit and self._count > 1:
                epoch, seq, size = next(rows)
                self._sent = Position(epoch, seq)
                self._count -= 1
                self.size -= size
                self.dropped += 1
        self._loaded.clear()
        self._delete_sent()
        log.warning("spool=%s is full: dropped=%d entries so far", self._path, self.dropped)

    def _checksum(self, position: Position, data: bytes) -> int:
        return zlib.crc32(data, zlib.crc32(b"%d-%d" % position, self._crc))

    def _fail(self, trouble: str, error: Exception) -> bool:
        """Log an error, delete a file that is damaged, and return whether it was deleted."""
        log.warning("spool=%s %s: %s", self._path, trouble, error)
        if not _is_damage(error):
            return False
        self.discard()
        return True


def _is_damage(error: Exception) -> bool:
    """Return whether an error says that the file is no database of ours, or is damaged."""
    if not isinstance(error, sqlite3.Error):
        return False
    code = getattr(error, "sqlite_errorcode", None)  # the low byte is the kind of error
    return code is not None and code & 0xFF not in _PASSING


def clean(folder: Path, now: float | None = None) -> None:
    """Remove the entries of runs that no client of this machine has played for days.

    Args:
        folder: The folder of all spools.
        now: The time as seconds since 1970; by default, the clock's.
    """
    oldest = (time.time() if now is None else now) - KEPT_DAYS * 24 * 3600
    with suppress(OSError):
        for run in folder.iterdir():
            written = [path.stat().st_mtime for path in run.rglob("*") if path.is_file()]
            if written and max(written) < oldest:
                shutil.rmtree(run, ignore_errors=True)
