"""A walk whose reward in each step is its argument, so that a fragment tells the stage."""

from soulsai.testing import ToyEnv


class Staged(ToyEnv):
    def __init__(self, reward=1.0, steps=5, length=8):
        super().__init__(length)
        self.reward, self.limit, self.taken = reward, steps, 0

    def reset(self, *, seed=None, options=None):
        self.taken = 0
        return super().reset(seed=seed, options=options)

    def step(self, action):
        obs, _, _, _, info = super().step(action)
        self.taken += 1
        return obs, self.reward, False, self.taken >= self.limit, info
