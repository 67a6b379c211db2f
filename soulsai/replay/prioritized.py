"""Prioritised replay (arXiv:1511.05952): rows the learner is wrong about are drawn more often."""

from typing import Any

import numpy as np

from soulsai.replay.ring import Batch, Ring, rng_state, set_rng_state
from soulsai.replay.storage import Room, in_memory
from soulsai.types import Array, Leaf

FAN = 64  # children per node: few levels, and each is one NumPy call for a whole batch
UNIFORM_SHARE = 1e-3  # of draws ignore the priorities, so that no row starves
ROUNDED = 1.0 - 1e-12  # keeps a depth below a sum that was rounded down, so it finds a number > 0
FORGET = 0.9999  # per update, of the largest priority: one outlier must not pin it for ever


class SumTree:
    """Non-negative numbers of which one is drawn in proportion to its size, a batch at a time."""

    def __init__(self, size: int) -> None:
        self.levels: list[Array] = []  # leaves first; the last has one row
        while True:
            blocks = -(-size // FAN)
            self.levels.append(np.zeros((blocks, FAN)))
            if blocks == 1:
                break
            size = blocks

    @property
    def leaves(self) -> Array:
        """All numbers, and zeros after the last."""
        return self.levels[0].reshape(-1)

    @property
    def total(self) -> float:
        """The sum of all."""
        return float(self.levels[-1].sum())

    def set(self, indices: Array, values: Array | float) -> None:
        """Set numbers, and all sums above them; of equal indices the last counts."""
        self.leaves[indices] = values
        for below, above in zip(self.levels, self.levels[1:], strict=False):
            indices = indices // FAN
            above.reshape(-1)[indices] = below[indices].sum(axis=1)

    def find(self, depths: Array) -> Array:
        """Return where the running sum of all numbers first exceeds each of ``depths``."""
        found = np.zeros(len(depths), np.int64)
        firsts = np.arange(len(depths)) * FAN
        for level in reversed(self.levels):
            block = level if len(level) == 1 else level.take(found, axis=0)  # [1 or B, FAN]
            sums = block.cumsum(axis=1)
            depths = np.minimum(depths, sums[:, -1] * ROUNDED)
            if len(level) == 1:
                child = at = sums[0].searchsorted(depths, side="right")
            else:
                child = (sums > depths[:, None]).argmax(axis=1)
                at = firsts + child
            depths = depths - (sums.take(at) - block.take(at))
            found = found * FAN + child
        return found


class PrioritizedReplay:
    """Samples in proportion to ``(|error| + 1e-6) ** alpha``; weights undo the bias."""

    def __init__(
        self,
        capacity: int,
        columns: dict[str, Leaf],
        *,
        alpha: float,
        rng: np.random.Generator,
        room: Room = in_memory,
    ) -> None:
        self.ring = Ring(capacity, columns, room=room)
        self.alpha = alpha
        self._tree = SumTree(capacity)
        self._largest = 1.0  # priority of rows nobody has learned from yet
        self._rng = rng

    def __len__(self) -> int:
        """Return the number of rows held."""
        return len(self.ring)

    @property
    def priorities(self) -> Array:
        """The priority of each slot in use."""
        return self._tree.leaves[: len(self.ring)]

    def append(self, rows: dict[str, Array]) -> None:
        """Add rows, over the oldest if need be, as urgent as any."""
        self._tree.set(self.ring.append(rows), self._largest)

    def sample(self, size: int, *, beta: float) -> Batch:
        """Draw a batch, one row from each of ``size`` equal parts of the probability."""
        held, total = len(self.ring), self._tree.total
        place, luck, anywhere = self._rng.random((3, size))
        slots = self._tree.find((np.arange(size) + place) * (total / size))
        slots = np.where(luck < UNIFORM_SHARE, (anywhere * held).astype(np.int64), slots)
        share = (1.0 - UNIFORM_SHARE) * self._tree.leaves[slots] / total + UNIFORM_SHARE / held
        weights = (held * share) ** -beta
        weights = (weights / weights.max()).astype(np.float32)
        return Batch(self.ring.rows(slots), self.ring.ids(slots), weights)

    def forget(self, client: str) -> int:
        """Remove the rows of one client; return how many they were."""
        held, priorities = len(self.ring), self.priorities.copy()
        stay = self.ring.remove(client)
        self._tree = SumTree(self.ring.capacity)
        self._tree.set(np.arange(len(stay)), priorities[stay])
        return held - len(stay)

    def learned(self, ids: Array, errors: Array) -> None:
        """Set the priorities of a batch by its errors; rows written over meanwhile are skipped."""
        held = self.ring.held(ids)
        priorities = (np.abs(errors[held]).astype(np.float64) + 1e-6) ** self.alpha
        self._tree.set(ids[held] % self.ring.capacity, priorities)
        self._largest = max(self._largest * FORGET, float(priorities.max(initial=0.0)))

    def state_dict(self) -> dict[str, Any]:
        """Return the rows, their priorities and the sampler's state."""
        return {
            "ring": self.ring.state_dict(),
            "priorities": self.priorities,
            "largest": self._largest,
            "rng": rng_state(self._rng),
        }

    def load_state_dict(self, state_dict: dict[str, Any], /) -> None:
        """Take over the rows, priorities and the sampler's state of another."""
        self.ring.load_state_dict(state_dict["ring"])
        self._tree = SumTree(self.ring.capacity)
        self._tree.set(np.arange(len(self.ring)), np.asarray(state_dict["priorities"]))
        self._largest = float(state_dict["largest"])
        set_rng_state(self._rng, state_dict["rng"])
