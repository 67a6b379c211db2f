"""Environments of the learning targets that Gymnasium does not register itself."""

from typing import Any

import gymnasium
import numpy as np
from gymnasium import spaces

from soulsai.errors import EnvironmentFault
from soulsai.types import Array

LONGEST_GAME = 5_000  # env steps; MinAtar itself would play for ever


def cartpole_positions() -> gymnasium.Env[Array, Any]:
    """Make CartPole that shows where cart and pole are, not how fast: one must remember."""
    shown = np.array([0, 2])
    env = gymnasium.make("CartPole-v1")
    bounds = env.observation_space
    if not isinstance(bounds, spaces.Box):
        raise EnvironmentFault(f"CartPole-v1: observations are {bounds}, not a box")
    seen = spaces.Box(bounds.low[shown], bounds.high[shown], dtype=np.float32)
    return gymnasium.wrappers.TransformObservation(env, lambda obs: obs[shown], seen)


def breakout() -> gymnasium.Env[Array, Any]:
    """Make MinAtar's Breakout, 10 x 10 cells of four bits, cut off after 5,000 steps."""
    try:
        from minatar.gym import BaseEnv
    except ImportError:
        raise EnvironmentFault("MinAtar is missing: pip install --no-deps minatar") from None
    return gymnasium.wrappers.TimeLimit(
        BaseEnv("breakout", use_minimal_action_set=True), LONGEST_GAME
    )
