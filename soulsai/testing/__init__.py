"""Small environments for tests, here and in other projects: solvable in seconds, or faulty."""

from typing import Any, ClassVar

import gymnasium
import numpy as np
from gymnasium import spaces

from soulsai.types import Array

Info = dict[str, Any]


class ToyEnv(gymnasium.Env[Array, np.int64]):
    """A walk on a line to a goal; a good policy earns more than 0.8 per episode.

    The observation has the walker's place, the goal's, their distance, and the remaining time, all
    within [-1, 1]. Actions are left, stay and right. Reaching the goal terminates with reward 1;
    each step costs 0.01; after ``4 * length`` steps the episode is truncated.
    """

    def __init__(self, length: int = 8) -> None:
        self.length = length
        self.observation_space = spaces.Box(-1.0, 1.0, (4,), np.float32)
        self.action_space = spaces.Discrete(3)
        self._place = self._goal = self._steps = 0

    def reset(self, *, seed: int | None = None, options: Info | None = None) -> tuple[Array, Info]:
        """Put walker and goal at two different places."""
        super().reset(seed=seed, options=options)
        self._place, self._goal = self.np_random.choice(self.length, 2, replace=False)
        self._steps = 0
        return self._observation(), self._info()

    def step(self, action: np.int64) -> tuple[Array, float, bool, bool, Info]:
        """Walk one place, or stay."""
        self._place = int(np.clip(self._place + int(action) - 1, 0, self.length - 1))
        self._steps += 1
        found = bool(self._place == self._goal)
        reward = 1.0 if found else -0.01
        return self._observation(), reward, found, self._steps >= 4 * self.length, self._info()

    def _observation(self) -> Array:
        scale = self.length - 1
        distance = (self._goal - self._place) / scale
        left = 1.0 - self._steps / (4 * self.length)
        place, goal = 2 * self._place / scale - 1, 2 * self._goal / scale - 1
        return np.array([place, goal, distance, left], np.float32)

    def _info(self) -> Info:
        return {"distance": abs(float(self._goal - self._place))}


class MaskedToy(ToyEnv):
    """A ``ToyEnv`` that masks impossible actions, and raises for them."""

    def step(self, action: np.int64) -> tuple[Array, float, bool, bool, Info]:
        """Walk one place, or stay; walking into a wall raises."""
        if not self._possible()[int(action)]:
            raise ValueError(f"action {int(action)} is not possible at place {self._place}")
        return super().step(action)

    def _possible(self) -> Array:
        return np.array([self._place > 0, True, self._place < self.length - 1], np.int8)

    def _info(self) -> Info:
        return {**super()._info(), "action_mask": self._possible()}


class DictToy(gymnasium.Env[Info, np.int64]):
    """Leaves of every kind: nested, float64, categorical with an offset, bits, and an image.

    The reward is 1 where the action (which begins at 1) equals ``player.weapon``.
    """

    def __init__(self, length: int = 10) -> None:
        self.length = length
        self.observation_space = spaces.Dict(
            {
                "player": spaces.Dict(
                    {
                        "pose": spaces.Box(-10.0, 10.0, (3,), np.float64),
                        "weapon": spaces.Discrete(3, start=1),
                    }
                ),
                "camera": spaces.Box(0, 255, (4, 4, 1), np.uint8),
                "doors": spaces.MultiBinary(3),
                "enemies": spaces.Tuple((spaces.Discrete(5), spaces.MultiDiscrete([2, 300]))),
            }
        )
        self.action_space = spaces.Discrete(3, start=1)
        self._weapon = 1
        self._steps = 0

    def reset(self, *, seed: int | None = None, options: Info | None = None) -> tuple[Info, Info]:
        """Draw a weapon."""
        super().reset(seed=seed, options=options)
        self._steps = 0
        return self._observation(), {}

    def step(self, action: np.int64) -> tuple[Info, float, bool, bool, Info]:
        """Compare the action with the weapon, then draw another."""
        reward = float(int(action) == self._weapon)
        self._steps += 1
        return self._observation(), reward, False, self._steps >= self.length, {}

    def _observation(self) -> Info:
        self._weapon = int(self.np_random.integers(1, 4))
        return {
            "player": {"pose": self.np_random.uniform(-10, 10, 3), "weapon": self._weapon},
            "camera": self.np_random.integers(0, 256, (4, 4, 1), np.uint8),
            "doors": self.np_random.integers(0, 2, 3, np.int8),
            "enemies": (np.int64(self._steps % 5), self.np_random.integers(0, [2, 300])),
        }


