"""Prioritised replay: what is drawn, how it weighs, and what is written back."""

import numpy as np
import pytest

from soulsai.replay.prioritized import DECAY, UNIFORM_SHARE, PrioritizedReplay
from soulsai.types import Leaf
from tests.unit.replay.tree_cases import routines

COLUMNS = {"x": Leaf((), "<i8")}


def replay(capacity=100, *, rows=0, alpha=1.0, seed=0):
    made = PrioritizedReplay(capacity, COLUMNS, alpha=alpha, rng=np.random.default_rng(seed))
    if rows:
        made.append({"x": np.arange(rows)})
    return made


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


def test_compiled_routines_draw_the_same_from_what_is_there():
    ours, oracle = (replay(300, rows=250, alpha=0.6, seed=4) for _ in range(2))
    for r in (ours, oracle):
        r.update_priorities(np.arange(250), np.arange(250.0) ** 2)
    ours.use_routines(routines())
    assert (ours.priorities == oracle.priorities).all()
    for step in range(200):
        batches = [r.sample(32, beta=0.5, batches=2) for r in (ours, oracle)]
        assert (batches[0].ids == batches[1].ids).all()
        assert batches[0].weights == pytest.approx(batches[1].weights, rel=1e-6)
        for r, batch in zip((ours, oracle), batches, strict=True):
            r.update_priorities(batch.ids, np.sin(batch.ids + step))
            r.append({"x": np.arange(5)})
