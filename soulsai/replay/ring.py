"""A ring buffer of rows in columns, the storage of every replay."""

import hashlib
import json
from collections.abc import Sequence
from functools import lru_cache
from typing import Any

import numpy as np
from msgspec import Struct

from soulsai.frame_stacks import stack_of
from soulsai.replay.frames import FrameStore
from soulsai.replay.next_observations import NextObservations, next_columns, twins
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


def in_parts(column: Array, count: int) -> Array:
    """Return a view [count, B, ...] of ``count`` equal parts of a column, in order."""
    return column.reshape(count, -1, *column.shape[1:])


def concatenated(batches: Sequence[Batch]) -> Batch:
    """Return the rows of batches as one, in order."""
    rows = {name: np.concatenate([one.rows[name] for one in batches]) for name in batches[0].rows}
    ids = np.concatenate([batch.ids for batch in batches])
    return Batch(rows, ids, np.concatenate([batch.weights for batch in batches]))


class Ring:
    """Holds the last ``capacity`` rows; a row's id is the number of rows added before it.

    The next observation of a row is that of a later one, if rows come with the numbers of
    ``NextObservations``, and is stored once. Frames of stacked images are stored once, shared by
    all columns of one shape, as consecutive stacks overlap.

    Args:
        capacity: Number of rows kept.
        columns: Shape and type of each column.
        allocate: Allocates the columns.
        shared: Whether to store each observation once; else next observations are copies.
    """

    def __init__(
        self,
        capacity: int,
        columns: dict[str, Leaf],
        *,
        allocate: Allocate = in_memory,
        shared: bool = True,
    ) -> None:
        self.capacity = capacity
        self.added = 0
        stores = {
            leaf: FrameStore(stack, leaf.dtype, capacity, allocate)
            for leaf in dict.fromkeys(columns.values())
            if (stack := stack_of(leaf))
        }
        self.frames = {name: stores[leaf] for name, leaf in columns.items() if leaf in stores}
        plain = {name: leaf for name, leaf in columns.items() if name not in self.frames}
        self._twins = twins(plain) if shared else {}
        # Places behind the rows take no memory until they are written.
        both = {
            name: allocate((2 * capacity, *columns[name].shape), columns[name].dtype)
            for name in self._twins.values()
        }
        self.next = (
            NextObservations({name: both[twin] for name, twin in self._twins.items()})
            if self._twins
            else None
        )
        self._names = tuple(columns)
        self.columns: dict[str, Array] = {}  # what is stored by row
        for name, leaf in columns.items():
            if name in self.frames:
                self.columns[name] = np.zeros((capacity, self.frames[name].stack.depth), "<i8")
            elif name in both:
                self.columns[name] = both[name][:capacity]
            elif name not in self._twins:
                self.columns[name] = allocate((capacity, *leaf.shape), leaf.dtype)
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
        overwritten = slots[slots < len(self)]
        new = {name: rows[name][count - kept :] for name in self.columns}
        for name, frames in self.frames.items():
            new[name] = frames.put(new[name])  # before the release: old and new rows may share
            frames.release(self.columns[name][overwritten])
        if self.next is not None:
            if len(overwritten) < len(self):
                self.next.release(overwritten)
            else:  # perhaps not in order, if there are more new rows than slots
                self.next.clear()
        for column, values in [
            *((column, new[name]) for name, column in self.columns.items()),
            (self.owners, owners[count - kept :]),
        ]:
            column[start : start + before_wrap] = values[:before_wrap]
            column[: kept - before_wrap] = values[before_wrap:]
        self.added += count
        if self.next is not None:
            self.next.put(slots, {name: column[count - kept :] for name, column in rows.items()})
        return slots

    def rows(self, slots: Array) -> dict[str, Array]:
        """Return copies of the rows in ``slots`` [B]."""
        rows = {name: column.take(slots, axis=0) for name, column in self.columns.items()}
        rows |= {name: frames.get(rows[name]) for name, frames in self.frames.items()}
        if self.next is None:
            return rows
        rows |= self.next.get(slots)
        return {name: rows[name] for name in self._names}  # compiled updates go by the order

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
        if self.next is not None:
            self.next.keep(kept, slots[removed])
        for column in (*self.columns.values(), self.owners):
            column[: len(kept)] = column[kept]
        self.added = len(kept)
        return kept

    def state_dict(self) -> dict[str, Any]:
        """Return the rows."""
        columns = {name: column[: len(self)] for name, column in self.columns.items()}
        owners = self.owners[: len(self)]
        frames = {names[0]: self.frames[names[0]].state() for names in self._sharing()}
        state = {"added": self.added, "columns": columns, "owners": owners, "frames": frames}
        return state if self.next is None else state | {"next": self.next.state(len(self))}

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
        kept = np.arange(count)[slots]
        columns = columns | self._load_next(state_dict, kept)
        for name, column in self.columns.items():
            column[:added] = columns[name][slots]
        owners = state_dict.get("owners", np.zeros(count, np.uint64))  # absent from old checkpoints
        self.owners[:added] = owners[slots]
        for names in self._sharing():
            used = [self.columns[name][: len(self)] for name in names]
            self.frames[names[0]].restore(np.asarray(state_dict["frames"][names[0]]), used)
        return slots

    def _load_next(self, state_dict: dict[str, Any], kept: Array) -> dict[str, Array]:
        """Load the next observations, which the other ring may have stored in the other way.

        Args:
            state_dict: The state of the other ring.
            kept: Slots of the rows to load, in that ring [N].

        Returns:
            Further columns of that ring.
        """
        columns, state = state_dict["columns"], state_dict.get("next")
        if state is None:
            if self.next is not None:
                self.next.restore_copies({name: columns[name][kept] for name in self._twins})
            return {}
        if self.next is not None:
            self.next.restore(state, kept)
            return {}
        return next_columns(columns, state)

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
