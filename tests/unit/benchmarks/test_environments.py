"""What the environments of learning targets show."""

import numpy as np

from benchmarks.environments import cartpole_positions
from soulsai.client.probe import probe
from soulsai.config.schema import EnvironmentSettings


def test_positions_are_shown_and_velocities_are_not():
    env = cartpole_positions()
    seen, _ = env.reset(seed=3)
    inner, _ = env.unwrapped.reset(seed=3)
    np.testing.assert_array_equal(seen, inner[[0, 2]])
    spec = probe(EnvironmentSettings(id="benchmarks.environments:cartpole_positions"))
    assert [leaf.shape for leaf in spec.obs.values()] == [(2,)]
