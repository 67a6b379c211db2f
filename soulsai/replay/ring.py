"""A ring of rows in columns: the memory under every replay."""

import hashlib
import json
from functools import lru_cache
from typing import Any

import numpy as np
from msgspec import Struct

from soulsai.frame_stacks import stack_of
from soulsai.replay.frames import Frames
from soulsai.replay.storage import Room, in_memory
from soulsai.types import Array, Leaf


class Batch(Struct, eq=False):
    """Rows drawn from replay: their columns, their ids, and how much each should weigh."""

    rows: dict[str, Array]
    ids: Array
    weights: Array


OWNER = "owner"  # the column, apart from the others, that says whose experience a row is


class Ring:
    """Holds the last ``capacity`` rows; a row's id is the number of rows added before it.

    Of columns that are stacks of frames, each frame is kept once: stacks that follow one another
    share most of theirs, and what was seen next is what a later row saw.
    """

    def __init__(self, capacity: int, columns: dict[str, Leaf], *, room: Room = in_memory) -> None:
        self.capacity = capacity
        self.added = 0
        forms = {leaf: stack for leaf in columns.values() if (stack := stack_of(leaf))}
        stores = {leaf: Frames(stack, leaf.dtype, capacity, room) for leaf, stack in forms.items()}
        self.frames = {name: stores[leaf] for name, leaf in columns.items() if leaf in stores}
        self.columns = {
            name: np.zeros((capacity, self.frames[name].stack.depth), "<i8")
            if name in self.frames
            else room((capacity, *leaf.shape), leaf.dtype)
            for name, leaf in columns.items()
        }
        self.owners = np.zeros(capacity, np.uint64)  # 0: not known

    def __len__(self) -> int:
        """Return the number of rows held."""
        return min(self.added, self.capacity)

    def append(self, rows: dict[str, Array]) -> Array:
        """Add rows, over the oldest if need be; return their slots."""
        count = len(next(iter(rows.values())))
        kept = min(count, self.capacity)
        start = (self.added + count - kept) % self.capacity
        before_wrap = min(kept, self.capacity - start)
        slots: Array = (start + np.arange(kept)) % self.capacity
        owners = rows.get(OWNER, np.zeros(count, np.uint64))
        news = {name: rows[name][count - kept :] for name in self.columns}
        for name, frames in self.frames.items():
            news[name] = frames.put(news[name])  # before the old ones go: they may share
            frames.release(self.columns[name][slots[slots < len(self)]])
        for column, new in [
            *((column, news[name]) for name, column in self.columns.items()),
            (self.owners, owners[count - kept :]),
        ]:
            column[start : start + before_wrap] = new[:before_wrap]
            column[: kept - before_wrap] = new[before_wrap:]
        self.added += count
        return slots

    def rows(self, slots: Array) -> dict[str, Array]:
        """Return copies of the rows in ``slots``."""
        found = {name: column.take(slots, axis=0) for name, column in self.columns.items()}
        return found | {name: frames.get(found[name]) for name, frames in self.frames.items()}

    def ids(self, slots: Array) -> Array:
        """Return the ids of the rows now in ``slots``."""
        newest = self.added - 1
        ids: Array = newest - (newest - slots) % self.capacity
        return ids

    def held(self, ids: Array) -> Array:
        """Say which rows have not been written over."""
        held: Array = (ids >= self.added - self.capacity) & (ids < self.added)
        return held

    def remove(self, client: str) -> Array:
        """Remove the rows of one client; return the slots, before that, of those that stay.

        They are moved together, oldest first, and get new ids.
        """
        held = len(self)
        slots = (self.added + np.arange(held)) % max(1, held)
        stay: Array = slots[self.owners[slots] != owner(client)]
        for name, frames in self.frames.items():
            frames.release(self.columns[name][slots[self.owners[slots] == owner(client)]])
        for column in (*self.columns.values(), self.owners):
            column[: len(stay)] = column[stay]
        self.added = len(stay)
        return stay

    def state_dict(self) -> dict[str, Any]:
        """Return the rows that are held."""
        held = {name: column[: len(self)] for name, column in self.columns.items()}
        owners = self.owners[: len(self)]
        frames = {names[0]: self.frames[names[0]].state() for names in self._stores()}
        return {"added": self.added, "columns": held, "owners": owners, "frames": frames}

    def load_state_dict(self, state_dict: dict[str, Any], /) -> None:
        """Take over the rows of a ring of the same capacity."""
        self.added = int(state_dict["added"])
        for name, column in self.columns.items():
            column[: len(self)] = state_dict["columns"][name]
        self.owners[: len(self)] = state_dict.get("owners", 0)  # older checkpoints do not know them
        for names in self._stores():
            stacks = [self.columns[name][: len(self)] for name in names]
            self.frames[names[0]].restore(np.asarray(state_dict["frames"][names[0]]), stacks)

    def _stores(self) -> list[list[str]]:
        """Return the columns that share a store of frames, for each store."""
        stores: dict[int, list[str]] = {}
        for name, frames in self.frames.items():
            stores.setdefault(id(frames), []).append(name)
        return list(stores.values())


@lru_cache(maxsize=4096)
def owner(client: str) -> int:
    """Return a number by which a client's rows are known, alike in every run; never 0."""
    digest = hashlib.blake2b(client.encode(), digest_size=8).digest()
    return int.from_bytes(digest, "little") or 1


def rng_state(rng: np.random.Generator) -> str:
    """Return a generator's state as text (its integers are too large for most formats)."""
    return json.dumps(rng.bit_generator.state)


def set_rng_state(rng: np.random.Generator, state: str) -> None:
    """Continue where ``rng_state`` was taken."""
    rng.bit_generator.state = json.loads(state)
