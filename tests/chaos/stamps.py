"""An environment in which every step of every life of every client can be told from all others.

What a client saw before it acted is a stamp: who it is, which of its lives this is, and a counter.
So a transition that a learner holds says by itself whose it is, and whether it is there twice.
This file is loaded by its path, and so imports nothing of its neighbours.
"""

import itertools
import os
import time
from pathlib import Path

import gymnasium
import numpy as np
from gymnasium import spaces

CLIENT = "CHAOS_CLIENT"  # the variables in which a client process tells its environments
LIFE = "CHAOS_LIFE"  # who they are,
TIMES = "CHAOS_TIMES"  # and into which folder to write when they were stepped
SEATS = 16  # environments side by side in one client, at most
COUNTS = 2**24  # below that 32-bit floats count exactly
EPISODE = (15, 35)  # env steps of the shortest and the longest episode

_seats = itertools.count()


class Stamped(gymnasium.Env):
    """Shows a stamp; pays for the action that equals the last bit of the counter."""

    observation_space = spaces.Box(0, COUNTS, (4,), np.float32)
    action_space = spaces.Discrete(2)

    def __init__(self):
        self._who = int(os.environ.get(CLIENT, "0")) * SEATS + next(_seats) % SEATS
        self._life = int(os.environ.get(LIFE, "0"))
        self._count = self._left = 0
        self._times = []

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self._left = int(self.np_random.integers(*EPISODE))
        return self._stamp(), {}

    def step(self, action):
        self._times.append(time.perf_counter())
        reward = float(int(action) == self._count % 2)
        self._left -= 1
        return self._stamp(), reward, self._left == 0, False, {}

    def close(self):
        if os.environ.get(TIMES):
            np.save(Path(os.environ[TIMES]) / f"{self._who}-{self._life}.npy", self._times)

    def _stamp(self):
        self._count += 1
        return np.array([self._who, self._life, self._count, self._count % 2], np.float32)


class StampedBox(Stamped):
    """The same with a continuous action: its sign is to tell the last bit of the counter."""

    action_space = spaces.Box(-1, 1, (1,), np.float32)

    def step(self, action):
        return super().step(float(action[0]) > 0)


def names(stamps):
    """Return one number per stamp [N, 4] that no other step of any client has."""
    who, life, count = (stamps[:, column].astype(np.int64) for column in range(3))
    return (who << 40) | (life << 24) | count


def owners(names):
    """Return the number of the client in each name."""
    return (names >> 40) // SEATS
