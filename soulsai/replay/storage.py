"""Allocation of replay columns, in memory or in files for replays larger than memory."""

import tempfile
from collections.abc import Callable
from math import prod
from pathlib import Path

import numpy as np

from soulsai.errors import ConfigError
from soulsai.types import Array

Allocate = Callable[[tuple[int, ...], str], Array]  # maps shape and dtype to zeros


def in_memory(shape: tuple[int, ...], dtype: str) -> Array:
    """Return zeros; the system commits their pages on first write."""
    return np.zeros(shape, dtype)


def allocator(folder: str) -> Allocate:
    """Return the allocator of the setting ``replay_folder``.

    Args:
        folder: Folder of the memory-mapped files, deleted with the process; empty: memory.

    Returns:
        An allocator; it raises ``ConfigError`` if the folder cannot hold an array.
    """
    if not folder:
        return in_memory
    parent = Path(folder)

    def memory_mapped(shape: tuple[int, ...], dtype: str) -> Array:
        size = max(1, prod(shape) * np.dtype(dtype).itemsize)
        try:
            parent.mkdir(parents=True, exist_ok=True)
            with tempfile.TemporaryFile(dir=parent) as file:
                file.truncate(size)
                return np.memmap(file, dtype, "r+", shape=shape)
        except OSError as error:
            raise ConfigError(
                f"replay_folder: cannot allocate {size} bytes in {folder!r} ({error});"
                " free some space or choose another folder"
            ) from error

    return memory_mapped
