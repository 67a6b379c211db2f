"""Experience as it came, written to a bounded folder by a thread beside the learning."""

import logging
import threading
import time
from collections.abc import Sequence
from pathlib import Path

import msgspec

from soulsai.datasets import kept_experience
from soulsai.datasets.kept_experience import KeptRun
from soulsai.errors import ConfigError
from soulsai.training_node.saving import atomic_folders
from soulsai.types import Fragment

FILE_BYTES = 8 * 2**20  # of experience in a file
FILE_SECONDS = 30.0  # after which a smaller file is written
WAITING_BYTES = 64 * 2**20  # of experience that waits for the disk; more is left out, and counted

log = logging.getLogger(__name__)


class NoExperienceWriter:
    """Keeps nothing."""

    left_out = 0

    def keep(self, fragments: Sequence[Fragment]) -> None:
        """Do nothing."""

    def close(self) -> None:
        """Do nothing."""


class ExperienceWriter:
    """Writes fragments to a folder, of which the oldest files give way.

    ``keep`` never waits: while the disk is too slow, fragments are left out and counted.
    """

    def __init__(self, folder: Path, run: KeptRun, *, most_bytes: int) -> None:
        """Prepare the folder; the thread begins with the first experience.

        Args:
            folder: The run's own folder, made if it is not there.
            run: The description of the run.
            most_bytes: Size of all files together.

        Raises:
            ConfigError: The folder cannot be written.
        """
        self.left_out = 0  # env steps
        self._folder = folder
        self._most_bytes = most_bytes
        try:
            folder.mkdir(parents=True, exist_ok=True)
            atomic_folders.write_file(folder / kept_experience.RUN, msgspec.json.encode(run))
        except OSError as error:
            raise ConfigError(f"training.keep_experience: {folder}: {error}") from error
        newest = kept_experience.files(folder)[-1:]
        self._number = int(newest[0].stem.rpartition("-")[2]) if newest else 0
        self._changed = threading.Condition()
        self._waiting: list[Fragment] = []
        self._bytes = 0
        self._closed = False
        self._failed = False
        self._thread = threading.Thread(target=self._run, name="experience", daemon=False)

    def __repr__(self) -> str:
        return f"ExperienceWriter({str(self._folder)!r}, left_out={self.left_out})"

    def keep(self, fragments: Sequence[Fragment]) -> None:
        """Let fragments be written soon."""
        if not fragments:
            return
        size = sum(map(_size, fragments))
        with self._changed:
            if self._bytes + size > WAITING_BYTES:
                if not self.left_out:
                    log.warning("the disk is too slow to keep all experience")
                self.left_out += sum(map(len, fragments))
                return
            self._waiting += fragments
            self._bytes += size
            self._changed.notify_all()
        if self._thread.ident is None:
            self._thread.start()

    def close(self) -> None:
        """Write the rest, and end the thread."""
        with self._changed:
            self._closed = True
            self._changed.notify_all()
        if self._thread.ident is not None:
            self._thread.join()

    def _run(self) -> None:
        while fragments := self._next():
            self._number += 1
            try:
                path = self._folder / kept_experience.name_of(self._number)
                atomic_folders.write_file(path, kept_experience.encode(fragments))
                self._make_room()
            except OSError as error:
                self.left_out += sum(map(len, fragments))
                if not self._failed:
                    log.warning("experience not kept error=%s", error)
                self._failed = True
            else:
                self._failed = False

    def _next(self) -> list[Fragment]:
        """Return the fragments of the next file; none after the end."""
        with self._changed:
            self._changed.wait_for(lambda: self._closed or self._waiting)
            until = time.monotonic() + FILE_SECONDS
            while not self._closed and self._bytes < FILE_BYTES:
                if not self._changed.wait(max(0.0, until - time.monotonic())):
                    break
            taken, self._waiting, self._bytes = self._waiting, [], 0
            return taken

    def _make_room(self) -> None:
        sizes = [(path, path.stat().st_size) for path in kept_experience.files(self._folder)]
        excess = sum(size for _, size in sizes) - self._most_bytes
        for path, size in sizes[:-1]:
            if excess <= 0:
                return
            path.unlink()
            excess -= size


def _size(fragment: Fragment) -> int:
    columns = (*fragment.obs.values(), *fragment.extras.values(), *fragment.memory.values())
    return int(fragment.action.nbytes + fragment.reward.nbytes + sum(c.nbytes for c in columns))
