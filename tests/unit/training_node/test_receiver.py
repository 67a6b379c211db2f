"""The receiving thread: bounded, patient, and never silent about what ended it."""

import random
import threading

import pytest

from soulsai.errors import AccessDenied, Rejected, Unreachable
from soulsai.training_node.admission import Admission, Arrival, Mark
from soulsai.training_node.failed_entries import FailedEntries
from soulsai.training_node.receiver import FEW_STREAMS, Inbox, Receiver, RefusalLog
from soulsai.types import (
    PROTOCOL,
    ActionSpec,
    EnvironmentOffer,
    Head,
    Heartbeat,
    Leaf,
    RunSpec,
    Spec,
)
from soulsai.wire.protocols import Entry, Position

SPEC = RunSpec(
    "run", PROTOCOL, PROTOCOL, EnvironmentOffer("x"),
    Spec({"obs": Leaf((2,), "<f4")}, ActionSpec("discrete", (), (3,))), "dqn", "",
)  # fmt: skip


class Wire:
    """Streams as lists; every read and look goes through ``trouble`` first."""

    def __init__(self):
        self.streams = {}
        self.forgotten = []
        self.reads = []
        self.trouble = lambda: None

    def time(self):
        return 0.0

    def clients(self):
        self.trouble()
        return list(self.streams)

    def read(self, after, timeout):
        self.trouble()
        self.reads.append(dict(after))
        entries = [e for c in after for e in self.streams.get(c, []) if e.position > after[c]][:2]
        if not entries:
            threading.Event().wait(0.001)
        return entries

    def forget(self, client):
        self.forgotten.append(client)
        self.streams.pop(client, None)

    def bound(self, clients, entries):
        for client in clients:
            self.streams[client] = self.streams[client][-entries:]

    def discard(self, client, after):
        entries, self.streams[client] = self.streams[client], []
        return sum(entry.position > after for entry in entries)


def entry(client, seq, epoch=1):
    return Entry(client, Position(epoch, seq), b"%d" % seq)


def receiver(wire, folder, pause=0.1, **marks):
    def decode(entry):
        if entry.data == b"13":
            raise Rejected("frame", "unlucky")
        return [Heartbeat(int(entry.data), 0, 0, 0, 0)]

    admission = Admission(
        SPEC, Head("epsilon_greedy"), decode, marks=marks, newest=(1, 1), now=lambda: 0.0
    )
    failed = FailedEntries(folder)
    return Receiver(wire, admission, most=10_000, pause=pause, failed=failed, rng=random.Random(0))


def collect(receiving, count):
    found = []
    for _ in range(10_000):
        found += receiving.take(0.01)
        if len(found) >= count:
            return found
    raise AssertionError(f"only {len(found)} of {count} came")


def test_streams_are_discovered_and_read_in_order_from_their_marks(tmp_path):
    wire = Wire()
    wire.streams["a"] = [entry("a", seq) for seq in range(1, 8)]
    with receiver(wire, tmp_path, a=Mark(Position(1, 3))) as receiving:
        assert [a.mark.position.seq for a in collect(receiving, 4)] == [4, 5, 6, 7]
        wire.streams["b"] = [entry("b", seq) for seq in range(1, 4)]
        assert [a.heartbeat.steps for a in collect(receiving, 3)] == [1, 2, 3]


@pytest.mark.parametrize("pause", [0.0, 0.2])
def test_entries_of_many_streams_gather_and_arrive_as_without_a_pause(pause, tmp_path):
    wire = Wire()
    names = [f"c{number}" for number in range(2 * FEW_STREAMS)]
    for name in names:
        wire.streams[name] = [entry(name, seq) for seq in range(1, 5)]
    with receiver(wire, tmp_path, pause=pause) as receiving:
        arrived = collect(receiving, 4 * len(names))
    for name in names:
        assert [a.heartbeat.steps for a in arrived if a.client == name] == [1, 2, 3, 4]


def test_a_pause_between_reads_grows_with_the_streams_up_to_its_bound(tmp_path):
    waits = []
    receiving = receiver(Wire(), tmp_path, pause=0.2)
    receiving._clock = lambda: 10.0
    receiving._stop.wait = waits.append
    for streams in (1, FEW_STREAMS, 100, 500, 100_000):
        receiving._rest(9.99, streams)
    assert waits == pytest.approx([0.01, 0.09, 0.19])


def test_an_outage_is_survived(caplog, tmp_path):
    wire, failures = Wire(), iter([Unreachable("down")] * 3)

    def trouble():
        if wire.reads and (error := next(failures, None)) is not None:
            raise error

    wire.trouble = trouble
    wire.streams["a"] = [entry("a", seq) for seq in range(1, 6)]
    with receiver(wire, tmp_path) as receiving:
        assert len(collect(receiving, 5)) == 5
    assert caplog.text.count("receiving interrupted") == 1


@pytest.mark.parametrize("error", [AccessDenied("who are you"), ZeroDivisionError("a bug")])
def test_what_cannot_be_survived_is_raised_where_arrivals_are_taken(error, tmp_path):
    wire = Wire()

    def trouble():
        raise error

    wire.trouble = trouble
    with receiver(wire, tmp_path) as receiving, pytest.raises(type(error)):
        collect(receiving, 1)


def test_a_stream_that_was_locked_is_deleted_and_refusals_go_on(caplog, tmp_path):
    wire = Wire()
    wire.streams["a"] = [entry("a", 12), entry("a", 13), entry("a", 0, epoch=2**64 - 1)]
    with receiver(wire, tmp_path) as receiving:
        arrivals = collect(receiving, 3)
        assert [r.reason for a in arrivals for r in a.refusals] == ["frame", "position"]
        while not wire.forgotten:
            receiving.take(0.01)
        wire.streams["a"] = [entry("a", 14)]
        assert collect(receiving, 1)[0].heartbeat.steps == 14
    assert "client=a" in caplog.text
    assert b"13".hex() in caplog.text


def test_a_forgotten_client_begins_anew(tmp_path):
    wire = Wire()
    wire.streams["a"] = [entry("a", 5)]
    with receiver(wire, tmp_path) as receiving:
        collect(receiving, 1)
        wire.streams["a"] = []
        receiving.forget("a")
        wire.reads.clear()
        while {"a": Position(0, 0)} not in wire.reads:
            receiving.take(0.01)


def test_an_inbox_lets_in_no_more_than_its_bound_until_something_is_taken():
    inbox = Inbox(limit=100)
    arrival = Arrival("a", Mark(), bytes=60)
    assert inbox.put([arrival])
    assert inbox.put([arrival])  # it was not full yet
    entered = threading.Event()

    def put():
        inbox.put([arrival])
        entered.set()

    thread = threading.Thread(target=put)
    thread.start()
    assert not entered.wait(0.05)
    assert len(inbox.take(0.0)) == 2
    assert entered.wait(5.0)
    thread.join()
    assert not inbox.is_empty
    inbox.close()
    assert not inbox.put([arrival])


def test_refusals_are_logged_once_a_second_for_each_reason(caplog):
    now = 0.0
    complaints = RefusalLog(lambda: now)
    for _ in range(5):
        complaints.write("frame", "d", entry("a", 1))
    complaints.write("mask", "d", entry("a", 1))
    assert len(caplog.records) == 2
    now = 1.0
    complaints.write("frame", "d", Entry("a", Position(1, 2), bytes(200)))
    assert "more=4" in caplog.records[-1].getMessage()
    assert f"data={'00' * 64} " in caplog.records[-1].getMessage()
