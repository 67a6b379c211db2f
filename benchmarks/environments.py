"""Environments of the learning targets that Gymnasium does not register itself."""

from collections.abc import Callable
from typing import Any

import gymnasium
import numpy as np
from gymnasium import spaces

from soulsai.errors import EnvironmentFault
from soulsai.types import Array

LONGEST_GAME = 5_000  # env steps; MinAtar itself would play for ever
TAKEN_OVER = 0.1  # share of the steps that an expert takes over
STRETCH = 25  # such steps in a row


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


class Steered(gymnasium.Wrapper[Array, Any, Array, Any]):
    """An environment that an expert takes over for stretches of steps, at random times.

    Args:
        env: The environment.
        expert: Maps environment and observation to an action.
    """

    def __init__(self, env: gymnasium.Env[Array, Any], expert: Callable[[Any, Array], Any]) -> None:
        super().__init__(env)
        self._expert = expert
        self._left = 0  # steps of the stretch
        self._obs = np.zeros(0)

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[Array, dict[str, Any]]:
        """Begin an episode; a stretch goes on in it."""
        self._obs, info = self.env.reset(seed=seed, options=options)
        return self._obs, info

    def step(self, action: Any) -> tuple[Array, Any, bool, bool, dict[str, Any]]:
        """Take the expert's action, if he has taken over, and say so."""
        # So many stretches begin that they are that share of all steps.
        begins = TAKEN_OVER / (STRETCH * (1.0 - TAKEN_OVER))
        if not self._left and self.np_random.random() < begins:
            self._left = STRETCH
        steers = self._left > 0
        if steers:
            self._left -= 1
            action = self._expert(self.env.unwrapped, self._obs)
        self._obs, reward, terminated, truncated, info = self.env.step(action)
        if steers:
            info = {**info, "intervention": action, "intervened": True}
        return self._obs, reward, terminated, truncated, info


def steered_lander() -> gymnasium.Env[Array, Any]:
    """Make LunarLander, a tenth of whose steps Gymnasium's heuristic takes over."""
    from gymnasium.envs.box2d.lunar_lander import heuristic

    return Steered(gymnasium.make("LunarLander-v3"), heuristic)
