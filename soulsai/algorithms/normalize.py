"""Running mean and variance, by the pairwise merge of Chan, Golub and LeVeque (1979)."""

import math
from collections.abc import Callable, Iterable
from typing import Any

import numpy as np
import torch

from soulsai.algorithms.networks import Observation
from soulsai.types import Array

BLOCK = 64  # rows merged at a time
WARMUP = 1024  # rows before which outliers are measured against their block
WARMUP_REACH = 1e4  # a larger distance from the block's median, in median distances, is ignored
REACH = 50.0  # distance from the mean, in standard deviations, to which values are clipped
ASSUMED = 1024 * BLOCK  # rows that statistics of another policy count for
LEAST_REACH = 10.0  # distance that is never clipped: the scale of flags and of rare events


class RunningStatistics:
    """Mean and variance of each element over all rows so far.

    Rows are merged in blocks of fixed size, in order, so the result does not depend on how calls
    group them. Outliers are clipped to ``min(sqrt(rows) / 2, REACH)`` standard deviations, or as
    many times the block's median distance from the mean: a lone value raises the variance by a
    quarter at most, and a shift of half of the values is followed at once.

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

    def assume(self, mean: Array, inv_std: Array) -> None:
        """Begin with the statistics of another policy, as if of ``ASSUMED`` rows.

        Args:
            mean: Means [size].
            inv_std: Inverse standard deviations [size].
        """
        self.count, self.mean = ASSUMED, mean.copy()
        self._squares = ASSUMED / inv_std**2
        self._rest = np.zeros((0, len(mean)))

    def update(self, rows: Array) -> bool:
        """Add rows [B, size]; return whether the statistics changed."""
        if self.count >= self.freeze_after or not self.mean.size:
            return False
        rows = np.concatenate((self._rest, rows), dtype=np.float64)
        complete = len(rows) // BLOCK * BLOCK
        self._rest = rows[complete:].copy()
        blocks = rows[:complete].reshape(-1, BLOCK, self.mean.size).swapaxes(0, 1)
        if self.mean.size > 1:  # sums over the first axis are then several times as fast
            blocks = np.ascontiguousarray(blocks)
        lowest, highest = blocks.min(axis=0), blocks.max(axis=0)
        means, squares = _moments(blocks)
        # A mean never leaves the range of its values, so nothing is clipped in a narrow range.
        high, low = highest.max(axis=0, initial=-np.inf), lowest.min(axis=0, initial=np.inf)
        span = np.maximum(high, self.mean) - np.minimum(low, self.mean)
        narrow = span.max() <= LEAST_REACH
        for index in range(blocks.shape[1]):
            block = blocks[:, index]
            kept = block if narrow else self._clipped(block, lowest[index], highest[index])
            moments = (means[index], squares[index]) if kept is block else _moments(kept)
            self._merge(*moments)
        return complete > 0

    def _clipped(self, block: Array, low: Array, high: Array) -> Array:
        """Return a block [64, size] without outliers, or the same object if it has none."""
        if self.count < WARMUP:
            if (high - low <= WARMUP_REACH).all():
                return block
            median = np.median(block, axis=0)
            distance = np.abs(block - median)
            reach = WARMUP_REACH * np.maximum(np.median(distance, axis=0), 1.0)
            return np.where(distance > reach, median, block)
        farthest = np.maximum(high - self.mean, self.mean - low)
        if np.maximum.reduce(farthest) <= LEAST_REACH:
            return block
        factor = min(math.sqrt(self.count) / 2.0, REACH)
        least = np.maximum(factor / self.inv_std, LEAST_REACH)
        if (farthest <= least).all():
            return block
        usual = np.median(np.abs(block - self.mean), axis=0)
        reach = np.maximum(least, factor * usual)
        return block.clip(self.mean - reach, self.mean + reach)

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


def _moments(block: Array) -> tuple[Array, Array]:
    """Return the means over the first axis, and the summed squared distances from them."""
    mean = np.add.reduce(block) / BLOCK
    return mean, np.add.reduce(np.square(block - mean))


class ObservationNormalizer:
    """Keeps the buffers of an observation at the statistics of experience.

    Args:
        observation: Its ``mean`` and ``inv_std`` are updated.
        stored: Returns the observations in replay, as chunks of leaves [B, ...]; without it, the
            experience of a purged client stays in the statistics.
    """

    def __init__(
        self,
        observation: Observation,
        stored: Callable[[], Iterable[dict[str, Array]]] | None = None,
    ) -> None:
        self.statistics = RunningStatistics(observation.size)
        self._observation, self._stored = observation, stored

    def update(self, leaves: dict[str, Array]) -> None:
        """Count observations, as leaves [B, ...]."""
        if self.statistics.update(self._observation.elements(leaves)):
            self._apply()

    def settle(self) -> None:
        """Let later observations change the statistics little: a policy is cloned by these.

        Else the first ones of clients would move what the policy sees, and it would forget all.
        """
        if self.statistics.count:
            self.statistics.assume(self.statistics.mean, self.statistics.inv_std)

    def forget(self, client: str) -> int:  # noqa: ARG002 - replay has removed its rows already
        """Recompute the statistics from replay; return 0, as no step is removed here."""
        if self._stored is not None and self._observation.normalizes:
            self.statistics = RunningStatistics(self._observation.size)
            for leaves in self._stored():
                self.statistics.update(self._observation.elements(leaves))
            self._apply()
        return 0

    def _apply(self) -> None:
        self._observation.mean.copy_(torch.from_numpy(self.statistics.mean))
        self._observation.inv_std.copy_(torch.from_numpy(self.statistics.inv_std))

    def state_dict(self) -> dict[str, Any]:
        """Return the statistics."""
        return self.statistics.state_dict()

    def load_state_dict(self, state_dict: dict[str, Any], /) -> None:
        """Load statistics; the buffers are loaded with the policy."""
        self.statistics.load_state_dict(state_dict)
