"""The ring under every replay: the last rows, their ids, and nobody else's memory."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from soulsai.replay.ring import Ring
from soulsai.types import Leaf

COLUMNS = {"x": Leaf((), "<i8"), "y": Leaf((2,), "<f4")}


def some(first, count):
    x = np.arange(first, first + count)
    return {"x": x, "y": np.stack([x, -x], axis=1).astype("<f4")}


@settings(deadline=None)
@given(st.integers(1, 20), st.lists(st.integers(0, 50), max_size=10))
def test_it_holds_the_last_rows_and_knows_their_ids(capacity, counts):
    ring, added = Ring(capacity, COLUMNS), 0
    for count in counts:
        slots = ring.append(some(added, count))
        added += count
        assert len(slots) == min(count, capacity)
        assert (ring.columns["x"][slots] == np.arange(added - len(slots), added)).all()
    slots = np.arange(len(ring))
    held = ring.rows(slots)
    assert sorted(held["x"]) == list(range(added - len(ring), added))
    assert (held["y"][:, 1] == -held["x"]).all()
    assert (ring.ids(slots) == held["x"]).all()
    assert ring.contains(held["x"]).all()
    assert not ring.contains(np.array([added - capacity - 1])).any()


def test_rows_are_copied_in_and_out():
    ring, rows = Ring(5, COLUMNS), some(0, 3)
    ring.append(rows)
    rows["x"][:] = 99
    ring.rows(np.array([0]))["x"][:] = 99
    assert ring.columns["x"][:3].tolist() == [0, 1, 2]


def test_it_is_saved_and_restored():
    first, second = Ring(7, COLUMNS), Ring(7, COLUMNS)
    first.append(some(0, 10))
    second.load_state_dict(first.state_dict())
    for ring in (first, second):
        ring.append(some(10, 3))
    assert first.added == second.added
    assert all((first.columns[name] == second.columns[name]).all() for name in COLUMNS)


@pytest.mark.parametrize("added", [3, 8, 10, 11, 25])
@pytest.mark.parametrize("capacity", [4, 8, 10, 30])
def test_a_ring_of_another_capacity_keeps_the_newest_rows(added, capacity):
    columns = {"x": Leaf((), "<i8"), "eye": Leaf((4, 8, 8), "|u1")}
    old, new = Ring(10, columns), Ring(capacity, columns)
    images = np.random.default_rng(0).integers(256, size=(added + 20, 4, 8, 8)).astype("|u1")

    def append(ring, first, last):
        owners = np.arange(first, last, dtype=np.uint64) + 1
        rows = {"x": np.arange(first, last), "eye": images[first:last], "owner": owners}
        ring.append(rows)

    append(old, 0, added)
    state = old.state_dict()
    kept = state["columns"]["x"][new.load_state_dict(state)]
    assert kept.tolist() == new.columns["x"][: len(new)].tolist()
    assert len(new) == min(added, 10, capacity)
    for more in range(added, added + 20):
        present = new.rows(np.arange(len(new)))
        newest = range(more - len(new), more)
        assert sorted(present["x"]) == list(newest)
        assert (present["eye"] == images[present["x"]]).all()
        assert (new.owners[: len(new)] == present["x"] + 1).all()
        append(new, more, more + 1)
