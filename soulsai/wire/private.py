"""Private folders that go with whoever made them, even if that was killed."""

import fcntl
import os
import shutil
import tempfile
from pathlib import Path

_PREFIX = "soulsai-"
_LOCK = "lock"


class PrivateFolder:
    """A new folder that only this user can read; it is locked for as long as this process lives.

    Making one first sweeps away those whose makers were killed.
    """

    def __init__(self) -> None:
        # Short, because a socket's path may have no more than a hundred characters or so.
        sweep(Path(tempfile.gettempdir()))
        self.path = Path(tempfile.mkdtemp(prefix=_PREFIX))
        self._lock = _own(self.path)

    def __repr__(self) -> str:
        return f"PrivateFolder({str(self.path)!r})"

    def __enter__(self) -> Path:
        return self.path

    def __exit__(self, *_: object) -> None:
        self.remove()

    def remove(self) -> None:
        """Remove it and all that is in it; call it once."""
        shutil.rmtree(self.path, ignore_errors=True)
        os.close(self._lock)


def sweep(folder: Path) -> None:
    """Remove what is left there of makers that were killed: we can lock what nobody owns."""
    for lock in folder.glob(f"{_PREFIX}*/{_LOCK}"):
        try:
            descriptor = os.open(lock, os.O_RDWR)
        except OSError:
            continue  # another user's, or gone just now
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            continue  # its owner lives
        else:
            shutil.rmtree(lock.parent, ignore_errors=True)
        finally:
            os.close(descriptor)


def _own(private: Path) -> int:
    """Lock a folder for as long as this process lives; it is never seen unlocked."""
    new = private / "new"
    descriptor = os.open(new, os.O_RDWR | os.O_CREAT, 0o600)
    fcntl.flock(descriptor, fcntl.LOCK_EX)
    new.rename(private / _LOCK)
    return descriptor
