"""Episodes of every kind of space, from environments that Gymnasium's own spaces describe."""

import gymnasium
import numpy as np
from gymnasium import spaces

from soulsai.client.environment import AdaptedEnvironment
from soulsai.datasets.episodes import EpisodeDataset, RecordedEpisode
from soulsai.types import MASK, Spec

OBSERVATIONS = {
    "numbers": spaces.Box(-1.0, 1.0, (3,), np.float32),
    "nested": spaces.Dict(
        {
            "pose": spaces.Box(-np.inf, np.inf, (2, 2), np.float64),
            "boss": spaces.Dict({"phase": spaces.Discrete(3, start=5)}),
            "flags": spaces.MultiBinary(4),
            "slots": spaces.Tuple(
                (spaces.MultiDiscrete([4, 4]), spaces.Box(0, 99, (2,), np.int32))
            ),
        }
    ),
    "picture": spaces.Box(0, 255, (40, 40, 3), np.uint8),
}
ACTIONS = {
    "choices": spaces.Discrete(4, start=-1),
    "several": spaces.MultiDiscrete([3, 2]),
    "numbers": spaces.Box(
        np.array([-2.0, 0.0], np.float32), np.array([2.0, 0.7], np.float32), dtype=np.float32
    ),
    "nested": spaces.Dict(
        {
            "move": spaces.Box(-1.0, 1.0, (2,), np.float32),
            "kind": spaces.Discrete(3, start=1),
            "pads": spaces.MultiBinary(2),
        }
    ),
}


class Spaces(gymnasium.Env):
    """An environment that only has spaces."""

    def __init__(self, observation, action) -> None:
        self.observation_space, self.action_space = observation, action


def spec_of(observation, action, *, masked: bool = False) -> Spec:
    return AdaptedEnvironment(
        Spaces(observation, action), "spaces", mask_key="action_mask", masked=masked
    ).spec


def dataset(spec: Spec, *, lengths=(5, 1, 9), seed: int = 0) -> EpisodeDataset:
    rng = np.random.default_rng(seed)
    episodes = []
    for number, steps in enumerate(lengths):
        obs = {name: _rows(leaf, steps + 1, rng) for name, leaf in spec.obs.items()}
        choices = rng.integers(spec.action.sizes, size=(steps, len(spec.action.sizes)))
        numbers = rng.uniform(spec.action.low, spec.action.high, (steps, len(spec.action.low)))
        if MASK in obs:
            obs[MASK][:] = True
        action = np.concatenate((choices, numbers.astype("<f4")), axis=1)
        episodes.append(
            RecordedEpisode(
                obs=obs,
                action=action.reshape(steps, *spec.action.shape).astype(spec.action.leaf.dtype),
                reward=rng.normal(size=steps).astype("<f4"),
                terminated=number % 2 == 0,
                truncated=number % 2 == 1,
                intervened=rng.random(steps) < 0.5,
                infos={"speed": rng.normal(size=steps + 1)},
                seed=number,
                facts={"client": "a", "version": number, "greedy": False},
            )
        )
    return EpisodeDataset(spec, episodes, "CartPole-v1", "here")


def _rows(leaf, count, rng):
    shape = (count, *leaf.shape)
    if leaf.categories:
        return rng.integers(leaf.categories, size=shape).astype(leaf.dtype)
    dtype = np.dtype(leaf.dtype)
    if dtype.kind == "f":
        return rng.uniform(leaf.low or -9.0, leaf.high or 9.0, size=shape).astype(dtype)
    return rng.integers(2 if dtype.kind == "b" else 100, size=shape).astype(dtype)
