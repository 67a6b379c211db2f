"""Wrappers that we ship, for environments that a plain network cannot see as they are."""

from typing import Any

import gymnasium
import numpy as np
from gymnasium import spaces

from soulsai.errors import ConfigError
from soulsai.types import Array

GAMES = {  # no other: the name may come from a server
    "soulsgym": "soulsgym:SoulsGymIudex-v0",
    "stand-in": "soulsai.testing:Iudex-v0",
}
PACE = {"pace": 0.1, "reset_seconds": 2.0}  # of the stand-in: that of the game
ARENA_CENTRE = (139.0, 596.0)
SIGHT = 50.0  # metres: what is farther away looks as far
SECONDS = 10.0  # longest animation

Obs = dict[str, Any]


def iudex(game: str = "soulsgym", **options: Any) -> gymnasium.Env[Array, Any]:
    """Make SoulsGym's fight against Iudex Gundyr, or its stand-in, with flat observations.

    ``options`` are the game's own: ``game_speed``, ``phase``, ``random_player_pose``, ...; the
    stand-in keeps to real time unless they say ``pace=0``.
    """
    if game not in GAMES:
        raise ConfigError(f"environment.kwargs.game: {game!r}; choose {' or '.join(GAMES)}")
    if game == "stand-in":
        options = PACE | options
    env = gymnasium.make(GAMES[game], disable_env_checker=True, **options)
    return IudexObservation(env)


class IudexObservation(gymnasium.ObservationWrapper[Array, Any, Obs]):
    """Shows a boss fight of SoulsGym as one vector of numbers between -1 and 1.

    In this order: phase, health and stamina as shares, lock-on, durations of the animations;
    both places in the arena; distance and height between the two, distance from the centre;
    sine and cosine of: the direction to the boss, where player, boss and camera look, the boss as
    seen from the player, the player as seen from the boss, the boss as seen by the camera, the
    direction to the centre; what player and boss do, as one 1 among zeros.
    """

    def __init__(self, env: gymnasium.Env[Obs, Any]) -> None:
        super().__init__(env)
        space = env.observation_space
        if not isinstance(space, spaces.Dict):
            raise ConfigError(f"IudexObservation: wanted a Dict of SoulsGym's, found {space}")
        player, boss, pose = (
            space[name] for name in ("player_animation", "boss_animation", "player_pose")
        )
        if not (
            isinstance(player, spaces.Discrete)
            and isinstance(boss, spaces.Discrete)
            and isinstance(pose, spaces.Box)
        ):
            raise ConfigError("IudexObservation: the animations or poses are none of SoulsGym's")
        self._player = (int(player.start), int(player.n))
        self._boss = (int(boss.start), int(boss.n))
        self._low = pose.low[:3].astype(np.float64)
        self._width = pose.high[:3] - self._low
        size = len(self._numbers({name: each.sample() for name, each in space.items()}))
        self.observation_space = spaces.Box(
            -1.0, 1.0, (size + self._player[1] + self._boss[1],), np.float32
        )

    def observation(self, observation: Obs) -> Array:
        """Return the vector."""
        return np.concatenate(
            [
                np.clip(self._numbers(observation), -1.0, 1.0),
                _one_hot(observation["player_animation"], *self._player),
                _one_hot(observation["boss_animation"], *self._boss),
            ]
        ).astype(np.float32)

    def _numbers(self, seen: Obs) -> Array:
        player, boss, camera = (
            np.asarray(seen[f"{who}_pose"], np.float64) for who in ("player", "boss", "camera")
        )
        apart = boss[:3] - player[:3]
        inward = np.array(ARENA_CENTRE) - player[:2]
        bearing = np.arctan2(apart[1], apart[0])
        gaze = np.arctan2(camera[4], camera[3])
        angles = np.array(
            [
                bearing,
                player[3],
                boss[3],
                gaze,
                bearing - player[3],
                bearing + np.pi - boss[3],
                bearing - gaze,
                np.arctan2(inward[1], inward[0]),
            ]
        )
        return np.concatenate(
            [
                [
                    2.0 * (seen["phase"] - 1) - 1.0,
                    _share(seen, "player_hp", "player_max_hp"),
                    _share(seen, "player_sp", "player_max_sp"),
                    _share(seen, "boss_hp", "boss_max_hp"),
                    2.0 * seen["lock_on"] - 1.0,
                    _first(seen["player_animation_duration"]) / SECONDS,
                    _first(seen["boss_animation_duration"]) / SECONDS,
                ],
                2.0 * (player[:3] - self._low) / self._width - 1.0,
                2.0 * (boss[:3] - self._low) / self._width - 1.0,
                [np.hypot(*apart[:2]) / SIGHT, apart[2] / SIGHT, np.hypot(*inward) / SIGHT],
                np.sin(angles),
                np.cos(angles),
            ]
        )


def _share(seen: Obs, what: str, most: str) -> float:
    return _first(seen[what]) / max(1.0, float(seen[most]))


def _first(value: Any) -> float:
    return float(np.asarray(value).reshape(-1)[0])


def _one_hot(value: Any, start: int, count: int) -> Array:
    """Return one 1 among zeros; what the table does not know counts as its first."""
    row = np.zeros(count)
    index = int(value) - start
    row[index if 0 <= index < count else 0] = 1.0
    return row
