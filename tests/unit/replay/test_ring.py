"""The ring under every replay: the last rows, their ids, and nobody else's memory."""

import numpy as np
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
