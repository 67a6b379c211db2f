"""CartPole in which an expert takes over every tenth step, and the environment says so."""

import gymnasium
import numpy as np


class Steered(gymnasium.Wrapper):
    def __init__(self, env):
        super().__init__(env)
        self.steps = 0

    def reset(self, **options):
        self.obs, info = self.env.reset(**options)
        return self.obs, info

    def step(self, action):
        self.steps += 1
        taken_over = self.steps % 10 == 0
        if taken_over:
            action = int(self.obs @ np.array([0.05, 0.2, 1.0, 0.5]) > 0)
        self.obs, reward, terminated, truncated, info = self.env.step(action)
        if taken_over:
            info = {**info, "intervention": action, "intervened": True}
        return self.obs, reward, terminated, truncated, info


def make():
    return Steered(gymnasium.make("CartPole-v1"))
