"""Stored entries stay in memory until the training node has them, and are sent again in order."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from soulsai.client import uplink as module
from soulsai.client.spool import Spool
from soulsai.client.unconfirmed import PUSH_BYTES, UnconfirmedEntries
from soulsai.errors import ServerFull
from soulsai.types import Episode
from soulsai.wire.protocols import Position
from tests.unit.client.uplink_cases import RUN, House, episode, fragment, until


class Wire:
    """Collects what is pushed."""

    def __init__(self):
        self.pushed = []

    def push(self, entries, retry=False):
        assert retry
        self.pushed.append(list(entries))


@given(
    sizes=st.lists(st.integers(0, 100), max_size=40),
    limit=st.integers(0, 500),
    confirmed=st.integers(0, 45),
)
def test_the_newest_entries_within_the_limit_stay_until_they_are_confirmed(sizes, limit, confirmed):
    entries = [(Position(7, seq), bytes(size)) for seq, size in enumerate(sizes, 1)]
    kept = UnconfirmedEntries(limit)
    for entry in entries:
        kept.add([entry])
    kept.confirm(Position(7, confirmed))
    fitting = [
        (position, data)
        for index, (position, data) in enumerate(entries)
        if sum(map(len, (data for _, data in entries[index:]))) <= limit
        and position.seq > confirmed
    ]
    taken = kept.take()
    assert taken == fitting
    assert len(kept) == 0


def test_entries_of_two_epochs_are_confirmed_in_their_order():
    kept = UnconfirmedEntries()
    entries = [(Position(*place), b"") for place in ((5, 8), (5, 9), (6, 0), (6, 1))]
    kept.add(entries)
    kept.confirm(Position(6, 0))
    assert kept.take() == entries[3:]


def test_they_are_sent_in_order_and_in_pieces_of_bounded_size():
    kept, wire = UnconfirmedEntries(), Wire()
    sizes = [PUSH_BYTES // 2, PUSH_BYTES // 2, 1, 2 * PUSH_BYTES, 3]
    entries = [(Position(1, seq), bytes(size)) for seq, size in enumerate(sizes, 1)]
    kept.add(entries)
    kept.send(wire)
    assert [entry for piece in wire.pushed for entry in piece] == entries
    assert [len(piece) for piece in wire.pushed] == [2, 1, 1, 1]
    assert len(kept) == len(entries)


def break_and_lose(house, uplink, after):
    """Stop the server, and start it without the entries after a position."""
    house.server.down = True
    until(lambda: not uplink._connected)
    house.server.down = False
    house.server.lose("c", after)


def test_entries_that_a_restarted_server_has_lost_are_sent_again_before_others():
    house = House()
    with house.uplink as uplink:
        for number in range(10):
            uplink.send(fragment(number))
            until(lambda number=number: house.clocks()[-1:] == [number])
        uplink.send(episode(1))
        until(lambda: house.messages(Episode))
        third = house.entries()[2].position
        house.server.down = True
        until(lambda: not uplink._connected)
        uplink.send(fragment(10))
        house.server.down = False
        house.server.lose("c", third)
        until(lambda: house.clocks()[-1:] == [10])
    assert house.clocks() == list(range(11))
    assert len(house.messages(Episode)) == 1
    seqs = [entry.position.seq for entry in house.entries()]
    assert seqs == list(range(house.position.seq + 1, house.position.seq + 1 + len(seqs)))


def test_a_server_that_has_lost_nothing_stores_nothing_twice():
    house = House()
    with house.uplink as uplink:
        for number in range(5):
            uplink.send(fragment(number))
        until(lambda: len(house.clocks()) == 5)
        break_and_lose(house, uplink, house.entries()[-1].position)
        uplink.send(fragment(5))
        until(lambda: house.clocks()[-1:] == [5])
    assert house.clocks() == list(range(6))


def test_what_the_training_node_has_is_not_sent_again():
    house = House()
    with house.uplink as uplink:
        for number in range(5):
            uplink.send(fragment(number))
        until(lambda: len(house.clocks()) == 5)
        house.node.confirm({"c": Position(house.position.epoch, 1000)})
        until(lambda: not len(house.unconfirmed))
        house.wire.calls.clear()
        break_and_lose(house, uplink, house.position)
        uplink.send(fragment(5))
        until(lambda: house.clocks())
    assert house.clocks() == [5]


def test_a_full_server_is_not_sent_everything_again():
    house = House()
    with house.uplink as uplink:
        uplink.send(fragment(0))
        until(lambda: house.clocks() == [0])
        house.wire.calls.clear()
        house.wire.before += [ServerFull("OOM")]
        uplink.send(fragment(1))
        until(lambda: house.clocks() == [0, 1])
        first = house.entries()[0].position
    pushed = [position for entries, _ in house.wire.calls for position, _ in entries]
    assert first not in pushed


def test_an_outage_writes_them_to_disk_for_the_next_process(tmp_path, monkeypatch):
    monkeypatch.setattr(module, "SPILL_SECONDS", 0.05)
    monkeypatch.setattr(module, "GRACE_SECONDS", 0.1)
    spool = Spool(tmp_path, RUN, "c", 10**8)
    house = House(spool=spool)
    with house.uplink as uplink:
        for number in range(5):
            uplink.send(fragment(number))
        until(lambda: len(house.clocks()) == 5)
        house.server.down = True
        until(lambda: bool(spool))
        uplink.send(fragment(5))
    spool.close()
    house.server.down = False
    house.server.lose("c", house.position)
    again, wire = Spool(tmp_path, RUN, "c", 10**8), house.server.client("c")
    wire.spec()
    again.deliver(wire, UnconfirmedEntries())
    again.close()
    assert house.clocks() == list(range(6))


def test_a_disk_that_refuses_them_leaves_them_in_memory(tmp_path, monkeypatch):
    monkeypatch.setattr(module, "SPILL_SECONDS", 0.05)
    spool = Spool(tmp_path, RUN, "c", 10**8)
    refused = []
    monkeypatch.setattr(spool, "append", lambda entries: refused.append(entries))
    house = House(spool=spool)
    with house.uplink as uplink:
        for number in range(5):
            uplink.send(fragment(number))
        until(lambda: len(house.clocks()) == 5)
        house.server.down = True
        until(lambda: refused)
        house.server.down = False
        house.server.lose("c", house.position)
        until(lambda: len(house.clocks()) == 5)
    assert house.clocks() == list(range(5))


@pytest.mark.parametrize("text", [b"", b"5", b"a-b", b"-"])
def test_a_confirmation_that_cannot_be_read_counts_as_none(text):
    house = House()
    house.server.link().execute("SET", "soulsai:{soulsai}:received:c", text)
    assert house.wire.received() is None
