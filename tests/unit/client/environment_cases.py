"""An environment that shows what it is told to, for the tests of spaces and environments."""

import gymnasium
from gymnasium import spaces

from soulsai.client.environment import AdaptedEnvironment
from soulsai.types import zeros


class Shown(gymnasium.Env):
    """Shows one observation for ever, and remembers the actions it was given."""

    def __init__(self, space, obs, action_space=spaces.Discrete(2), info=None):  # noqa: B008
        self.observation_space = space
        self.action_space = action_space
        self.obs, self.info, self.taken, self.reward = obs, info or {}, [], 0.0

    def reset(self, *, seed=None, options=None):
        return self.obs, self.info

    def step(self, action):
        self.taken.append(action)
        return self.obs, self.reward, False, False, self.info


def adapted(env, masked=False):
    environment = AdaptedEnvironment(env, "it", mask_key="action_mask", masked=masked)
    return environment, {name: zeros(leaf) for name, leaf in environment.spec.obs.items()}
