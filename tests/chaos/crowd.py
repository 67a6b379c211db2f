"""Two hundred clients in a few processes: they speak the protocol and play nothing.

As a module it is one such process: ``python -m tests.chaos.crowd SETTINGS --first N --count N``.
"""

import argparse
import json
import random
import signal
import subprocess
import sys
import time
from contextlib import suppress
from pathlib import Path

import numpy as np

from soulsai import connect, process
from soulsai.config import load
from soulsai.errors import AccessDenied, Unreachable, WireError
from soulsai.types import PROTOCOL, Episode, Fragment, Heartbeat, Hello
from soulsai.wire.codec import encode_message, pack
from soulsai.wire.protocols import Position
from soulsai.wire.redis.roles import connect_client
from soulsai.wire.secrets import server_for

from .ledger import RecordingWire
from .stamps import SEATS

PROCESSES = 4
FIRST = 1000  # their numbers begin there
STEPS = 20  # per fragment, and per second
MEAN_LIFE = 8.0  # seconds
LEAVING_SECONDS = 30.0


class Crowd:
    """The processes, for as long as the context lasts."""

    def __init__(self, stage, size):
        self._stage = stage
        self._names = {f"crowd-{FIRST + index}" for index in range(size)}
        self._each = size // PROCESSES
        self._processes = []
        self.figures = {}
        self.errors = []
        self.asked_to_leave = 0.0

    def __enter__(self):
        settings = self._stage.settings("crowd")
        for first in range(FIRST, FIRST + len(self._names), self._each):
            words = [sys.executable, "-m", "tests.chaos.crowd", str(settings),
                     "--first", str(first), "--count", str(self._each),
                     "--ledgers", str(self._stage.ledgers)]  # fmt: skip
            log = (self._stage.logs / f"crowd-{first}.log").open("wb")
            with log:
                self._processes.append(
                    subprocess.Popen(words, stdout=subprocess.PIPE, stderr=log,
                                     env=self._stage.environ, text=True)
                )  # fmt: skip
        return self

    def __exit__(self, *_):
        self.asked_to_leave = time.monotonic()
        for each in self._processes:
            each.send_signal(signal.SIGTERM)
        told = []
        for each in self._processes:
            said, _ = each.communicate(timeout=60)
            told.append(json.loads(said.splitlines()[-1]))
        for name in ("joins", "unsent", "interruptions"):
            self.figures[name] = sum(one[name] for one in told)
        self.errors = [one["error"] for one in told if one["error"]]

    def all_since(self, seen, began):
        """Whether experience of each of them was let in since then."""
        return self._names <= {client for at, _, client in seen if at > began}


class Member:
    """A seat in the crowd: a client that joins, sends, leaves, and joins again for another life."""

    def __init__(self, config, number, ledgers, rng):
        self.name = f"crowd-{number}"
        self.joins = self.interruptions = 0
        self.wire = None
        self._server = server_for("client", config.redis)
        self._run = config.run.name
        self._number, self._ledgers, self._rng = number, ledgers, rng
        self._due = time.monotonic() + rng.uniform(0.0, 2.0)
        self._end = 0.0
        self._failures = 0
        self._doubt = []

    def act(self, now, order, *, leaving=False):
        """Do what is due, if anything is."""
        if now < self._due or (leaving and self.wire is None):
            return
        try:
            if self.wire is None:
                self._join(now)
            elif leaving and not self._doubt:
                self.leave()
            else:
                self._send(now, order)
        except WireError as error:
            if isinstance(error, AccessDenied):
                raise
            self.interruptions += 1
            self._failures += 1
            self._due = now + self._rng.uniform(0.0, min(2.0, 0.1 * 2**self._failures))
            if not self.joins or self._position is None:
                self.leave()

    def leave(self):
        """Go, and come back soon."""
        if self.wire is not None:
            self.wire.close()
        self.wire = None
        self._due = time.monotonic() + self._rng.uniform(0.0, 1.0)

    def _join(self, now):
        self.joins += 1
        self._position = None
        self._steps = self._episode = 0
        wire = connect_client(self._server, self._run, self.name)
        path = self._ledgers / f"{self.name}-{self.joins}.jsonl"
        self.wire = RecordingWire(wire, self.name, path)
        self._spec = self.wire.spec()
        hello = Hello(self._spec.run, PROTOCOL, "crowd", "stamped", 1, self._spec.crc)
        self._position = self.wire.hello(hello)
        self._end = now + self._rng.expovariate(1 / MEAN_LIFE)
        self._due = now + self._rng.uniform(0.0, 1.0)
        self._failures = 0

    def _send(self, now, order):
        if self._doubt:
            self.wire.push(self._doubt, retry=True)
        else:
            self._position = Position(self._position.epoch, self._position.seq + 1)
            self._doubt = [(self._position, self._entry(order))]
            self.wire.push(self._doubt)
        self._doubt, self._failures = [], 0
        self._due = now + 1.0
        if now > self._end:
            self.leave()

    def _entry(self, order):
        """Return an episode of one fragment, its summary, and how we are."""
        generation, version = order
        stamps = np.zeros((STEPS + 1, 4), np.float32)
        stamps[:, 0] = self._number * SEATS
        stamps[:, 1] = self.joins
        stamps[:, 2] = self._episode * (STEPS + 1) + np.arange(STEPS + 1)
        fragment = Fragment(
            self.name, self._position.epoch, self._episode, 0, self._steps, generation, version,
            dict.fromkeys(self._spec.spec.obs, stamps), self._actions(),
            np.zeros(STEPS, np.float32), terminated=True, truncated=False, epsilon=1.0,
        )  # fmt: skip
        episode = Episode(generation, version, self._episode, 0.0, STEPS, 1.0, True, False, 1.0)
        self._episode += 1
        self._steps += STEPS
        heartbeat = Heartbeat(self._steps, self._episode, 0, 0, version)
        return pack([encode_message(m, self._spec) for m in (fragment, episode, heartbeat)])

    def _actions(self):
        """Return random actions, as we say they are: who claims a policy must follow it."""
        return np.array([self._rng.randrange(2) for _ in range(STEPS)], np.uint8)


def play(config, members, stopped):
    """Let members act until told to stop, and then until each has sent what it has begun."""
    with connect.client(config, None) as wire:
        order, look = (0, 0), 0.0
        deadline = None
        while deadline is None or (time.monotonic() < deadline and any(m.wire for m in members)):
            now = time.monotonic()
            if stopped() and deadline is None:
                deadline = now + LEAVING_SECONDS
            if now >= look:
                look = now + 1.0
                with suppress(Unreachable):
                    pointer = wire.pointer()
                    order = pointer.order if pointer is not None else order
            for member in members:
                member.act(now, order, leaving=deadline is not None)
            time.sleep(0.005)


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("settings", type=Path)
    parser.add_argument("--first", type=int, required=True)
    parser.add_argument("--count", type=int, required=True)
    parser.add_argument("--ledgers", type=Path, required=True)
    given = parser.parse_args()
    config = load(given.settings, {}, [])
    rng = random.Random(given.first)
    numbers = range(given.first, given.first + given.count)
    members = [Member(config, number, given.ledgers, rng) for number in numbers]
    error = ""
    with process.StopSignal() as stop:
        try:
            play(config, members, stop)
        except Exception as raised:
            error = repr(raised)
    told = {"joins": sum(m.joins for m in members), "error": error,
            "unsent": sum(m.wire is not None for m in members),
            "interruptions": sum(m.interruptions for m in members)}  # fmt: skip
    print(json.dumps(told))


if __name__ == "__main__":
    main()
