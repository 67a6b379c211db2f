"""How long to wait before trying again: longer each time, and never in step with others."""

import random


class Backoff:
    """Full jitter: a uniform draw below a bound that doubles with each failure."""

    def __init__(self, rng: random.Random, first: float = 0.1, most: float = 10.0) -> None:
        self._rng = rng
        self._first = first
        self._most = most
        self._failures = 0

    def next(self) -> float:
        """Return the seconds to wait after one more failure."""
        bound = min(self._most, self._first * 2.0 ** min(self._failures, 30))
        self._failures += 1
        return self._rng.uniform(0.0, bound)

    def reset(self) -> None:
        """Begin again with short waits: it worked."""
        self._failures = 0
