"""Environments whose observations and actions need all of a policy's card to be played."""

import gymnasium
import numpy as np
from gymnasium import spaces


class Offset(gymnasium.Env):
    """Categories and actions that do not count from zero, and leaves named like the graph's."""

    def __init__(self, length=12):
        self.length = length
        kind = spaces.MultiDiscrete([[3, 2], [2, 4]], start=[[5, -1], [0, 7]])
        self.observation_space = spaces.Dict(
            {
                "q": spaces.Box(-1.0, 1.0, (2,), np.float64),
                "dotted.name": spaces.Discrete(4, start=-2),
                "pair": spaces.Tuple((kind, spaces.MultiBinary(2))),
                "mission": spaces.Text(5),
            }
        )
        self.action_space = kind

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.t = 0
        return self.show(), {}

    def show(self):
        rng, kind = self.np_random, self.action_space
        self.asked = kind.start + rng.integers(0, kind.nvec)
        return {
            "q": rng.uniform(-1, 1, 2),
            "dotted.name": int(rng.integers(-2, 2)),
            "pair": (self.asked, rng.integers(0, 2, 2, np.int8)),
            "mission": "walk",
        }

    def step(self, action):
        assert self.action_space.contains(action), action
        reward = float((action == self.asked).mean())
        self.t += 1
        return self.show(), reward, False, self.t >= self.length, {}


class Masked(gymnasium.Env):
    """An action of which some choices are forbidden; the mask is in the observation or the info."""

    def __init__(self, in_info):
        self.in_info = in_info
        leaves = {"at": spaces.Box(0.0, 1.0, (3,), np.float32)}
        mask = {} if in_info else {"action_mask": spaces.Box(0, 1, (5,), np.int8)}
        self.observation_space = spaces.Dict(leaves | mask)
        self.action_space = spaces.Discrete(5, start=2)

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.t = 0
        return self.show()

    def show(self):
        self.mask = self.np_random.integers(0, 2, 5, np.int8)
        self.mask[self.np_random.integers(5)] = 1
        obs, mask = {"at": self.np_random.random(3, np.float32)}, {"action_mask": self.mask}
        return (obs, mask) if self.in_info else (obs | mask, {})

    def step(self, action):
        assert self.mask[action - 2], action
        self.t += 1
        obs, info = self.show()
        return obs, float(action), False, self.t >= 12, info


class Valves(gymnasium.Env):
    """An action of floats far from -1..1."""

    def __init__(self, dtype="float32", unbounded=False):
        self.observation_space = spaces.Box(-1.0, 1.0, (2,), np.float32)
        low, high = np.array([[0.1], [-2000.0], [3]], dtype), np.array([[0.3], [50.0], [9]], dtype)
        high[2] = np.inf if unbounded else 9
        self.action_space = spaces.Box(low, high, dtype=low.dtype.type)

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.t = 0
        return self.np_random.uniform(-1, 1, 2).astype(np.float32), {}

    def step(self, action):
        assert self.action_space.contains(action), action
        self.t += 1
        obs = self.np_random.uniform(-1, 1, 2).astype(np.float32)
        return (
            obs,
            float(10 * action[0, 0] + action[1, 0] / 100 + action[2, 0]),
            False,
            self.t >= 12,
            {},
        )


class Choosy(gymnasium.Env):
    """Masks nested like its actions, of which some say nothing."""

    observation_space = spaces.Box(-1.0, 1.0, (2,), np.float32)
    action_space = spaces.Dict(
        {
            "keys": spaces.MultiBinary(2),
            "pair": spaces.Tuple((spaces.Discrete(4, start=-1), spaces.MultiDiscrete([2, 3]))),
            "wait": spaces.Discrete(2),
        }
    )

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.t = 0
        return self.show()

    def show(self):
        self.menu, self.pair = (self.some(size) for size in (4, 5))
        self.pair[0] = self.pair[4] = True
        obs = self.np_random.uniform(-1, 1, 2).astype(np.float32)
        masks = {"pair": (self.menu, self.pair), "wait": None}
        return obs, {"action_mask": masks if self.t % 2 else {"pair": (self.menu,)}}

    def some(self, size):
        mask = self.np_random.integers(0, 2, size).astype(bool)
        mask[self.np_random.integers(size)] = True
        return mask

    def step(self, action):
        assert self.action_space.contains(action), action
        menu, (first, second) = action["pair"]
        assert self.menu[menu + 1]
        assert self.t % 2 == 0 or (self.pair[first] and self.pair[2 + second])
        self.t += 1
        reward = float(menu + first + 2 * second + action["keys"].sum() + 3 * action["wait"])
        obs, info = self.show()
        return obs, reward, False, self.t >= 12, info


class Nested(gymnasium.Env):
    """An action of choices, and of numbers, in dicts and tuples."""

    def __init__(self, numbers=True):
        self.observation_space = spaces.Box(-1.0, 1.0, (2,), np.float32)
        pair = (spaces.Discrete(3, start=-1), spaces.MultiBinary((2, 1)))
        self.action_space = spaces.Dict({"pair": spaces.Tuple(pair)})
        if numbers:
            self.action_space = spaces.Dict(
                {
                    "force": spaces.Box(-200.0, 100.0, (1,), np.float64),
                    "pair": spaces.Tuple((*pair, spaces.Box(0, 9, (), np.int32))),
                }
            )

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.t = 0
        return self.np_random.uniform(-1, 1, 2).astype(np.float32), {}

    def step(self, action):
        assert self.action_space.contains(action), action
        self.t += 1
        obs = self.np_random.uniform(-1, 1, 2).astype(np.float32)
        menu, keys, *count = action["pair"]
        reward = float(menu + 2 * keys.sum() + action.get("force", np.zeros(1))[0] + sum(count))
        return obs, reward, False, self.t >= 12, {}
