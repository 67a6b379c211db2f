"""Where replay keeps its columns: in memory, or on disk if there is more than memory holds."""

import tempfile
from collections.abc import Callable
from math import prod
from pathlib import Path

import numpy as np

from soulsai.errors import ConfigError
from soulsai.types import Array

Room = Callable[[tuple[int, ...], str], Array]  # shape and dtype to zeros


def in_memory(shape: tuple[int, ...], dtype: str) -> Array:
    """Return zeros, which take no memory before they are written over."""
    return np.zeros(shape, dtype)


def on_disk(folder: str) -> Room:
    """Return what makes arrays in files of a folder, which are gone with the process."""
    place = Path(folder)

    def zeros(shape: tuple[int, ...], dtype: str) -> Array:
        size = max(1, prod(shape) * np.dtype(dtype).itemsize)
        try:
            place.mkdir(parents=True, exist_ok=True)
            with tempfile.TemporaryFile(dir=place) as file:
                file.truncate(size)
                return np.memmap(file, dtype, "r+", shape=shape)
        except OSError as error:
            wanted = f"replay_folder: {folder!r} holds no {size} bytes"
            raise ConfigError(f"{wanted}: {error}") from error

    return zeros


def room(folder: str) -> Room:
    """Return the room that a setting asks for; an empty one asks for memory."""
    return on_disk(folder) if folder else in_memory
