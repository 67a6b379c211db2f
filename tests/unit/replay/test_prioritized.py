"""Prioritised replay: its tree, what is drawn, how it weighs, and what is written back."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from soulsai.replay.prioritized import DECAY, FAN, UNIFORM_SHARE, PrioritizedReplay, SumTree
from soulsai.types import Leaf

COLUMNS = {"x": Leaf((), "<i8")}


def replay(capacity=100, *, rows=0, alpha=1.0, seed=0):
    made = PrioritizedReplay(capacity, COLUMNS, alpha=alpha, rng=np.random.default_rng(seed))
    if rows:
        made.append({"x": np.arange(rows)})
    return made


@pytest.mark.parametrize("size", [1, FAN, FAN + 1, 5000, FAN**2 + 3])
def test_the_tree_finds_what_a_running_sum_finds(size):
    rng = np.random.default_rng(1)
    tree = SumTree(size)
    values = rng.integers(1, 50, size).astype(float)  # whole numbers: no rounding
    tree.set(np.arange(size), values)
    some = rng.integers(0, size, 200)
    tree.set(some, 7.0)
    values[some] = 7.0
    assert tree.total == values.sum()
    depths = rng.integers(0, int(values.sum()), 500).astype(float) + 0.5
    assert (tree.find(depths) == np.searchsorted(values.cumsum(), depths, side="right")).all()


@settings(deadline=None, max_examples=60)
@given(st.integers(1, 300), st.integers(0, 2**32 - 1))
def test_the_tree_never_finds_an_empty_place(size, seed):
    rng = np.random.default_rng(seed)
    tree = SumTree(5000)
    tree.set(np.arange(size), 10.0 ** rng.uniform(-9, 9, size))
    edges = np.array([0.0, 0.5, 1.0 - 1e-16, 1.0, 1.0 + 1e-9]) * tree.total
    assert (tree.find(edges) < size).all()


def test_rows_are_drawn_in_proportion_to_their_priority_and_weighed_against_it():
    r = replay(50, rows=50, seed=3)
    errors = np.linspace(0.1, 5.0, 50)
    r.update_priorities(np.arange(50), errors)
    share = (1 - UNIFORM_SHARE) * (errors + 1e-6) / (errors + 1e-6).sum() + UNIFORM_SHARE / 50
    counts = np.zeros(50)
    for _ in range(2000):
        batch = r.sample(64, beta=0.5)
        counts += np.bincount(batch.rows["x"], minlength=50)
        expected = (50 * share[batch.rows["x"]]) ** -0.5
        assert batch.weights == pytest.approx(expected / expected.max(), rel=1e-5)
    expected = share * counts.sum()
    assert (np.abs(counts - expected) < 5 * np.sqrt(expected)).all()


def test_each_of_the_batches_drawn_at_once_is_stratified():
    r = replay(96, rows=96, alpha=0.0)
    for _ in range(20):
        for batch in r.sample(32, beta=0.5, batches=3).split(3):
            parts = np.unique(batch.rows["x"] // 3)  # of 32 equal ones
            assert len(parts) >= 31, "one draw may have ignored the priorities"


def test_alpha_flattens_priorities():
    r = replay(4, rows=4, alpha=0.5)
    r.update_priorities(np.arange(4), np.array([1.0, -4.0, 9.0, 16.0]))
    assert r.priorities == pytest.approx([1, 2, 3, 4], rel=1e-4)


def test_a_row_written_over_meanwhile_keeps_its_own_priority():
    r = replay(10, rows=10)
    batch = r.sample(64, beta=1.0)
    r.append({"x": np.arange(100, 106)})  # over the rows 0 to 5
    r.update_priorities(batch.ids, np.full(64, 0.25))
    assert (r.priorities[:6] == 1.0).all()
    assert r.priorities[6:] == pytest.approx(0.25, rel=1e-4)


def test_ids_name_the_rows_that_were_drawn():
    r = replay(10, rows=27)
    batch = r.sample(64, beta=1.0)
    assert (batch.ids == batch.rows["x"]).all()
    assert batch.ids.min() >= 17


def test_new_rows_are_as_urgent_as_any_and_an_outlier_is_forgotten_slowly():
    r = replay(100, rows=50)
    r.update_priorities(np.array([3]), np.array([40.0]))
    r.append({"x": np.array([7])})
    assert r.priorities[50] == pytest.approx(40.0)
    for _ in range(100):
        r.update_priorities(np.array([3]), np.array([0.5]))
    r.append({"x": np.array([8])})
    assert r.priorities[51] == pytest.approx(40.0 * DECAY**100, rel=1e-6)


def test_no_row_starves():
    r = replay(20, rows=20)
    r.update_priorities(np.arange(20), np.r_[1e6, np.zeros(19)])
    drawn = np.concatenate([r.sample(64, beta=1.0).rows["x"] for _ in range(3000)])
    assert len(np.unique(drawn)) == 20