class MultiDiscreteToy(gymnasium.Env[Array, Array]):
    """Two numbers to repeat as the action; the reward is the share of correct ones."""

    def __init__(self, length: int = 10) -> None:
        self.length = length
        self.observation_space = spaces.MultiDiscrete([3, 4])
        self.action_space = spaces.MultiDiscrete([3, 4])
        self._asked = np.zeros(2, np.int64)
        self._steps = 0

    def reset(self, *, seed: int | None = None, options: Info | None = None) -> tuple[Array, Info]:
        """Draw two numbers."""
        super().reset(seed=seed, options=options)
        self._steps = 0
        return self._ask(), {}

    def step(self, action: Array) -> tuple[Array, float, bool, bool, Info]:
        """Compare the action with the observation, then draw two other numbers."""
        if not self.action_space.contains(action):
            raise ValueError(f"action {action!r} is outside {self.action_space}")
        reward = float((action == self._asked).mean())
        self._steps += 1
        return self._ask(), reward, False, self._steps >= self.length, {}

    def _ask(self) -> Array:
        self._asked = self.np_random.integers(0, [3, 4])
        return self._asked.copy()


class BoxToy(gymnasium.Env[Array, Array]):
    """A point to hit with an action of two numbers; the reward is minus the distance."""

    def __init__(self, length: int = 10) -> None:
        self.length = length
        self.observation_space = spaces.Box(-np.inf, np.inf, (2,), np.float64)
        self.action_space = spaces.Box(np.array([-1, -2]), np.array([1, 2]), dtype=np.float64)
        self._goal = np.zeros(2)
        self._steps = 0

    def reset(self, *, seed: int | None = None, options: Info | None = None) -> tuple[Array, Info]:
        """Draw a point."""
        super().reset(seed=seed, options=options)
        self._steps = 0
        return self._show(), {}

    def step(self, action: Array) -> tuple[Array, float, bool, bool, Info]:
        """Measure the distance, then draw another point."""
        if not self.action_space.contains(action):
            raise ValueError(f"action {action!r} is outside {self.action_space}")
        reward = -float(np.linalg.norm(action - self._goal))
        self._steps += 1
        return self._show(), reward, False, self._steps >= self.length, {}

    def _show(self) -> Array:
        self._goal = self.np_random.uniform([-1, -2], [1, 2])
        return self._goal.copy()


class RudeEnv(ToyEnv):
    """A ``ToyEnv`` with a ``fault`` in its ``after``-th step."""

    FAULTS: ClassVar[tuple[str, ...]] = (
        "reset", "step", "shape", "dtype", "kind", "missing", "nan", "reward", "mask", "four",
        "index", "bounds",
    )  # fmt: skip

    def __init__(self, fault: str, after: int = 3) -> None:
        super().__init__()
        self._fault, self._after = fault, after
        self.observation_space = spaces.Dict(
            {"eyes": spaces.Box(-1.0, 1.0, (4,), np.float32), "door": spaces.Discrete(3)}
        )  # type: ignore[assignment]

    def reset(self, *, seed: int | None = None, options: Info | None = None) -> tuple[Any, Info]:
        """Begin an episode, or raise."""
        if self._fault == "reset":
            raise RuntimeError("the game did not start")
        eyes, info = super().reset(seed=seed, options=options)
        return self._faulty(eyes), info

    def step(self, action: np.int64) -> Any:
        """Walk, or fail."""
        eyes, reward, found, over, info = super().step(action)
        late = self._steps >= self._after
        if late and self._fault == "step":
            raise RuntimeError("the game has crashed")
        if late and self._fault == "four":
            return self._faulty(eyes), reward, found, info
        if late and self._fault == "reward":
            reward = float("nan")
        return self._faulty(eyes), reward, found, over, info

    def _faulty(self, eyes: Array) -> Any:
        observation: Info = {"eyes": eyes, "door": 1}
        if self._steps < self._after:
            return observation
        wrong: dict[str, Info] = {
            "shape": {"eyes": eyes[:3]},
            "dtype": {"eyes": eyes.astype(object)},
            "kind": {"door": 0.5},
            "nan": {"eyes": np.full(4, np.nan, np.float32)},
            "index": {"door": 3},
            "bounds": {"eyes": eyes + 5},
        }
        if self._fault == "missing":
            del observation["door"]
        return observation | wrong.get(self._fault, {})

    def _info(self) -> Info:
        if self._fault != "mask":
            return super()._info()
        choices = 3 if self._steps < self._after else 2
        return {**super()._info(), "action_mask": np.ones(choices, np.int8)}


gymnasium.register("SoulsAIToy-v0", entry_point="soulsai.testing:ToyEnv")
gymnasium.register("Iudex-v0", entry_point="soulsai.testing.iudex:Iudex", max_episode_steps=3000)
