"""An environment of one's own: ``soulsai train --env examples/custom_env.py:make``.

Anything that a function returns may be trained, if it is a ``gymnasium.Env``. Here one walks along
a corridor; the right end is worth 1, the left end -1, and each step costs a little.
"""

from typing import Any

import gymnasium
import numpy as np
from gymnasium import spaces

COST = 0.01  # of a step


class Corridor(gymnasium.Env[np.ndarray, np.int64]):
    """Walks left or right, from somewhere in the middle."""

    def __init__(self, length: int) -> None:
        self.observation_space = spaces.Box(-1.0, 1.0, (1,), np.float32)
        self.action_space = spaces.Discrete(2)
        self._length = length
        self._place = 0

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[np.ndarray, dict[str, Any]]:
        """Begin somewhere that is not an end."""
        super().reset(seed=seed, options=options)
        self._place = int(self.np_random.integers(1, self._length - 1))
        return self._seen(), {}

    def step(self, action: np.int64) -> tuple[np.ndarray, float, bool, bool, dict[str, Any]]:
        """Walk right with 1, left with 0."""
        self._place += 1 if action == 1 else -1
        if self._place == 0:
            return self._seen(), -1.0, True, False, {}
        if self._place == self._length - 1:
            return self._seen(), 1.0, True, False, {}
        return self._seen(), -COST, False, False, {}

    def _seen(self) -> np.ndarray:
        return np.array([2 * self._place / (self._length - 1) - 1], np.float32)


def make(length: int = 11) -> gymnasium.Env:
    """Return a corridor; ``length`` can be set with ``environment.kwargs.length``."""
    return gymnasium.wrappers.TimeLimit(Corridor(length), max_episode_steps=10 * length)
