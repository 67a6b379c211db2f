"""What the environments of learning targets show."""

import gymnasium
import numpy as np
import pytest

from benchmarks.environments import STRETCH, TAKEN_OVER, Steered, cartpole_positions
from soulsai.client.probe import probe
from soulsai.config.schema import EnvironmentSettings


def test_positions_are_shown_and_velocities_are_not():
    env = cartpole_positions()
    seen, _ = env.reset(seed=3)
    inner, _ = env.unwrapped.reset(seed=3)
    np.testing.assert_array_equal(seen, inner[[0, 2]])
    spec = probe(EnvironmentSettings(id="benchmarks.environments:cartpole_positions"))
    assert [leaf.shape for leaf in spec.obs.values()] == [(2,)]


def test_an_expert_steers_a_tenth_of_the_steps_and_says_what_was_done():
    env = Steered(gymnasium.make("CartPole-v1"), lambda _, obs: int(obs[2] > 0))
    steps, told, stretches, before = 0, 0, 0, False
    for seed in range(400):
        obs, _ = env.reset(seed=seed)
        over = False
        while not over:
            wanted = int(obs[2] > 0)
            obs, _, terminated, truncated, info = env.step(0)
            over = terminated or truncated
            steers = "intervention" in info
            if steers:
                assert info["intervention"] == wanted
                assert info["intervened"] is True
            steps, told = steps + 1, told + steers
            stretches += steers and not before
            before = steers
    assert told / steps == pytest.approx(TAKEN_OVER, rel=0.5)
    assert told / stretches == pytest.approx(STRETCH, rel=0.2)
