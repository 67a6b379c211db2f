"""Trees of sums over non-negative numbers, for sampling in proportion to them in batches."""

from typing import Protocol

import numpy as np

from soulsai.replay.tree_routines import TreeRoutines
from soulsai.types import Array

FAN = 64  # children per node: few levels, and each is one NumPy call for a whole batch
COMPILED_FAN = 16  # as in sum_tree.cpp; fewer numbers to add up, as a call is for all levels
ROUNDING = 1.0 - 1e-12  # keeps a depth below a sum that was rounded down, so a leaf is positive


class Tree(Protocol):
    """A tree of sums."""

    @property
    def leaves(self) -> Array:
        """All numbers, padded with zeros."""
        ...

    @property
    def total(self) -> float:
        """The sum of all numbers."""
        ...

    def set(self, indices: Array, values: Array | float) -> None:
        """Set leaves [B] and update the sums above; the last of equal indices counts."""
        ...

    def find(self, depths: Array) -> Array:
        """Return the index [B] at which the running sum first exceeds each depth [B]."""
        ...


class SumTree:
    """A tree of sums in NumPy."""

    def __init__(self, size: int) -> None:
        self.levels: list[Array] = []  # [blocks, FAN] each, leaves first; the last has one block
        while True:
            blocks = -(-size // FAN)
            self.levels.append(np.zeros((blocks, FAN)))
            if blocks == 1:
                break
            size = blocks

    @property
    def leaves(self) -> Array:
        """All numbers, padded with zeros."""
        return self.levels[0].reshape(-1)

    @property
    def total(self) -> float:
        """The sum of all numbers."""
        return float(self.levels[-1].sum())

    def set(self, indices: Array, values: Array | float) -> None:
        """Set leaves [B] and update the sums above; the last of equal indices counts."""
        self.leaves[indices] = values
        for below, above in zip(self.levels, self.levels[1:], strict=False):
            indices = indices // FAN
            above.reshape(-1)[indices] = below[indices].sum(axis=1)

    def find(self, depths: Array) -> Array:
        """Return the index [B] at which the running sum first exceeds each depth [B]."""
        nodes = np.zeros(len(depths), np.int64)
        firsts = np.arange(len(depths)) * FAN
        for level in reversed(self.levels):
            block = level if len(level) == 1 else level.take(nodes, axis=0)  # [1 or B, FAN]
            sums = block.cumsum(axis=1)
            depths = np.minimum(depths, sums[:, -1] * ROUNDING)
            if len(level) == 1:
                child = flat = sums[0].searchsorted(depths, side="right")
            else:
                child = (sums > depths[:, None]).argmax(axis=1)
                flat = firsts + child
            depths = depths - (sums.take(flat) - block.take(flat))
            nodes = nodes * FAN + child
        return nodes


class CompiledSumTree:
    """The same tree by compiled routines.

    Args:
        size: Number of leaves.
        routines: The compiled routines.
    """

    def __init__(self, size: int, routines: TreeRoutines) -> None:
        counts = [-(-size // COMPILED_FAN) * COMPILED_FAN]  # of each level, leaves first
        while counts[-1] > COMPILED_FAN:
            counts.append(-(-counts[-1] // COMPILED_FAN**2) * COMPILED_FAN)
        self._nodes = np.zeros(sum(counts))
        self._firsts = np.cumsum([0, *counts[:-1]])
        self._place = self._nodes.ctypes.data, self._firsts.ctypes.data, len(counts)
        self._routines = routines
        self.leaves = self._nodes[: counts[0]]
        self._top = self._nodes[-COMPILED_FAN:]

    @property
    def total(self) -> float:
        """The sum of all numbers."""
        return float(self._top.sum())

    def set(self, indices: Array, values: Array | float) -> None:
        """Set leaves [B] and update the sums above; the last of equal indices counts."""
        indices = np.ascontiguousarray(indices, np.int64)
        given = np.ascontiguousarray(values, np.float64)  # one value for all is [1] here
        step = int(len(given) > 1)
        self._routines.set(*self._place, indices.ctypes.data, given.ctypes.data, step, len(indices))

    def find(self, depths: Array) -> Array:
        """Return the index [B] at which the running sum first exceeds each depth [B]."""
        depths = np.ascontiguousarray(depths, np.float64)
        found = np.empty(len(depths), np.int64)
        self._routines.find(*self._place, depths.ctypes.data, len(depths), found.ctypes.data)
        return found
