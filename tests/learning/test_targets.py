"""The learning targets, through the whole system (make test-learning; hours on two cores)."""

import numpy as np
import pytest

from benchmarks import learning
from benchmarks.environments import LONGEST_GAME, breakout
from benchmarks.targets import BREAKOUT, TARGETS
from soulsai.client.probe import probe
from soulsai.config.schema import EnvironmentSettings

SEEDS = (10, 11, 12, 13, 14)  # no setting was chosen on these


@pytest.mark.learning
@pytest.mark.timeout(12 * 3600)
@pytest.mark.parametrize("name", TARGETS)
def test_a_target_is_reached_over_seeds(name, tmp_path, capsys):
    score = learning.run(TARGETS[name], SEEDS, learning.Bench(tmp_path))
    with capsys.disabled():
        print(f"\n{name}: IQM {score.iqm} worst {score.worst} seeds {score.scores}")
    assert score.failed == {}
    assert score.iqm >= score.bar
    assert score.worst >= score.floor


@pytest.mark.learning
def test_breakout_is_bits_and_ends():
    spec = probe(EnvironmentSettings(id=BREAKOUT))
    (leaf,) = spec.obs.values()
    assert leaf.shape == (10, 10, 4)
    assert np.dtype(leaf.dtype) == np.bool_
    assert spec.action.sizes == (3,)
    env = breakout()
    env.reset(seed=1)
    env.unwrapped.game.act = lambda action: (0, False)
    steps = 1
    while not env.step(0)[3]:
        steps += 1
    assert steps == LONGEST_GAME
