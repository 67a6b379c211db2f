"""The background thread: nothing is sent twice, nothing lost uncounted, and it always ends."""

import random
import threading
import time

import numpy as np
import pytest

from soulsai.client import uplink as module
from soulsai.client.uplink import Backoff
from soulsai.errors import AccessDenied, EnvironmentFault, ServerFull, Superseded, Unreachable
from soulsai.types import (
    PROTOCOL,
    Control,
    Episode,
    EvaluationRequest,
    Fragment,
    Heartbeat,
    Hello,
    Weights,
)
from soulsai.wire.codec import decode_entry
from soulsai.wire.protocols import Position
from tests.unit.client.uplink_cases import ARRAYS, RUN, House, episode, fragment, raises, until


@pytest.fixture
def house():
    return House()


# Sending


def test_everything_arrives_once_in_order_and_without_holes(house):
    with house.uplink as uplink:
        for number in range(300):
            uplink.send(fragment(number))
            if number % 7 == 0:
                uplink.send(episode(number))
    entries = house.entries()
    epoch, first = house.position
    assert [entry.position for entry in entries] == [
        Position(epoch, first + 1 + index) for index in range(len(entries))
    ]
    assert house.clocks() == list(range(300))
    assert [one.episode for one in house.messages(Episode)] == list(range(0, 300, 7))


def test_messages_of_the_same_moment_share_an_entry(house):
    with house.uplink as uplink:
        for number in range(20):
            uplink.send(fragment(number))
        until(lambda: len(house.clocks()) == 20)
    assert len(house.entries()) <= 5  # of which some are heartbeats


def test_a_backlog_is_sent_in_entries_of_bounded_size(house, monkeypatch):
    monkeypatch.setattr(module, "ENTRY_BYTES", 4000)
    house.server.down = True
    with house.uplink as uplink:
        for number in range(200):
            uplink.send(fragment(number, steps=16))
        house.server.down = False
        until(lambda: len(house.clocks()) == 200)
    assert max(len(decode_entry(entry, RUN)) for entry in house.entries()) < 20


def test_what_is_sent_is_copied(house):
    one = fragment(0)
    with house.uplink as uplink:
        uplink.send(one)
        one.obs["obs"][:] = 9
    np.testing.assert_array_equal(house.messages(Fragment)[0].obs["obs"], 0)


@pytest.mark.parametrize("when", ["before", "after"])
def test_a_push_in_doubt_is_repeated_under_the_same_positions(house, when):
    getattr(house.wire, when).extend([Unreachable("cut"), Unreachable("cut")])
    with house.uplink as uplink:
        for number in range(10):
            uplink.send(fragment(number))
        until(lambda: len(house.clocks()) == 10)
    assert house.clocks() == list(range(10))
    calls = house.wire.calls
    assert [retry for _, retry in calls[:3]] == [False, True, True]
    assert calls[0][0] == calls[1][0] == calls[2][0]


def test_it_survives_the_server_being_away(house):
    with house.uplink as uplink:
        until(lambda: uplink.instructions.actor)
        house.server.down = True
        for number in range(50):
            uplink.send(fragment(number))
        until(lambda: repr(uplink).startswith("Uplink(not connected"))
        house.server.down = False
        until(lambda: len(house.clocks()) == 50, 15)
        until(lambda: repr(uplink).startswith("Uplink(connected"))
    assert house.clocks() == list(range(50))


def test_what_does_not_fit_is_dropped_oldest_first_and_told():
    house = House(outbox_bytes=3000)
    house.server.down = True
    with house.uplink as uplink:
        for number in range(100):
            uplink.send(fragment(number))
        dropped = house.outbox.dropped
        assert 0 < dropped < 100
        house.server.down = False
        until(lambda: house.clocks() and house.clocks()[-1] == 99, 15)
        assert len(house.clocks()) == 100 - house.outbox.dropped
        until(lambda: house.messages(Heartbeat))
        assert house.messages(Heartbeat)[-1].dropped == house.outbox.dropped


