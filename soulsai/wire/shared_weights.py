"""The newest weights of a run in a file that all clients of one user on one machine share.

The file is SQLite's. Whoever lacks a version begins a transaction, downloads the version and
commits it; the others wait for that. A process that is killed in between loses its transaction,
and the next one downloads. Nothing is read from the file that the digest of a pointer does not
confirm, and what cannot be used there is downloaded as if there were no file.
"""

import hashlib
import logging
import os
import socket
import sqlite3
import stat
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

from soulsai.errors import WireError
from soulsai.types import Pointer, Weights

POLL_SECONDS = 0.002  # between two looks for a version that another process downloads, at first
SLOWEST_POLL_SECONDS = 0.02
WAIT_SECONDS = 5.0  # at most, for it, and the time that it takes at this rate
SLOW_BYTES_PER_SECOND = 1e6
ALONE_SECONDS = 60.0  # without the file, after it could not be used
COMMIT_SECONDS = 1.0  # for others to end their reading
KEPT_VERSIONS = 4  # few, so that the file is small and is rarely written to the disk
KEPT_SECONDS = 3600.0  # after the last write, until the file of another run is removed
_OPEN = """
PRAGMA page_size = 32768; PRAGMA journal_mode = TRUNCATE; PRAGMA synchronous = OFF;
CREATE TABLE IF NOT EXISTS weights (number INTEGER PRIMARY KEY, name TEXT UNIQUE, data BLOB);
PRAGMA busy_timeout = 0;
"""

log = logging.getLogger(__name__)


