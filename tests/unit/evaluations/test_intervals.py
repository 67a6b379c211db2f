"""Means, intervals and tests, against released packages' numbers and against counting."""

import itertools
from statistics import fmean

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from soulsai.evaluations.intervals import (
    iqm,
    iqm_estimate,
    mean_estimate,
    permutation_p,
    sign_flip_p,
)

# Of rliable 1.2.0 (aggregate_iqm; get_interval_estimates with 50,000 resamples) on these returns.
RETURNS = tuple(np.random.default_rng(8).normal(150, 90, 20).round(2).tolist())
RLIABLE_IQM, RLIABLE_LOW, RLIABLE_HIGH = 148.284, 90.724, 202.5601
RLIABLE_MEAN, MEAN_LOW, MEAN_HIGH = 142.3125, 98.9213875, 185.0435375


def test_the_interquartile_mean_and_its_interval_are_those_of_rliable():
    estimate = iqm_estimate(RETURNS)
    assert estimate.value == pytest.approx(RLIABLE_IQM, abs=1e-9)
    width = RLIABLE_HIGH - RLIABLE_LOW
    assert estimate.low == pytest.approx(RLIABLE_LOW, abs=0.04 * width)
    assert estimate.high == pytest.approx(RLIABLE_HIGH, abs=0.04 * width)


def test_the_mean_and_its_interval_are_those_of_rliable():
    estimate = mean_estimate(RETURNS)
    assert estimate.value == pytest.approx(RLIABLE_MEAN, abs=1e-9)
    width = MEAN_HIGH - MEAN_LOW
    assert estimate.low == pytest.approx(MEAN_LOW, abs=0.04 * width)
    assert estimate.high == pytest.approx(MEAN_HIGH, abs=0.04 * width)


@given(st.lists(st.floats(-1e6, 1e6), min_size=1, max_size=30))
def test_an_estimate_lies_in_its_interval_and_within_the_values(values):
    for estimate in (mean_estimate(values), iqm_estimate(values)):
        slack = 1e-6 * max(1.0, max(map(abs, values)))
        assert min(values) - slack <= estimate.low <= estimate.high <= max(values) + slack
    assert min(values) - 1e-9 <= iqm(values) + 1e-9 * abs(iqm(values))


def test_the_same_returns_give_the_same_interval():
    assert iqm_estimate(RETURNS) == iqm_estimate(RETURNS)


def test_an_interval_of_the_mean_holds_the_mean_about_as_often_as_it_says():
    rng, held = np.random.default_rng(4), 0
    for _ in range(200):
        estimate = mean_estimate(rng.exponential(10.0, 40).tolist())
        held += estimate.low <= 10.0 <= estimate.high
    assert held / 200 >= 0.88, "a percentile bootstrap of 40 skewed values falls a little short"


@given(st.lists(st.integers(-5, 5), min_size=1, max_size=8))
def test_the_sign_flips_are_those_of_all_signs(differences):
    total = sum(differences)
    every = [
        sum(sign * difference for sign, difference in zip(signs, differences, strict=True))
        for signs in itertools.product((-1, 1), repeat=len(differences))
    ]
    exact = fmean(each >= total for each in every)
    assert sign_flip_p(differences) == pytest.approx(exact, abs=0.02)


def test_the_permutations_are_those_of_all_splits():
    ours, theirs = [3.0, 5.0, 4.0], [1.0, 2.0, 3.0, 2.5]
    both = [*ours, *theirs]
    every = [sum(split) for split in itertools.combinations(both, len(ours))]
    exact = fmean(each >= sum(ours) - 1e-9 for each in every)
    assert permutation_p(ours, theirs) == pytest.approx(exact, abs=0.01)
