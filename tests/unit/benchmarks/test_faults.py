"""A wire with faults: late and repeated entries arrive once and in some order; old weights stay."""

import random
import time

import pytest

from benchmarks.faults import Faults, FaultyWire
from soulsai.errors import Unreachable
from soulsai.training_node.admission import Admission
from soulsai.types import PROTOCOL, Fragment, Hello, Weights
from soulsai.wire.codec import decode_entry, encode_message, pack
from soulsai.wire.protocols import Position
from tests.memory_server import MemoryServer
from tests.unit.client.uplink_cases import ARRAYS, PROGRAM, RUN, Faulty, fragment


class Clock:
    now = 0.0

    def __call__(self):
        return self.now


class Play:
    """A client on a faulty wire, and what the server has of it."""

    def __init__(self, **faults):
        self.server, self.clock = MemoryServer(), Clock()
        self.node = self.server.training()
        self.generation = self.node.open(RUN, PROGRAM, fresh=True)
        self.inner = Faulty(self.server.client("c"))
        self.wire = FaultyWire(self.inner, Faults(**faults), random.Random(3), self.clock)
        self.wire.program(self.wire.spec())
        self.first = self.wire.hello(Hello(RUN.run, PROTOCOL, "", "", 1, RUN.crc))
        self.sent = 0

    def push(self, count=1, retry=False):
        entries = []
        for _ in range(count):
            self.sent += 1
            data = pack([encode_message(fragment(self.sent), RUN)])
            entries.append((Position(self.first.epoch, self.first.seq + self.sent), data))
        self.wire.push(entries)
        return entries

    def entries(self):
        return self.node.read({"c": self.first}, 0.0)

    def clocks(self):
        messages = [message for entry in self.entries() for message in decode_entry(entry, RUN)]
        return [message.clock for message in messages if isinstance(message, Fragment)]

    def publish(self, version):
        self.node.publish(Weights(RUN.run, self.generation, version, ARRAYS, quota=version))

    def fetched(self):
        """Ask for the newest version, as a client does."""
        pointer = self.wire.pointer()
        if pointer is None:
            return None
        weights = self.wire.weights(pointer, PROGRAM)
        assert (weights.version, weights.quota) == (pointer.version, pointer.quota)
        return weights.version


def test_without_faults_nothing_changes():
    play = Play()
    for _ in range(5):
        play.push(3)
    assert play.clocks() == list(range(1, 16))


def test_what_is_late_comes_after_what_followed_it_and_leaves_no_hole():
    play = Play(late_share=0.5, late_seconds=10.0)
    for _ in range(20):
        play.push()
    assert 0 < len(play.clocks()) < 20
    play.clock.now = 10.0
    for _ in range(3):
        play.wire.push([])
    assert sorted(play.clocks()) == list(range(1, 21))
    assert play.clocks() != list(range(1, 21))
    seqs = [entry.position.seq for entry in play.entries()]
    assert seqs == list(range(play.first.seq + 1, play.first.seq + 21))


def test_everything_twice_is_seen_twice_and_refused_once():
    play = Play(twice_share=1.0)
    play.push(4)
    assert sorted(play.clocks()) == [1, 1, 2, 2, 3, 3, 4, 4]
    assert [retry for _, retry in play.inner.calls] == [False, True]


@pytest.mark.parametrize("where", ["before", "after"])
def test_a_push_that_failed_is_repeated_once(where):
    play = Play()
    getattr(play.inner, where).append(Unreachable("gone"))
    play.sent += 1
    data = pack([encode_message(fragment(1), RUN)])
    entries = [(Position(play.first.epoch, play.first.seq + 1), data)]
    with pytest.raises(Unreachable):
        play.wire.push(entries)
    play.wire.push(entries, retry=True)
    play.push()
    assert play.clocks() == [1, 2]


def test_the_server_admits_what_comes_over_a_faulty_wire():
    play = Play(late_share=0.3, late_seconds=1.0, twice_share=0.3)
    for second in range(30):
        play.clock.now = second
        play.push(2)
    play.clock.now = 99.0
    play.wire.push([])
    admission = Admission(
        RUN,
        PROGRAM.head,
        lambda entry: decode_entry(entry, RUN),
        marks={},
        newest=(play.generation, 1),
        now=lambda: play.first.epoch / 1000,
    )
    arrivals = [admission.admit(entry) for entry in play.entries()]
    refused = {refusal.reason for arrival in arrivals for refusal in arrival.refusals}
    assert refused == {"overlap"}  # what came as a new entry, though it had come before
    assert {part.clock for arrival in arrivals for part in arrival.fragments} == set(range(1, 61))


def test_versions_are_heard_of_when_they_have_come_over_a_slow_link():
    play = Play(weights_seconds=2.0)
    seen = []
    for second in range(6):
        play.clock.now = float(second)
        play.publish(second + 1)
        seen.append(play.fetched())
    assert seen == [None, None, 1, 2, 3, 4]


def test_who_sleeps_is_woken_when_a_version_comes():
    play = Play(weights_seconds=0.05)
    play.wire.wait(0.0)  # the hint of the version is none of its coming
    play.publish(1)
    assert play.fetched() is None
    began = time.monotonic()
    while time.monotonic() - began < 10.0 and not play.wire.wait(10.0):
        play.clock.now = time.monotonic() - began
        if play.fetched():
            break
    assert play.fetched() == 1
    assert 0.05 <= time.monotonic() - began < 5.0


def test_another_run_begins_without_what_was_held_back():
    play = Play(weights_seconds=100.0, late_share=1.0, late_seconds=1.0)
    play.publish(1)
    assert play.fetched() is None
    play.push()
    play.wire.hello(Hello(RUN.run, PROTOCOL, "", "", 1, RUN.crc))
    play.clock.now = 100.0
    play.publish(2)
    assert play.fetched() is None
    play.clock.now = 200.0
    assert play.fetched() == 2
    play.wire.push([])
    assert play.clocks() == []
