"""No update is owed for env steps beyond the grants, so a flood makes nobody wait."""

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from soulsai.algorithms.pace import Pace
from soulsai.training_node.trust import grants as trust
from soulsai.training_node.trust.grants import EARLIER_STEPS, KEPT, Grants
from tests.contract.wire_cases import fragment

TEMPLATE = fragment(steps=10)


def sent(client="c1", generation=3):
    return msgspec.structs.replace(TEMPLATE, client=client, generation=generation)


def granted(grants, client="c1", count=1, generation=3):
    """Return how many env steps of so many fragments are within the grants."""
    marked = grants.marked(sent(client, generation) for _ in range(count))
    assert len(marked) == count
    return sum(len(each) for each in marked if each.granted)


def test_without_a_bound_everything_is_granted():
    grants = Grants(3, resumed=True)
    grants.published(None)
    assert granted(grants, count=1000) == 10_000


def test_what_a_client_sends_beyond_its_grants_is_marked():
    grants = Grants(3, resumed=True)
    grants.published(40)
    assert granted(grants, count=100) == 40
    grants.published(25)
    assert granted(grants, count=100) == 30  # the last fragment may overshoot
    assert granted(grants, "c2", count=100) == 30


def test_a_client_that_was_away_may_send_the_newest_grants_only():
    grants = Grants(3, resumed=True)
    grants.published(20)
    granted(grants, count=2)
    for _ in range(100):
        grants.published(20)
    assert granted(grants, count=100) == KEPT * 20


def test_what_was_played_for_an_earlier_node_is_granted_up_to_a_bound():
    grants = Grants(3, resumed=True)
    grants.published(0)
    assert granted(grants, count=1000, generation=2) == EARLIER_STEPS
    assert granted(grants, count=10) == 0
    begun = Grants(3, resumed=False)
    begun.published(20)
    assert granted(begun, count=10, generation=2) == 20
    begun.published(0)
    assert granted(begun, count=10, generation=2) == 0


def test_the_clients_that_are_remembered_are_bounded(monkeypatch):
    monkeypatch.setattr(trust, "MOST_CLIENTS", 3)
    grants = Grants(3, resumed=True)
    grants.published(10)
    for number in range(10):
        granted(grants, f"c{number}")
    assert granted(grants, "c9", count=2) == 0
    assert granted(grants, "c0", count=2) == 10


@given(
    st.lists(st.tuples(st.integers(0, 500), st.integers(0, 60), st.booleans()), max_size=60),
)
def test_updates_that_are_owed_never_exceed_the_grants_of_a_flooding_client(turns):
    pace = Pace("hold", samples_per_insert=1.0, error_buffer=500, learning_starts=0)
    grants, total = Grants(3, resumed=True), 0
    for quota, fragments, newer in turns:
        if newer or not total:
            grants.published(quota)
            total += quota
        marked = grants.marked(sent() for _ in range(fragments))
        pace.arrived(sum(len(each) for each in marked if each.granted))
    assert pace.owed <= total + len(turns) * len(TEMPLATE)


@pytest.mark.parametrize("seats", [1, 3, 64])
def test_a_client_that_overshoots_its_grants_by_its_last_round_is_counted(seats):
    """It plays whole rounds of its environments, so it may send a few steps more than granted."""
    grants, rounds, counted = Grants(3, resumed=True), 200, 0
    for _ in range(rounds):
        grants.published(64)
        used = -(-64 // seats) * seats
        fragments = [fragment(steps=used // seats) for _ in range(seats)]
        marked = grants.marked(msgspec.structs.replace(each, generation=3) for each in fragments)
        counted += sum(len(each) for each in marked if each.granted)
    assert counted >= 0.95 * rounds * 64
