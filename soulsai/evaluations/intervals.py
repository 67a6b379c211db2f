"""Means of few episodes with their intervals, and the comparison of two models on equal seeds.

The interquartile mean and its percentile bootstrap are those of Agarwal et al. 2021
(arXiv:2108.13264), for one task.
"""

import math
from collections.abc import Sequence

import numpy as np
from msgspec import Struct

from soulsai.types import Array

CONFIDENCE = 0.95  # of an interval
RESAMPLES = 2000  # of a bootstrap
FLIPS = 20_000  # of signs; they resolve a probability of 0.001
PERMUTATIONS = 10_000


class Estimate(Struct, frozen=True):
    """A value and its confidence interval."""

    value: float
    low: float
    high: float


def iqm(values: Sequence[float]) -> float:
    """Return the mean of the middle half of the values."""
    cut = len(values) // 4
    middle = sorted(values)[cut : len(values) - cut]
    return math.fsum(middle) / len(middle)


def mean_estimate(values: Sequence[float], confidence: float = CONFIDENCE) -> Estimate:
    """Return the mean with its percentile bootstrap interval.

    Args:
        values: The returns of episodes [N].
        confidence: The share of intervals that contain the mean.
    """
    low, high = _percentiles(_resampled(values).mean(axis=1), confidence)
    return Estimate(math.fsum(values) / len(values), low, high)


def iqm_estimate(values: Sequence[float], confidence: float = CONFIDENCE) -> Estimate:
    """Return the interquartile mean with its percentile bootstrap interval.

    Args:
        values: The returns of episodes [N].
        confidence: The share of intervals that contain the interquartile mean.
    """
    cut = len(values) // 4
    middle = np.sort(_resampled(values), axis=1)[:, cut : len(values) - cut]
    low, high = _percentiles(middle.mean(axis=1), confidence)
    return Estimate(iqm(values), low, high)


def sign_flip_p(differences: Sequence[float]) -> float:
    """Return the one-sided p-value of a positive mean of paired differences.

    If two models are equally good, each difference is as likely as its negative (Fisher's
    randomisation test), whatever the distribution of the returns is.

    Args:
        differences: The return of one model minus that of the other, by seed [N].
    """
    given = np.asarray(differences, np.float64)
    signs = 2.0 * np.random.default_rng(0).integers(2, size=(FLIPS, len(given))) - 1.0
    scale = float(np.abs(given).max(initial=0.0)) or 1.0
    # The sum may differ from one of other signs by rounding alone.
    reached = signs @ (given / scale) >= given.sum() / scale - 1e-9 * len(given)
    return float((1 + int(reached.sum())) / (1 + FLIPS))


def permutation_p(values: Sequence[float], others: Sequence[float]) -> float:
    """Return the one-sided p-value that the mean of values is larger than that of others.

    If both come from one distribution, any split of them is equally likely.

    Args:
        values: The returns of one model [N].
        others: The returns of the other one [M].
    """
    both = np.asarray([*values, *others], np.float64)
    rng, count = np.random.default_rng(0), len(values)
    drawn = rng.permuted(np.broadcast_to(both, (PERMUTATIONS, len(both))), axis=1)
    sums = drawn[:, :count].sum(axis=1)
    scale = float(np.abs(both).max(initial=0.0)) or 1.0
    reached = sums >= both[:count].sum() - 1e-9 * len(both) * scale
    return float((1 + int(reached.sum())) / (1 + PERMUTATIONS))


def _resampled(values: Sequence[float]) -> Array:
    """Draw ``RESAMPLES`` samples with replacement; equal values give equal samples."""
    given = np.asarray(values, np.float64)
    picks = np.random.default_rng(0).integers(len(given), size=(RESAMPLES, len(given)))
    drawn: Array = given[picks]
    return drawn


def _percentiles(values: Array, confidence: float) -> tuple[float, float]:
    tail = 50.0 * (1.0 - confidence)
    low, high = np.percentile(values, [tail, 100.0 - tail])
    return float(low), float(high)