class SharedWeights:
    """Downloads versions of the weights that no other client of this user has downloaded.

    Args:
        folder: The folder of these files; it and they are private to the user.
        limit: Bytes of each file; larger versions are not shared.
        clock: Monotonic seconds.
        sleep: How to sleep.
    """

    def __init__(
        self,
        folder: Path,
        limit: int,
        *,
        clock: Callable[[], float] = time.monotonic,
        sleep: Callable[[float], None] = time.sleep,
    ) -> None:
        self.downloaded = 0  # bytes
        self.shared = 0  # bytes that others had downloaded
        self._folder, self._limit = folder, limit
        self._clock, self._sleep = clock, sleep
        self._path = folder  # the file of the last run
        self._place = (0, 0)  # device and number of the open file
        self._database: sqlite3.Connection | None = None
        self._alone_until = -float("inf")
        self._told = ""  # the last error

    def __repr__(self) -> str:
        return f"SharedWeights({self._folder}, {self.downloaded} downloaded, {self.shared} shared)"

    def weights(
        self,
        pointer: Pointer,
        size: int,
        download: Callable[[], bytes],
        decode: Callable[[bytes], Weights],
    ) -> Weights:
        """Return a version, downloaded by this process or another one.

        Args:
            pointer: The version.
            size: The bytes of its whole arrays, or of its delta.
            download: Fetches them; its errors are raised.
            decode: Checks them by the digest, and raises ``WireError`` if they are others.
        """
        name = f"{pointer.sha256}-{size}"
        began = self._clock()
        deadline = began + WAIT_SECONDS + size / SLOW_BYTES_PER_SECOND
        while size <= self._limit and self._clock() >= self._alone_until:
            try:
                is_ours = self._begin(pointer.run)
                found = self._stored(name, size, decode)
            except (OSError, sqlite3.Error) as error:
                self._give_up(error)
                break
            if found is not None:
                self._end()
                self.shared += size
                return found
            if is_ours:
                return self._download_for_all(name, download, decode)
            if self._clock() >= deadline:
                self._alone_until = self._clock() + ALONE_SECONDS
                log.warning("weights=alone: another client of this machine does not get on")
                break
            waited = self._clock() - began
            self._sleep(min(SLOWEST_POLL_SECONDS, POLL_SECONDS + 0.1 * waited))
        return self._downloaded(download, decode)[1]

    def close(self) -> None:
        """Close the file; it stays for the others."""
        database, self._database = self._database, None
        if database is not None:
            with suppress(sqlite3.Error):
                database.close()

    def _downloaded(
        self, download: Callable[[], bytes], decode: Callable[[bytes], Weights]
    ) -> tuple[bytes, Weights]:
        data = download()
        self.downloaded += len(data)
        return data, decode(data)

    def _download_for_all(
        self, name: str, download: Callable[[], bytes], decode: Callable[[bytes], Weights]
    ) -> Weights:
        """Download a version while the others wait, and store it for them once it is checked."""
        try:
            data, weights = self._downloaded(download, decode)
        except BaseException:
            self._end()
            raise
        try:
            self._store(name, data)
        except (OSError, sqlite3.Error) as error:
            self._give_up(error)
        return weights

    def _begin(self, run: str) -> bool:
        """Begin a transaction that writes; return whether no other process is in one."""
        database = self._opened(run)
        try:
            database.execute("BEGIN IMMEDIATE")
        except sqlite3.OperationalError as error:
            if not _is_busy(error):
                raise
            return False
        return True

    def _stored(self, name: str, size: int, decode: Callable[[bytes], Weights]) -> Weights | None:
        """Return a version of the file, or ``None``; bytes that are none are removed."""
        if self._database is None:
            return None
        query = (
            "SELECT data FROM weights WHERE name = ? AND typeof(data) = 'blob' AND length(data) = ?"
        )
        try:
            row = self._database.execute(query, (name, size)).fetchone()
        except sqlite3.OperationalError as error:
            if not _is_busy(error):
                raise
            return None
        if row is None:
            return None
        try:
            return decode(row[0])
        except WireError as error:
            raise sqlite3.DatabaseError(f"it is damaged ({error})") from error

    def _store(self, name: str, data: bytes) -> None:
        if (database := self._database) is None:
            return
        database.execute("INSERT OR REPLACE INTO weights (name, data) VALUES (?, ?)", (name, data))
        rows = database.execute("SELECT number, length(data) FROM weights ORDER BY number DESC")
        kept = size = 0
        for number, length in rows.fetchall():
            kept, size = kept + 1, size + length
            if kept > KEPT_VERSIONS or size > self._limit:
                database.execute("DELETE FROM weights WHERE number <= ?", (number,))
                break
        database.execute(f"PRAGMA busy_timeout = {int(1000 * COMMIT_SECONDS)}")
        database.execute("COMMIT")
        database.execute("PRAGMA busy_timeout = 0")

    def _end(self) -> None:
        """End a transaction without a change."""
        if self._database is not None and self._database.in_transaction:
            with suppress(sqlite3.Error):
                self._database.execute("ROLLBACK")

    def _opened(self, run: str) -> sqlite3.Connection:
        """Return the open file of a run; raise ``OSError`` if others could have written it."""
        # One for each machine, should several have the folder in common.
        name = hashlib.sha256(f"{socket.gethostname()}\0{run}".encode()).hexdigest()[:32]
        self._path = self._folder / f"{name}.sqlite3"
        if self._database is not None:
            if _place_of(self._path) == self._place:
                return self._database
            self.close()  # of another run, or removed by another process
        self._folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        with suppress(FileExistsError):
            os.close(os.open(self._path, os.O_CREAT | os.O_EXCL | os.O_RDWR, 0o600))
        for place in (self._folder, self._path):
            _check_private(place)
        self._remove_old()
        database = sqlite3.connect(
            self._path, timeout=COMMIT_SECONDS, isolation_level=None, check_same_thread=False
        )
        try:
            database.executescript(_OPEN)
        except BaseException:
            database.close()
            raise
        self._database, self._place = database, _place_of(self._path)
        return database

    def _remove_old(self) -> None:
        """Remove the files of runs that nobody plays any more."""
        for path in self._folder.glob("*.sqlite3*"):
            with suppress(OSError):
                if path != self._path and path.stat().st_mtime < time.time() - KEPT_SECONDS:
                    path.unlink()

    def _give_up(self, error: Exception) -> None:
        """Do without the file for a while, and remove it if it is damaged."""
        if str(error) != self._told:
            self._told = str(error)
            log.warning("weights=alone: %s cannot be used: %s", self._path, error)
        self._alone_until = self._clock() + ALONE_SECONDS
        self.close()
        if isinstance(error, sqlite3.Error) and not _is_busy(error):
            for end in ("-journal", ""):  # a journal that stays would be played into the next file
                with suppress(OSError):
                    self._path.with_name(self._path.name + end).unlink()


def _place_of(path: Path) -> tuple[int, int]:
    try:
        found = path.stat()
    except FileNotFoundError:
        return 0, 0
    return found.st_dev, found.st_ino


def _check_private(path: Path) -> None:
    """Raise ``OSError`` if others than this user could have written a file or folder."""
    found = path.lstat()
    is_plain = stat.S_ISREG(found.st_mode) or stat.S_ISDIR(found.st_mode)
    user = getattr(os, "geteuid", lambda: found.st_uid)()  # Windows' folders are private
    is_private = os.name == "nt" or not stat.S_IMODE(found.st_mode) & 0o077
    if not (is_plain and is_private and found.st_uid == user):
        raise OSError(f"{path} is not private to this user; remove it")


def _is_busy(error: sqlite3.Error) -> bool:
    """Return whether another process has locked the file at this moment."""
    return getattr(error, "sqlite_errorcode", 0) & 0xFF in {
        sqlite3.SQLITE_BUSY,
        sqlite3.SQLITE_LOCKED,
    }
