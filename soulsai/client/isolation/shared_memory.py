"""How an environment's process and its client speak: raw numbers through a socket, no pickle."""

import struct
from typing import Any

import numpy as np
from msgspec import Struct

from soulsai.types import ActionSpec, Array, Leaf, Spec

# kind, terminated, truncated, bytes that follow the rows, reward, seconds in the environment
ANSWER = struct.Struct("<BBBxIdd")
ASK = struct.Struct("<B7xq")  # kind, seed (or -1); the action follows
READY, ROWS, FAULT = 1, 2, 3  # kinds of answers
RESET, STEP = 1, 2  # what may be asked
TOKEN_BYTES = 32
MOST_BYTES = 2**20  # of what follows the rows

Kwargs = dict[str, str | int | float | bool | None]


class Plan(Struct, frozen=True):
    """All that an environment's process must know; it reads this from its standard input."""

    port: int
    token: str
    id: str
    kwargs: Kwargs
    max_episode_steps: int
    mask_key: str
    masked: bool
    info_keys: tuple[str, ...]
    patience: float  # seconds after which a process that hangs ends itself, if nobody else did
    paths: tuple[str, ...]  # where modules are looked for


class Sheet:
    """One answer as bytes, and the leaves of its observation as views into them."""

    def __init__(self, spec: Spec) -> None:
        self.rows: dict[str, Array] = {}
        size = ANSWER.size
        places: list[tuple[str, Leaf, int]] = []
        for name, leaf in spec.obs.items():
            places.append((name, leaf, size))
            room = int(np.prod(leaf.shape, dtype=int)) * np.dtype(leaf.dtype).itemsize
            size += -(-room // 8) * 8
        self.data = bytearray(size)
        for name, leaf, at in places:
            count = int(np.prod(leaf.shape, dtype=int))
            flat = np.frombuffer(self.data, leaf.dtype, count, at)
            self.rows[name] = flat.reshape(leaf.shape)
        self._pairs = list(self.rows.items())

    def copy_into(self, rows: dict[str, Array]) -> None:
        """Copy the observation."""
        for name, view in self._pairs:
            rows[name][...] = view


def action_bytes(action: Any, spec: ActionSpec) -> bytes:
    """Return an action as it travels: integers, or floats of a box."""
    return np.asarray(action, np.float64 if spec.kind == "box" else np.int64).tobytes()


def action_from(data: bytes, spec: ActionSpec) -> Array:
    """Return the action that travelled."""
    return np.frombuffer(data, np.float64 if spec.kind == "box" else np.int64).reshape(spec.shape)
