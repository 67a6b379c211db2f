"""What every replay promises."""

import numpy as np
import pytest

from soulsai.replay.prioritized import PrioritizedReplay
from soulsai.replay.ring import owner
from soulsai.replay.uniform import UniformReplay
from soulsai.types import Leaf
from tests.unit.replay.tree_cases import routines

COLUMNS = {"x": Leaf((), "<i8"), "y": Leaf((2, 3), "|u1")}


def prioritized(seed=0, capacity=200):
    return PrioritizedReplay(capacity, COLUMNS, alpha=0.6, rng=np.random.default_rng(seed))


def compiled(seed=0, capacity=200):
    replay = prioritized(seed, capacity)
    replay.use_routines(routines())
    return replay


def uniform(seed=0, capacity=200):
    return UniformReplay(capacity, COLUMNS, rng=np.random.default_rng(seed))


@pytest.fixture(params=[prioritized, compiled, uniform])
def make(request):
    return request.param


def rows(first, count):
    x = np.arange(first, first + count)
    return {"x": x, "y": np.broadcast_to((x % 256)[:, None, None], (count, 2, 3)).astype("|u1")}


def test_a_batch_is_of_rows_that_are_held_and_belongs_together(make):
    replay = make()
    replay.append(rows(0, 150))
    replay.append(rows(150, 150))
    assert len(replay) == 200
    for _ in range(50):
        batch = replay.sample(32, beta=0.4)
        x = batch.rows["x"]
        assert ((x >= 100) & (x < 300)).all()
        assert (batch.rows["y"] == (x % 256)[:, None, None]).all()
        assert (batch.ids == x).all()
        assert batch.weights.dtype == np.float32
        assert (batch.weights > 0).all()
        assert batch.weights.max() == 1.0


def test_batches_drawn_at_once_are_batches(make):
    replay = make()
    replay.append(rows(0, 150))
    several = replay.sample(32, beta=0.4, batches=3).split(3)
    assert len(several) == 3
    for batch in several:
        x = batch.rows["x"]
        assert len(x) == 32
        assert (batch.rows["y"] == (x % 256)[:, None, None]).all()
        assert (batch.ids == x).all()
        assert batch.weights.max() == 1.0


def test_one_batch_at_once_is_the_batch(make):
    ours, theirs = make(), make()
    for replay in (ours, theirs):
        replay.append(rows(0, 150))
    (one,) = ours.sample(32, beta=0.4, batches=1).split(1)
    other = theirs.sample(32, beta=0.4)
    assert (one.ids == other.ids).all()
    assert (one.weights == other.weights).all()


def test_every_row_gets_its_turn(make):
    replay = make()
    replay.append(rows(0, 100))
    drawn = np.concatenate([replay.sample(32, beta=0.4).rows["x"] for _ in range(100)])
    assert len(np.unique(drawn)) == 100


def test_a_batch_may_be_larger_than_what_is_held(make):
    replay = make()
    replay.append(rows(0, 1))
    assert (replay.sample(8, beta=1.0).rows["x"] == 0).all()


def test_nothing_is_appended_without_harm(make):
    replay = make()
    replay.append(rows(0, 0))
    assert len(replay) == 0


def test_what_a_batch_holds_is_its_own(make):
    replay = make()
    replay.append(rows(0, 50))
    batch = replay.sample(16, beta=1.0)
    before = batch.rows["x"].copy()
    replay.append(rows(1000, 200))
    assert (batch.rows["x"] == before).all()


def test_the_same_seed_draws_the_same(make):
    one, other = make(seed=5), make(seed=5)
    for replay in (one, other):
        replay.append(rows(0, 90))
    assert (one.sample(64, beta=0.4).ids == other.sample(64, beta=0.4).ids).all()


def test_it_goes_on_exactly_where_it_was_saved(make):
    one, other = make(seed=1), make(seed=2)
    one.append(rows(0, 250))
    for _ in range(5):
        batch = one.sample(32, beta=0.4)
        one.update_priorities(batch.ids, batch.rows["x"] / 100.0)
    other.load_state_dict(one.state_dict())
    for step in range(20):
        a, b = one.sample(32, beta=0.4), other.sample(32, beta=0.4)
        assert (a.ids == b.ids).all()
        assert (a.weights == b.weights).all()
        for replay in (one, other):
            replay.update_priorities(a.ids, np.sin(a.ids + step))
            replay.append(rows(250 + step, 1))


def owned(clients, first=0):
    """Return a row for each client named."""
    return {**rows(first, len(clients)), "owner": np.array([owner(c) for c in clients], "u8")}


@pytest.mark.parametrize("count", [0, 1, 150, 200, 333])
def test_forgetting_a_client_removes_exactly_its_rows_and_keeps_the_order(make, count):
    names = np.random.default_rng(count).choice(["a", "b", "c"], count)
    replay = make()
    for first in range(0, count, 37):
        replay.append(owned(names[first : first + 37], first))
    held = np.arange(max(0, count - 200), count)
    kept = held[names[held] != "b"]
    assert replay.forget("b") == len(held) - len(kept)
    assert replay.forget("b") == 0
    assert len(replay) == len(kept)
    assert replay.ring.columns["x"][: len(kept)].tolist() == kept.tolist()
    if len(kept):
        x = replay.sample(64, beta=0.4).rows["x"]
        assert np.isin(x, kept).all()
        assert (replay.ring.ids(np.arange(len(kept))) == np.arange(len(kept))).all()
    replay.append(owned(["b", "c"], 1000))
    assert len(replay) == min(200, len(kept) + 2)
    assert replay.forget("b") == 1


def test_what_was_drawn_before_forgetting_changes_no_priority_after_it(make):
    replay = make()
    replay.append(owned(["a", "b"] * 100))
    batch = replay.sample(64, beta=0.4)
    replay.forget("a")
    replay.update_priorities(batch.ids, np.full(64, 5.0))
    drawn = replay.sample(64, beta=0.4)
    assert (drawn.ids < 100).all()


def test_owners_survive_saving(make):
    replay = make(seed=1)
    replay.append(owned(["a", "b"] * 30))
    other = make(seed=2)
    other.load_state_dict(replay.state_dict())
    assert other.forget("a") == 30
