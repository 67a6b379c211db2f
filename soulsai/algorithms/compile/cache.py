"""Files that earlier runs built, kept by everything that shapes them.

A compiled package is machine code that this user's runs load and execute; so the folder must belong
to the user, and nobody else may write to it.
"""

import hashlib
import os
import shutil
import stat
import tempfile
from collections.abc import Iterable
from contextlib import suppress
from functools import cache
from pathlib import Path

import msgspec
import torch

from soulsai.algorithms.compile.job import JOB, LOG, Job
from soulsai.algorithms.compile.processor import processor

MOST = 32  # results that are kept; the one that was used longest ago is deleted first
SOURCES = Path(__file__).parents[2]  # all code of this package


class BuildCache:
    """A folder with what was built, one folder each, by a name that covers all that shapes it.

    Args:
        folder: The folder; it is made when the first result is kept.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def find(self, name: str) -> Path | None:
        """Return the folder with a result, if it was kept."""
        path = self._folder / name
        if not self._is_ours() or not path.is_dir():
            return None
        with suppress(OSError):
            os.utime(path)
        return path

    def keep(self, name: str, made: Path) -> None:
        """Copy the files of a folder, but for the order and the log of a job.

        Args:
            name: The name of the result, such as ``key`` returns.
            made: The folder with the result.

        Raises:
            OSError: They cannot be written, or the folder is not this user's own.
        """
        self._folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        if not self._is_ours():
            raise PermissionError(f"{self._folder} can be written by other users")
        with tempfile.TemporaryDirectory(dir=self._folder, prefix=".") as beside:
            copy = Path(beside) / "copy"
            copy.mkdir()
            for file in made.iterdir():
                if file.is_file() and file.name not in (JOB, LOG):
                    shutil.copyfile(file, copy / file.name)
            path = self._folder / name
            try:
                copy.rename(path)
            except OSError:
                if not path.is_dir():  # else another run was faster
                    raise
        self._forget_old()

    def forget(self, name: str) -> None:
        """Delete a result."""
        shutil.rmtree(self._folder / name, ignore_errors=True)

    def _forget_old(self) -> None:
        kept = [path for path in self._folder.iterdir() if not path.name.startswith(".")]
        for path in sorted(kept, key=_used)[: max(0, len(kept) - MOST)]:
            shutil.rmtree(path, ignore_errors=True)

    def _is_ours(self) -> bool:
        try:
            status = self._folder.stat()
        except OSError:
            return False
        if not hasattr(os, "getuid"):  # Windows: the folder of the user's own profile
            return True
        return status.st_uid == os.getuid() and not status.st_mode & (stat.S_IWGRP | stat.S_IWOTH)


def key(job: Job) -> str:
    """Return the name of a job's result, a digest of all that shapes it.

    These are the settings, the spaces, the code of this package, the version of torch, and the
    processor with its instructions.
    """
    digest = hashlib.blake2b(digest_size=16)
    version = torch.__version__.encode()
    _add(digest, [msgspec.json.encode(job), version, *processor(), _sources(SOURCES)])
    return digest.hexdigest()


def _add(digest: hashlib.blake2b, parts: Iterable[bytes]) -> None:
    for part in parts:
        digest.update(len(part).to_bytes(8, "little"))
        digest.update(part)


@cache
def _sources(folder: Path) -> bytes:
    """Return a digest of all code in a folder, which a process reads once."""
    digest = hashlib.blake2b(digest_size=16)
    _add(digest, (path.read_bytes() for path in sorted(folder.rglob("*.py"))))
    return digest.digest()


def _used(path: Path) -> float:
    try:
        return path.stat().st_mtime
    except OSError:
        return 0.0
