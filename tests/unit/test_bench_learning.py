"""Targets by name, and honest statistics."""

import numpy as np
import pytest

from soulsai.bench import at_least, at_most
from soulsai.bench.learning import TARGETS, interval, iqm, target
from soulsai.errors import ConfigError


def test_iqm_of_five_is_the_mean_of_the_middle_three():
    assert iqm([100, 1, 2, 3, -50]) == pytest.approx(2)


def test_iqm_of_one_is_that_one():
    assert iqm([7.5]) == 7.5


def test_the_interval_holds_the_iqm_and_shrinks_with_seeds():
    rng = np.random.default_rng(1)
    few, many = rng.normal(size=5), rng.normal(size=200)
    for scores in (few, many):
        low, high = interval(scores)
        assert low <= iqm(scores) <= high
    assert np.diff(interval(many)) < np.diff(interval(few))


def test_a_target_has_a_name_or_is_spelt_out():
    assert target("T1") is TARGETS["T1"]
    made = target("module:Id-v0:dqn:3000")
    assert (made.environment, made.algorithm, made.steps) == ("module:Id-v0", "dqn", 3000)


@pytest.mark.parametrize("name", ["T99", "CartPole-v1", "CartPole-v1:dqn", "CartPole-v1:dqn:many"])
def test_another_name_says_what_is_known(name):
    with pytest.raises(ConfigError, match="T1"):
        target(name)


def test_a_figure_knows_whether_it_is_held():
    assert at_most("bytes", 38, "B", 60).held
    assert not at_most("bytes", 61, "B", 60).held
    assert at_least("rate", 3, "1/s", 2).held
    assert not at_least("rate", 1, "1/s", 2).held
