"""A ring buffer of rows in columns, the storage of every replay."""

import hashlib
import json
from functools import lru_cache
from typing import Any

import numpy as np
from msgspec import Struct

from soulsai.frame_stacks import stack_of
from soulsai.replay.frames import FrameStore
from soulsai.replay.storage import Allocate, in_memory
from soulsai.types import Array, Leaf

OWNER = "owner"  # extra column of appended rows: a number that identifies the client


class Batch(Struct, eq=False):
    """Rows drawn from replay."""

    rows: dict[str, Array]  # by column [B, ...]
    ids: Array  # [B]
    weights: Array  # [B] importance weights, at most 1

    def split(self, count: int) -> list["Batch"]:
        """Return views of ``count`` equal parts, in order."""
        size = len(self.ids) // count
        parts = [slice(first, first + size) for first in range(0, count * size, size)]
        return [
            Batch({n: c[part] for n, c in self.rows.items()}, self.ids[part], self.weights[part])
            for part in parts
        ]


class Ring:
    """Holds the last ``capacity`` rows; a row's id is the number of rows added before it.

    Frames of stacked images are stored once, shared by all columns of one shape: consecutive
    stacks overlap, and the next observation of a row is an observation of a later one.

    Args:
        capacity: Number of rows kept.
        columns: Shape and type of each column.
        allocate: Allocates the columns.
    """

    def __init__(
        self, capacity: int, columns: dict[str, Leaf], *, allocate: Allocate = in_memory
    ) -> None:
        self.capacity = capacity
        self.added = 0
        stores = {
            leaf: FrameStore(stack, leaf.dtype, capacity, allocate)
            for leaf in dict.fromkeys(columns.values())
            if (stack := stack_of(leaf))
        }
        self.frames = {name: stores[leaf] for name, leaf in columns.items() if leaf in stores}
        self.columns = {
            name: np.zeros((capacity, self.frames[name].stack.depth), "<i8")
            if name in self.frames
            else allocate((capacity, *leaf.shape), leaf.dtype)
            for name, leaf in columns.items()
        }
        self.owners = np.zeros(capacity, np.uint64)  # 0: unknown

    def __len__(self) -> int:
        """Return the number of rows."""
        return min(self.added, self.capacity)

    def append(self, rows: dict[str, Array]) -> Array:
        """Add rows, overwriting the oldest; return their slots."""
        count = len(next(iter(rows.values())))
        kept = min(count, self.capacity)
        start = (self.added + count - kept) % self.capacity
        before_wrap = min(kept, self.capacity - start)
        slots: Array = (start + np.arange(kept)) % self.capacity
        owners = rows.get(OWNER, np.zeros(count, np.uint64))
        new = {name: rows[name][count - kept :] for name in self.columns}
        for name, frames in self.frames.items():
            new[name] = frames.put(new[name])  # before the release: old and new rows may share
            frames.release(self.columns[name][slots[slots < len(self)]])
        for column, values in [
            *((column, new[name]) for name, column in self.columns.items()),
            (self.owners, owners[count - kept :]),
        ]:
            column[start : start + before_wrap] = values[:before_wrap]
            column[: kept - before_wrap] = values[before_wrap:]
        self.added += count
        return slots

    def rows(self, slots: Array) -> dict[str, Array]:
        """Return copies of the rows in ``slots`` [B]."""
        rows = {name: column.take(slots, axis=0) for name, column in self.columns.items()}
        return rows | {name: frames.get(rows[name]) for name, frames in self.frames.items()}

    def ids(self, slots: Array) -> Array:
        """Return the ids of the rows now in ``slots`` [B]."""
        newest = self.added - 1
        ids: Array = newest - (newest - slots) % self.capacity
        return ids

    def contains(self, ids: Array) -> Array:
        """Return a mask [B] of the ids that have not been overwritten."""
        present: Array = (ids >= self.added - self.capacity) & (ids < self.added)
        return present

    def remove(self, client: str) -> Array:
        """Remove the rows of one client and compact the others, oldest first, with new ids.

        Returns:
            The former slots of the remaining rows.
        """
        count = len(self)
        slots = (self.added + np.arange(count)) % max(1, count)
        removed = self.owners[slots] == owner(client)
        for name, frames in self.frames.items():
            frames.release(self.columns[name][slots[removed]])
        kept: Array = slots[~removed]
        for column in (*self.columns.values(), self.owners):
            column[: len(kept)] = column[kept]
        self.added = len(kept)
        return kept

    def state_dict(self) -> dict[str, Any]:
        """Return the rows."""
        columns = {name: column[: len(self)] for name, column in self.columns.items()}
        owners = self.owners[: len(self)]
        frames = {names[0]: self.frames[names[0]].state() for names in self._sharing()}
        return {"added": self.added, "columns": columns, "owners": owners, "frames": frames}

    def load_state_dict(self, state_dict: dict[str, Any], /) -> Array | slice:
        """Load the rows of another ring, or its newest if this one is smaller.

        Returns:
            The slots of the loaded rows in the other ring.
        """
        columns, added = state_dict["columns"], int(state_dict["added"])
        count = len(next(iter(columns.values())))
        slots: Array | slice = slice(None)
        if count != min(added, self.capacity):  # the other ring has another capacity
            oldest = added % count if added > count else 0
            slots = ((oldest + np.arange(count)) % count)[-self.capacity :]
            added = len(slots)
        self.added = added
        for name, column in self.columns.items():
            column[:added] = columns[name][slots]
        owners = state_dict.get("owners", np.zeros(count, np.uint64))  # absent from old checkpoints
        self.owners[:added] = owners[slots]
        for names in self._sharing():
            used = [self.columns[name][: len(self)] for name in names]
            self.frames[names[0]].restore(np.asarray(state_dict["frames"][names[0]]), used)
        return slots

    def _sharing(self) -> list[list[str]]:
        """Return the names of the columns of each frame store."""
        names: dict[int, list[str]] = {}
        for name, frames in self.frames.items():
            names.setdefault(id(frames), []).append(name)
        return list(names.values())


@lru_cache(maxsize=4096)
def owner(client: str) -> int:
    """Return a stable non-zero 64-bit number that identifies a client."""
    digest = hashlib.blake2b(client.encode(), digest_size=8).digest()
    return int.from_bytes(digest, "little") or 1


def rng_state(rng: np.random.Generator) -> str:
    """Return a generator's state as JSON (its integers exceed 64 bits)."""
    return json.dumps(rng.bit_generator.state)


def set_rng_state(rng: np.random.Generator, state: str) -> None:
    """Restore the state of ``rng_state``."""
    rng.bit_generator.state = json.loads(state)
