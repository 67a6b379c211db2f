"""A server with a run on it and one client's uplink, for the tests of the background thread."""

import random
import time
from contextlib import contextmanager

import numpy as np
import pytest

from soulsai.client.player_link import Outbox, PlayerProgress
from soulsai.client.unconfirmed import UnconfirmedEntries
from soulsai.client.uplink import Uplink
from soulsai.testing.policy import toy_run
from soulsai.types import PROTOCOL, EnvironmentOffer, Episode, Fragment, Hello, Weights, zeros
from soulsai.wire.codec import decode_entry
from tests.memory_server import MemoryServer

RUN, PROGRAM, ARRAYS = toy_run(EnvironmentOffer("soulsai.testing:ToyEnv"))


def until(true, seconds=30.0):
    """Wait for a condition, and fail if it does not come true in time."""
    deadline = time.monotonic() + seconds
    while not true():
        assert time.monotonic() < deadline, "it did not happen in time"
        time.sleep(0.005)


class Faulty:
    """A client's wire that can be told to fail, before or after a push has had its effect."""

    def __init__(self, wire):
        self.wire, self.before, self.after, self.calls = wire, [], [], []

    def push(self, entries, retry=False):
        self.calls.append((list(entries), retry))
        if self.before:
            raise self.before.pop(0)
        self.wire.push(entries, retry)
        if self.after:
            raise self.after.pop(0)

    def __getattr__(self, name):
        return getattr(self.wire, name)


class House:
    """A server with a run on it, and one client's uplink."""

    def __init__(self, outbox_bytes=10**6, publish=True, spool=None):
        self.server = MemoryServer()
        self.node = self.server.training()
        self.generation = self.node.open(RUN, PROGRAM, fresh=True)
        self.wire = Faulty(self.server.client("c"))
        self.wire.spec()
        self.position = self.say_hello(self.wire)
        self.progress = PlayerProgress()
        self.outbox = Outbox(outbox_bytes, time.monotonic)
        self.unconfirmed = UnconfirmedEntries()
        self.uplink = Uplink(
            self.wire,
            RUN,
            PROGRAM,
            self.outbox,
            self.progress,
            position=self.position,
            rng=random.Random(1),
            unconfirmed=self.unconfirmed,
            spool=spool,
            trial=None,
        )
        if publish:
            self.publish(1)

    def say_hello(self, wire):
        return wire.hello(Hello(RUN.run, PROTOCOL, "", "", 1, RUN.crc))

    def publish(self, version, arrays=ARRAYS, **options):
        self.node.publish(Weights(RUN.run, self.generation, version, arrays, **options))

    def entries(self):
        """All entries after the hello."""
        found, after = [], {"c": self.position}
        while entries := self.node.read(after, 0.0):
            found += entries
            after = {"c": entries[-1].position}
        return found

    def messages(self, kind):
        said = [message for entry in self.entries() for message in decode_entry(entry, RUN)]
        return [message for message in said if isinstance(message, kind)]

    def clocks(self):
        return [fragment.clock for fragment in self.messages(Fragment)]


def fragment(clock, steps=1):
    return Fragment(
        client="c",
        epoch=0,
        episode=clock,
        start=0,
        clock=clock,
        generation=1,
        version=1,
        obs={name: zeros(leaf, steps + 1) for name, leaf in RUN.spec.obs.items()},
        action=zeros(RUN.spec.action.leaf, steps),
        reward=np.zeros(steps, np.float32),
        terminated=False,
        truncated=False,
    )


def episode(number):
    return Episode(1, 1, number, 0.0, 1, 1.0, True, False, 0.0)


@contextmanager
def raises(kind, match):
    """Expect an error from a block of several statements."""
    with pytest.raises(kind, match=match):
        yield
