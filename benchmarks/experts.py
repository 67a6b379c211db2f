"""Scripted experts, whose episodes serve as demonstrations in figures."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from soulsai.client.record import open_recorded, record
from soulsai.config.schema import ClientSettings, EnvironmentSettings
from soulsai.datasets.files import write
from soulsai.types import Array

Expert = Callable[[Array, Any], Any]  # observation and environment to the row of an action


def cartpole(obs: Array, env: Any) -> Array:
    """Push towards the side to which the pole falls."""
    del env
    return np.array(float(obs @ np.array([0.05, 0.2, 1.0, 0.5]) > 0))


def pendulum(obs: Array, env: Any) -> Any:
    """Pump energy into the pendulum, and hold it where it stands upright."""
    del env
    cosine, sine, speed = obs.astype(float)
    angle = np.arctan2(sine, cosine)
    if cosine > 0.9:
        return np.clip([-12.0 * angle - 3.0 * speed], -2.0, 2.0)
    energy = 0.5 / 3.0 * speed**2 + 5.0 * (cosine - 1.0)
    return np.clip([-2.0 * np.sign(energy) * (np.sign(speed) or 1.0)], -2.0, 2.0)


def lunarlander(obs: Array, env: Any) -> Array:
    """Follow the heuristic that comes with Gymnasium."""
    from gymnasium.envs.box2d.lunar_lander import heuristic

    return np.array(heuristic(env.unwrapped, obs))  # type: ignore[no-untyped-call]


EXPERTS: dict[str, Expert] = {
    "CartPole-v1": cartpole,
    "Pendulum-v1": pendulum,
    "LunarLander-v3": lunarlander,
}


class _Scripted:
    """An expert as a source of actions."""

    def __init__(self, expert: Expert, env: Any) -> None:
        self._expert, self._env = expert, env

    def begin(self) -> None:
        """Do nothing."""

    def choose(self, rows: dict[str, Array]) -> Array:
        """Return the expert's action."""
        return np.asarray(self._expert(rows["obs"], self._env))


class _Mixed(_Scripted):
    """An expert who acts at random in a share of the steps, which each episode draws anew."""

    steps = 0

    def __init__(self, expert: Expert, env: Any) -> None:
        super().__init__(expert, env)
        self._rng = np.random.default_rng(0)
        self._share = 0.0

    def begin(self) -> None:
        """Draw the share."""
        self._share = self._rng.random()

    def choose(self, rows: dict[str, Array]) -> Array:
        """Return the expert's action, or a random choice."""
        self.steps += 1
        if self._rng.random() < self._share:
            return np.array(self._rng.integers(self._env.action_space.n))
        return super().choose(rows)


def write_mixed(id: str, steps: int, out: Path) -> float:
    """Write episodes of mixed quality as a data set of Minari; return their mean reward.

    Args:
        id: The environment, which takes choices.
        steps: The least env steps.
        out: A new folder.
    """
    environment, raw = open_recorded(EnvironmentSettings(id=id), ClientSettings(), pictures=False)
    mixed = _Mixed(EXPERTS[id], raw)
    found = record(environment, mixed, episodes=steps, seed=0, stopped=lambda: mixed.steps >= steps)
    environment.close()
    write(found, out, "minari")
    return float(np.mean([episode.total for episode in found.episodes]))


def write_episodes(id: str, episodes: int, out: Path) -> float:
    """Write episodes of an expert as a data set of Minari; return their mean reward.

    Args:
        id: The environment.
        episodes: The number of episodes.
        out: A new folder.
    """
    environment, raw = open_recorded(EnvironmentSettings(id=id), ClientSettings(), pictures=False)
    expert = _Scripted(EXPERTS[id], raw)
    found = record(environment, expert, episodes=episodes, seed=0, stopped=lambda: False)
    environment.close()
    write(found, out, "minari")
    return float(np.mean([episode.total for episode in found.episodes]))
