"""Running mean and variance, by the pairwise merge of Chan, Golub and LeVeque (1979)."""

from typing import Any

import numpy as np

from soulsai.types import Array

BLOCK = 64  # rows merged at a time


class RunningStatistics:
    """Mean and variance of each element over all rows so far.

    Rows are merged in blocks of fixed size, in order, so the result does not depend on how calls
    group them.

    Args:
        size: Number of elements of a row.
        freeze_after: Number of rows after which the statistics stay constant.
    """

    def __init__(self, size: int, *, freeze_after: int = 1_000_000) -> None:
        self.freeze_after = freeze_after
        self.count = 0
        self.mean = np.zeros(size)
        self._squares = np.zeros(size)  # summed squared distances from the mean
        self._rest = np.zeros((0, size))  # rows of an incomplete block

    def update(self, rows: Array) -> bool:
        """Add rows [B, size]; return whether the statistics changed."""
        if self.count >= self.freeze_after or not self.mean.size:
            return False
        rows = np.concatenate((self._rest, rows), dtype=np.float64)
        blocks = len(rows) // BLOCK
        self._rest = rows[blocks * BLOCK :].copy()
        if not blocks:
            return False
        complete = rows[: blocks * BLOCK].reshape(blocks, BLOCK, -1)
        means = complete.mean(axis=1)  # [blocks, size]
        squares = ((complete - means[:, None]) ** 2).sum(axis=1)
        for mean, summed in zip(means, squares, strict=True):
            self._merge(mean, summed)
        return True

    def _merge(self, mean: Array, squares: Array) -> None:
        total = self.count + BLOCK
        delta = mean - self.mean
        self.mean = self.mean + delta * (BLOCK / total)
        self._squares = self._squares + squares + delta**2 * (self.count * BLOCK / total)
        self.count = total

    @property
    def inv_std(self) -> Array:
        """The inverse standard deviation [size], at most 100; 1 before the first block."""
        if not self.count:
            return np.ones_like(self.mean)
        inverse: Array = 1.0 / np.sqrt(np.maximum(self._squares / self.count, 1e-4))
        return inverse

    def state_dict(self) -> dict[str, Any]:
        """Return the statistics and the rows of the incomplete block."""
        return {
            "count": self.count,
            "mean": self.mean,
            "squares": self._squares,
            "rest": self._rest,
        }

    def load_state_dict(self, state_dict: dict[str, Any], /) -> None:
        """Load statistics."""
        self.count = int(state_dict["count"])
        self.mean = np.array(state_dict["mean"], np.float64)
        self._squares = np.array(state_dict["squares"], np.float64)
        self._rest = np.array(state_dict["rest"], np.float64)
