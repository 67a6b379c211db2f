"""Honest statistics of few runs (arXiv:2108.13264)."""

import math
from collections.abc import Sequence

import numpy as np

STAYING = 2  # further evaluations in which what was reached must hold
REPETITIONS = 5_000


def iqm(scores: Sequence[float]) -> float:
    """Return the mean of the middle half."""
    ordered = np.sort(np.asarray(scores, np.float64))
    cut = int(0.25 * len(ordered))
    return float(ordered[cut : len(ordered) - cut].mean())


def interval(scores: Sequence[float]) -> tuple[float, float]:
    """Return the 95 % percentile bootstrap interval of the IQM.

    Of five runs it really covers about 90 %, of three 74 %.
    """
    rng = np.random.default_rng(0)
    drawn = np.sort(rng.choice(np.asarray(scores, np.float64), (REPETITIONS, len(scores))), axis=1)
    cut = int(0.25 * len(scores))
    means = drawn[:, cut : len(scores) - cut].mean(axis=1)
    low, high = np.percentile(means, [2.5, 97.5])
    return float(low), float(high)


def steps_to(
    bar: float, curve: Sequence[tuple[int, float]], staying: int | None = STAYING
) -> float:
    """Return after how many env steps evaluations reached ``bar`` and stayed; else infinity.

    Args:
        bar: The least score.
        curve: Env steps and scores, in order.
        staying: To stay means in so many more evaluations, or in those that are left; ``None``: in
            all of them.
    """
    last = len(curve) if staying is None else 1 + staying
    for place, (env_steps, _) in enumerate(curve):
        if all(score >= bar for _, score in curve[place : place + last]):
            return env_steps
    return math.inf