def test_a_full_server_is_waited_for(house):
    house.wire.before = [ServerFull("full"), ServerFull("full")]
    with house.uplink as uplink:
        uplink.send(fragment(0))
        until(lambda: not house.wire.before)
        until(lambda: house.clocks() == [0], 15)


def test_heartbeats_tell_what_the_player_did(house):
    house.progress.steps, house.progress.episodes = 12, 3
    house.progress.version, house.progress.waiting = 4, True
    with house.uplink:
        until(lambda: house.messages(Heartbeat))
    beat = house.messages(Heartbeat)[0]
    assert beat == Heartbeat(12, 3, 0, 0, 4, waiting=True)
    assert len(house.messages(Heartbeat)) >= 2  # the first, and a last one


# Leaving


def test_leaving_sends_what_is_queued_and_ends_the_thread(house):
    with house.uplink as uplink:
        uplink.send(fragment(0))
    assert house.clocks() == [0]
    assert not [one for one in threading.enumerate() if one.name.startswith("uplink")]


def test_leaving_does_not_wait_for_a_server_that_is_away(house, monkeypatch, caplog):
    monkeypatch.setattr(module, "GRACE_SECONDS", 0.3)
    house.server.down = True
    with house.uplink as uplink:
        uplink.send(fragment(0))
        began = time.monotonic()
    assert time.monotonic() - began < 3
    assert "could not be reached" in caplog.text


def test_the_error_of_the_body_comes_first(house):
    house.wire.before.append(AccessDenied("no"))
    with raises(EnvironmentFault, "crashed"), house.uplink as uplink:
        until(lambda: uplink.instructions.over)
        raise EnvironmentFault("it crashed")


@pytest.mark.parametrize("error", [AccessDenied("you may not"), ZeroDivisionError("a mistake")])
def test_what_ends_the_thread_ends_the_game_and_is_raised(house, error):
    house.wire.before.append(error)
    with raises(type(error), str(error)), house.uplink as uplink:
        until(lambda: uplink.instructions.over == "error")


def test_another_process_under_our_name_supersedes_us(house):
    other = house.server.client("c")
    other.spec()
    with raises(Superseded, "'c'"), house.uplink as uplink:
        until(lambda: house.messages(Heartbeat))
        other.hello(Hello(RUN.run, PROTOCOL, "", "", 1, RUN.crc))
        uplink.send(fragment(0))
        until(lambda: uplink.instructions.over)


# Backing off


def test_waits_grow_to_a_bound_and_differ_between_clients():
    draws = [Backoff(random.Random(seed)) for seed in range(500)]
    for failures in range(12):
        waits = [backoff.next() for backoff in draws]
        bound = min(10.0, 0.1 * 2**failures)
        assert 0 <= min(waits) < 0.1 * bound
        assert 0.9 * bound < max(waits) <= bound
        assert np.mean(waits) == pytest.approx(bound / 2, rel=0.15)
    draws[0].reset()
    assert draws[0].next() <= 0.1


def test_an_evaluation_is_fetched_once_and_handed_over(house):
    house.publish(2)
    old = Weights(RUN.run, house.generation, 1, ARRAYS)
    request = EvaluationRequest(4, house.node.keep(old))
    with house.uplink as uplink:
        until(lambda: uplink.instructions.actor and uplink.instructions.actor.version == 2)
        house.node.tell(Control("resume", request))
        until(lambda: uplink.instructions.evaluation)
        task = uplink.instructions.evaluation
        assert (task.actor.version, task.episodes) == (1, 4)
        house.node.tell(Control("resume", request))
        house.node.tell(Control("resume", EvaluationRequest(4, b"nonsense")))
        house.publish(3)
        until(lambda: uplink.instructions.actor.version == 3)
        assert uplink.instructions.evaluation is task
