"""A link that is down for long: what is played goes to disk, and arrives once when it is back."""

import pytest

from soulsai.client import uplink as module
from soulsai.client.spool import Spool
from soulsai.client.unconfirmed import UnconfirmedEntries
from soulsai.errors import ServerFull, Superseded, Unreachable
from soulsai.types import Episode, Heartbeat
from tests.unit.client.uplink_cases import RUN, House, episode, fragment, raises, until


@pytest.fixture(autouse=True)
def hurry(monkeypatch):
    monkeypatch.setattr(module, "SPILL_SECONDS", 0.05)
    monkeypatch.setattr(module, "GRACE_SECONDS", 0.3)


@pytest.fixture
def spool(tmp_path):
    made = Spool(tmp_path, RUN, "c", 10**8)
    yield made
    made.close()


def test_an_outage_goes_to_disk_and_comes_back_in_order(spool):
    house = House(spool=spool)
    with house.uplink as uplink:
        until(lambda: uplink.instructions.actor is not None)
        house.server.down = True
        for number in range(300):
            uplink.send(fragment(number, steps=16))
        until(lambda: spool and not len(house.outbox))
        uplink.send(fragment(300))
        until(lambda: not len(house.outbox))
        house.server.down = False
        until(lambda: len(house.clocks()) == 301)
        until(lambda: not spool)
        uplink.send(fragment(301))
        uplink.send(episode(1))
    assert house.clocks() == list(range(302))
    assert len(house.messages(Episode)) == 1
    seqs = [entry.position.seq for entry in house.entries()]
    assert seqs == list(range(house.position.seq + 1, house.position.seq + 1 + len(seqs)))
    assert house.outbox.dropped == 0


def test_more_than_memory_holds_survives_an_outage(spool):
    house = House(outbox_bytes=20_000, spool=spool)
    with house.uplink as uplink:
        house.server.down = True
        until(lambda: not uplink._connected)
        for number in range(400):
            uplink.send(fragment(number, steps=16))
            until(lambda: house.outbox.size < 15_000)
        house.server.down = False
        until(lambda: len(house.clocks()) == 400)
    assert house.outbox.dropped == 0


@pytest.mark.parametrize(
    ("room", "words"),
    [
        (
            {"outbox_bytes": 2_000},
            "its outbox was full, and steps were lost: raise client.outbox_mb",
        ),
        ({"spool_bytes": 3_000}, "its spool was full, and steps were lost: raise client.spool_mb"),
    ],
)
def test_an_outage_longer_than_there_is_room_for_names_the_setting(tmp_path, room, words):
    spool = Spool(tmp_path, RUN, "c", room["spool_bytes"]) if "spool_bytes" in room else None
    house = House(outbox_bytes=room.get("outbox_bytes", 10**6), spool=spool)
    house.progress.trouble = "crash: step: no memory"
    with house.uplink as uplink:
        house.server.down = True
        until(lambda: not uplink._connected)
        for number in range(200):
            uplink.send(fragment(number, steps=16))
            until(lambda: spool is None or not len(house.outbox))
        house.server.down = False
        # An earlier one may have gone out before the outage.
        until(lambda: any(words in beat.trouble for beat in house.messages(Heartbeat)))
    assert house.messages(Heartbeat)[-1].trouble == f"{words}; crash: step: no memory"
    if spool is not None:
        spool.close()


@pytest.mark.parametrize("when", ["before", "after"])
def test_what_is_in_doubt_is_counted_once_even_by_the_next_life(spool, tmp_path, when):
    house = House(spool=spool)
    with house.uplink as uplink:
        until(lambda: len(house.wire.calls) >= 1)
        getattr(house.wire, when).append(Unreachable("the answer was lost"))
        uplink.send(fragment(1))
        until(lambda: not getattr(house.wire, when))
        house.server.down = True
        uplink.send(fragment(2))
        until(lambda: bool(spool))
    spool.close()
    house.server.down = False
    stored = house.clocks()
    assert stored == ([1] if when == "after" else [])
    again = Spool(tmp_path, RUN, "c", 10**8)
    wire = house.server.client("c")
    wire.spec()
    again.deliver(wire, UnconfirmedEntries())
    again.close()
    assert house.clocks() == [1, 2]


def test_a_server_that_is_full_is_no_reason_to_drop_anything(spool):
    house = House(spool=spool)
    with house.uplink as uplink:
        until(lambda: uplink.instructions.actor is not None)
        house.wire.before += [ServerFull("OOM")] * 3
        for number in range(50):
            uplink.send(fragment(number, steps=16))
        until(lambda: len(house.clocks()) == 50)
    assert house.clocks() == list(range(50))


def test_another_process_under_our_name_is_noticed_while_the_spool_is_sent(spool):
    house = House(spool=spool)
    with raises(Superseded, "another process"), house.uplink as uplink:
        until(lambda: uplink.instructions.actor is not None)
        house.server.down = True
        for number in range(10):
            uplink.send(fragment(number))
        until(lambda: bool(spool) and not len(house.outbox))
        house.server.down = False
        other = house.server.client("c")
        other.spec()
        house.say_hello(other)
        until(lambda: uplink.instructions.over == "error")


def test_a_disk_that_refuses_leaves_everything_in_memory(spool, monkeypatch):
    house = House(spool=spool)
    monkeypatch.setattr(spool, "append", lambda entries: False)
    with house.uplink as uplink:
        house.server.down = True
        for number in range(50):
            uplink.send(fragment(number, steps=16))
        until(lambda: not uplink._connected)
        house.server.down = False
        until(lambda: len(house.clocks()) == 50)
    assert house.clocks() == list(range(50))
