"""Replay that keeps each observation once holds the same transitions as one with copies."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from soulsai.algorithms.n_step_returns import NStepReturns, transition_columns
from soulsai.replay.next_observations import NEXT_NUMBER, NUMBER
from soulsai.replay.ring import Ring
from soulsai.types import MASK, ActionSpec, Fragment, Leaf, Spec

CLIENTS = "abc"
SPEC = Spec(
    {"near": Leaf((2,), "<f4"), "far": Leaf((3, 3), "|u1"), MASK: Leaf((4,), "|b1")},
    ActionSpec("discrete", sizes=(4,)),
)
COLUMNS = transition_columns(SPEC, masks=True)
SHARED = [name for name in COLUMNS if name.startswith("next_obs.")]


def fragment(client, episode, start, count, *, ended):
    rng = np.random.default_rng((ord(client), episode, start))
    step = np.arange(start, start + count + 1)
    place = 1000.0 * ord(client) + 100.0 * episode + step
    return Fragment(
        client=client,
        epoch=1,
        episode=episode,
        start=start,
        clock=start,
        generation=1,
        version=1,
        obs={
            "near": np.stack((place, -place), 1).astype("<f4"),
            "far": np.repeat((step % 250).astype("u1"), 9).reshape(-1, 3, 3),
            MASK: np.stack([step % 2 == 0, step % 3 == 0, step >= 0, step >= 0], 1),
        },
        action=rng.integers(4, size=count).astype("u1"),
        reward=rng.normal(size=count).astype("<f4"),
        terminated=ended and episode % 2 == 0,
        truncated=ended and episode % 2 == 1,
    )


class Fleet:
    """Clients that play episodes, and send fragments of any length."""

    def __init__(self):
        self.at = dict.fromkeys(CLIENTS, (0, 0))  # episode, step

    def fragment(self, client, count, *, ended, lost):
        episode, start = self.at[client]
        self.at[client] = (episode + 1, 0) if ended else (episode, start + count)
        return [] if lost else [fragment(client, episode, start, count, ended=ended)]


FRAGMENTS = st.tuples(
    st.sampled_from(CLIENTS),
    st.integers(1, 7),
    st.integers(0, 3).map(lambda n: n == 0),  # ends its episode
    st.integers(0, 9).map(lambda n: n == 0),  # is lost on its way
)
GROUPS = st.lists(FRAGMENTS, max_size=6)
ACTS = st.lists(
    st.one_of(
        GROUPS,
        st.sampled_from(CLIENTS),  # is forgotten
        st.integers(3, 40),  # saved, and loaded by rings of this capacity
        st.sampled_from(["shown", "crossed", "flush"]),
    ),
    max_size=25,
)


def same(ours, oracle):
    assert len(ours) == len(oracle)
    slots = np.arange(len(ours))
    rows = ours.rows(slots)
    assert list(rows) == list(COLUMNS), "compiled updates go by the order"
    for name, column in oracle.rows(slots).items():
        assert np.array_equal(rows[name], column), name


@settings(max_examples=400)
@given(ACTS, st.integers(1, 4), st.integers(3, 40))
def test_the_rows_are_those_of_a_ring_with_copies(acts, n, capacity):
    """Through interleaved episodes, overwriting, forgetting, saving, and both ways of storing."""
    fleet, returns = Fleet(), NStepReturns(SPEC, n=n, gamma=0.9)
    ours, oracle = Ring(capacity, COLUMNS), Ring(capacity, COLUMNS, shared=False)
    for act in acts:
        if isinstance(act, list):
            fragments = [f for c, count, ended, lost in act
                         for f in fleet.fragment(c, count, ended=ended, lost=lost)]  # fmt: skip
            rows = returns.assemble(fragments)
        elif act == "flush":
            rows = returns.flush()
        elif act == "shown":  # as for demonstrations: not all rows
            rows = returns.assemble(fleet.fragment("a", 6, ended=False, lost=False))
            rows = {name: column[[0, 2, 3]] for name, column in rows.items() if len(column) > 3}
        elif act == "crossed":
            states = ours.state_dict(), oracle.state_dict()
            ours, oracle = (Ring(ours.capacity, COLUMNS, shared=shared) for shared in (True, False))
            oracle.load_state_dict(states[0])
            ours.load_state_dict(states[1])
            rows = {}
        elif isinstance(act, int):
            states = ours.state_dict(), oracle.state_dict()
            ours, oracle = (Ring(act, COLUMNS, shared=shared) for shared in (True, False))
            ours.load_state_dict(states[0])
            oracle.load_state_dict(states[1])
            rows = {}
        else:
            assert ours.remove(act).tolist() == oracle.remove(act).tolist()
            returns.forget(act)
            rows = {}
        if rows:
            ours.append(rows)
            oracle.append(rows)
        same(ours, oracle)
        assert ours.next.behind <= len(ours)


def test_whole_episodes_need_one_more_place_each():
    ring, returns = Ring(1000, COLUMNS), NStepReturns(SPEC, n=3, gamma=0.9)
    for episode in range(50):
        ring.append(returns.assemble([fragment("a", episode, 0, 40, ended=True)]))
    assert len(ring) == 1000
    assert ring.next.behind == 25


def test_a_fragment_within_an_episode_needs_n_more_places():
    ring, returns = Ring(1000, COLUMNS), NStepReturns(SPEC, n=3, gamma=0.9)
    for start in range(0, 2000, 50):
        ring.append(returns.assemble([fragment("a", 0, start, 50, ended=False)]))
    assert ring.next.behind == 1000 / 50 * 3


def test_rows_without_numbers_share_nothing():
    ring, returns = Ring(100, COLUMNS), NStepReturns(SPEC, n=2, gamma=0.9)
    oracle = Ring(100, COLUMNS, shared=False)
    for episode in range(5):
        rows = returns.assemble([fragment("b", episode, 0, 33, ended=True)])
        rows = {name: rows[name] for name in rows if name not in (NUMBER, NEXT_NUMBER)}
        ring.append(rows)
        oracle.append(rows)
    same(ring, oracle)
    assert ring.next.behind == 100


def test_the_memory_of_observations_is_half():
    """Columns behind the rows are touched only as far as they are needed."""
    ring, returns = Ring(1000, COLUMNS), NStepReturns(SPEC, n=3, gamma=0.9)
    for episode in range(40):
        ring.append(returns.assemble([fragment("c", episode, 0, 100, ended=True)]))
    written = [column.base[1000:].reshape(1000, -1).any(1).sum() for column in
               (ring.columns["obs.near"], ring.columns["obs.far"])]  # fmt: skip
    assert max(written) <= 1000 / 100 + 1


def test_a_mask_without_a_twin_and_an_observation_of_another_type_are_copies():
    columns = transition_columns(SPEC)
    assert f"obs.{MASK}" not in columns
    ring = Ring(10, columns)
    assert f"next_obs.{MASK}" in ring.columns
    assert "next_obs.near" not in ring.columns


@pytest.mark.parametrize("shared", [True, False])
def test_a_ring_of_no_observations_is_a_ring(shared):
    ring = Ring(3, {"x": Leaf((), "<i8")}, shared=shared)
    ring.append({"x": np.arange(5)})
    assert sorted(ring.rows(np.arange(3))["x"]) == [2, 3, 4]
    assert "next" not in ring.state_dict()
