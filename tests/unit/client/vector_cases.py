"""Vector environments for tests: Gymnasium's own, in each autoreset mode."""

import gymnasium
import numpy as np
from gymnasium import spaces
from gymnasium.vector import AutoresetMode, SyncVectorEnv

from soulsai.client.vector_environment import AdaptedVector
from soulsai.testing import BoxToy, DictToy, MaskedToy, MultiDiscreteToy, ToyEnv

MODES = tuple(AutoresetMode)
SEED = 11  # of the first environment; the others follow it


class HybridToy(gymnasium.Env):
    """Takes a choice and two numbers; the reward is what one can tell from them."""

    observation_space = spaces.Tuple((spaces.Box(-9, 9, (2,)), spaces.Discrete(4, start=2)))
    action_space = spaces.Dict({"move": spaces.Box(-2, 3, (2,)), "kind": spaces.Discrete(3)})

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.length, self.t = int(self.np_random.integers(2, 9)), 0
        return self.look(), {}

    def step(self, action):
        assert self.action_space.contains(action), action
        self.t += 1
        reward = float(action["kind"]) + float(action["move"].sum())
        return self.look(), reward, self.t >= self.length, False, {"t": self.t}

    def look(self):
        return (self.np_random.uniform(-9, 9, 2).astype("f4"), int(self.np_random.integers(2, 6)))


class Abrupt(ToyEnv):
    """Ends at its time limit as terminated and as truncated."""

    def step(self, action):
        obs, reward, _, _, info = super().step(action)
        over = self._steps >= 5
        return obs, reward, over, over, info


KINDS = {
    kind.__name__: kind
    for kind in (ToyEnv, MaskedToy, DictToy, MultiDiscreteToy, BoxToy, HybridToy, Abrupt)
}


def sync(num_envs, kind="ToyEnv", mode="SameStep", max_episode_steps=0, **kwargs):
    """Make Gymnasium's vector environment, as a package would."""

    def one():
        env = KINDS[kind](**kwargs)
        if max_episode_steps:
            return gymnasium.wrappers.TimeLimit(env, max_episode_steps)
        return env

    return SyncVectorEnv([one] * num_envs, autoreset_mode=AutoresetMode(mode))


def single(num_envs):
    """Return what is no vector environment."""
    return ToyEnv()


def adapted(env, masked=False, **options):
    return AdaptedVector(env, "it", mask_key="action_mask", masked=masked, **options)


class Scripted(gymnasium.vector.VectorEnv):
    """Returns what it is told to, and counts up in its observations."""

    single_observation_space = spaces.Box(-np.inf, np.inf, (1,))
    single_action_space = spaces.Discrete(2)

    def __init__(self, num_envs=2, mode=AutoresetMode.NEXT_STEP, **returned):
        self.num_envs, self.metadata = num_envs, {"autoreset_mode": mode}
        self.returned, self.t = returned, 0

    def reset(self, *, seed=None, options=None):
        return self.returned.get("reset", (self.look(), {}))

    def step(self, actions):
        self.t += 1
        no = np.zeros(self.num_envs, bool)
        step = {"obs": self.look(), "reward": np.zeros(self.num_envs), "terminated": no}
        step |= {"truncated": no, "infos": {}} | self.returned
        return tuple(step[name] for name in ("obs", "reward", "terminated", "truncated", "infos"))

    def look(self):
        return np.full((self.num_envs, 1), self.t, "f4")


gymnasium.register(
    "VectorToy-v0",
    entry_point="soulsai.testing:ToyEnv",
    vector_entry_point="tests.unit.client.vector_cases:sync",
    max_episode_steps=20,
)
