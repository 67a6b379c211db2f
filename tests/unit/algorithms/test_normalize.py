"""Running statistics against those of all rows at once."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from soulsai.algorithms.normalize import BLOCK, RunningStatistics


def rows(count, seed=0):
    rng = np.random.default_rng(seed)
    return rng.normal([3.0, -500.0, 0.01], [1.0, 20.0, 0.3], size=(count, 3)).astype("<f4")


@settings(deadline=None, max_examples=50)
@given(cuts=st.lists(st.integers(0, 640), max_size=8), size=st.sampled_from([1, 2, 3]))
def test_any_grouping_gives_the_statistics_of_all_rows_bit_for_bit(cuts, size):
    everything = rows(10 * BLOCK)[:, :size]
    pieces, whole = RunningStatistics(size), RunningStatistics(size)
    whole.update(everything)
    for piece in np.split(everything, sorted(cuts)):
        pieces.update(piece)
    assert (pieces.mean == whole.mean).all()
    assert (pieces.inv_std == whole.inv_std).all()
    assert whole.mean == pytest.approx(everything.mean(0, dtype="f8"), rel=1e-9)
    assert whole.inv_std == pytest.approx(1 / everything.std(0, dtype="f8"), rel=1e-9)


def test_before_a_full_block_nothing_is_changed():
    statistics = RunningStatistics(3)
    assert not statistics.update(rows(BLOCK - 1))
    assert statistics.inv_std.tolist() == [1, 1, 1]
    assert statistics.update(rows(1))


def test_a_constant_is_not_blown_up():
    statistics = RunningStatistics(1)
    statistics.update(np.full((BLOCK, 1), 7.0))
    assert statistics.inv_std == pytest.approx(100.0)


def test_frozen_is_frozen():
    statistics = RunningStatistics(3, freeze_after=2 * BLOCK)
    statistics.update(rows(2 * BLOCK))
    before = statistics.mean.copy()
    assert not statistics.update(rows(BLOCK, seed=1) + 1e6)
    assert (statistics.mean == before).all()


def test_the_rest_of_a_block_is_saved_too():
    first, second = RunningStatistics(3), RunningStatistics(3)
    first.update(rows(BLOCK + 10))
    second.load_state_dict(first.state_dict())
    for statistics in (first, second):
        statistics.update(rows(BLOCK, seed=2))
    assert (first.mean == second.mean).all()
    assert (first.inv_std == second.inv_std).all()


@pytest.mark.parametrize("at", [0, 63, 700, 1030, 5000, 30_000])
@pytest.mark.parametrize("garbage", [3e38, -3e38, 1e12])
def test_one_absurd_row_changes_little(at, garbage):
    honest, spoiled = RunningStatistics(3), RunningStatistics(3)
    everything = rows(40_000)
    honest.update(everything)
    everything[at] = garbage
    spoiled.update(everything)
    assert spoiled.inv_std == pytest.approx(honest.inv_std, rel=0.05)
    assert (np.abs(spoiled.mean - honest.mean) * honest.inv_std < 0.01).all()


@pytest.mark.parametrize(
    "draw",
    [
        lambda rng, n: rng.standard_t(3, (n, 2)),
        lambda rng, n: rng.random((n, 2)) < 0.002,
        lambda rng, n: np.cumsum(rng.normal(size=(n, 2)), axis=0),
        lambda rng, n: np.exp(rng.normal(0, 0.7, (n, 2))),
    ],
    ids=["heavy tails", "rare events", "random walk", "log-normal"],
)
def test_honest_values_are_counted_as_they_are(draw):
    everything = draw(np.random.default_rng(0), 20_032).astype("<f4")
    statistics = RunningStatistics(2)
    statistics.update(everything)
    assert statistics.mean == pytest.approx(everything.mean(0, dtype="f8"), rel=1e-9)
    assert statistics.inv_std == pytest.approx(1 / everything.std(0, dtype="f8"), rel=1e-9)


@pytest.mark.parametrize("before", [2_000, 200_000])
def test_a_lasting_shift_is_followed(before):
    rng = np.random.default_rng(0)
    everything = np.concatenate([np.zeros((before, 1)), rng.normal(1e4, 1e3, (before, 1))])
    statistics = RunningStatistics(1)
    statistics.update(everything)
    assert statistics.mean == pytest.approx(everything.mean(0), rel=0.01)
    assert statistics.inv_std == pytest.approx(1 / everything.std(0), rel=0.01)
