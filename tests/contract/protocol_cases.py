"""The protocol between clients and training nodes as a machine that Hypothesis drives.

Wires, admission, checkpoints, saver and the check of the generation are the real ones, on a real
server; only learning is a list of names. Whatever happens, no step is learnt twice, and what was
acknowledged is learnt or, if the server lost it, accounted for.
"""

import contextlib
import itertools
import tempfile
from functools import partial
from pathlib import Path
from types import SimpleNamespace

import numpy as np
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, precondition, rule

from soulsai.config.schema import CheckpointSettings
from soulsai.errors import Superseded, WireError
from soulsai.training_node.admission import Admission
from soulsai.training_node.retrying_wire import RetryingWire
from soulsai.training_node.saving import snapshot
from soulsai.training_node.saving.run_folder import RunFolder
from soulsai.training_node.saving.saver import Saver
from soulsai.training_node.saving.snapshot import Progress
from soulsai.training_node.start import check_generation
from soulsai.types import PROTOCOL, Fragment, Hello
from soulsai.wire.codec import decode_entry, encode_message, pack
from soulsai.wire.protocols import START, Position
from soulsai.wire.redis.roles import connect_client, connect_training
from tests.contract.wire_cases import PROGRAM, access, run_spec

NAMES = ("a", "b")
NOW = 4e9  # seconds; no epoch is ahead of that
_runs = itertools.count()


class Ledger:
    """What was learnt: the names of steps, in order, and how many were counted as lost."""

    def __init__(self):
        self.names = []

    def state_dict(self):
        return {"names": list(self.names)}

    def load_state_dict(self, state_dict):
        self.names = [tuple(name) for name in state_dict["names"]]


class Learner:
    """One training node's life."""

    def __init__(self, machine):
        self.machine = machine
        self.wire = connect_training(access(machine.server, "training_node"), machine.run)
        self.ledger = Ledger()
        folder = RunFolder(machine.folder)
        folder.tidy()
        self.progress = Progress("run-1")
        if any(machine.folder.glob("checkpoints/0*")):
            self.progress = snapshot.restore(folder.newest()[0], {"ledger": self.ledger})
        generation = self.wire.open(machine.spec, PROGRAM, fresh=False)
        while generation <= self.progress.generation:
            generation = self.wire.open(machine.spec, PROGRAM, fresh=False)
        self.progress.generation = generation
        run = SimpleNamespace(progress=self.progress, spec=machine.spec, program=PROGRAM)
        retrying = RetryingWire(self.wire, lambda: 0.0)
        self.check = partial(check_generation, run, retrying, lambda: None)
        parts = {"ledger": self.ledger}
        self.saver = Saver(
            folder, CheckpointSettings(keep=2), self.progress, parts, lambda: b"",
            clock=lambda: 0.0, took=lambda _: None,
        )  # fmt: skip
        self.admission = Admission(
            machine.spec, PROGRAM.head, lambda entry: decode_entry(entry, machine.spec),
            marks=self.progress.marks, newest=(10**6, 10**6), now=lambda: NOW,
        )  # fmt: skip

    def read(self):
        """Learn from what is new; return how many entries that were."""
        names = self.wire.clients()
        entries = self.wire.read({n: self.admission.position(n) for n in names}, 0.0)
        for entry in entries:
            arrival = self.admission.admit(entry)
            # Two lives within a millisecond: the first hello of the second one is said in vain.
            refused = [reason for reason, _ in arrival.refusals if reason != "hello"]
            assert not refused, f"refused: {refused}"
            self.progress.marks[arrival.client] = arrival.mark
            self.progress.lost += arrival.lost
            for fragment in arrival.fragments:
                self.progress.env_steps += 1
                self.ledger.names.append((arrival.client, int(fragment.reward[0])))
        return len(entries)

    def checkpoint(self, crash):
        """Save everything, then let go of what it covers, unless it dies in between."""
        self.check()
        self.saver.final()
        if not crash:
            self.trim()

    def trim(self):
        self.check()
        self.wire.trim(self.saver.durable)

    def close(self):
        self.wire.close()


class Client:
    """One client: steps with names, and an outbox of what is not yet acknowledged."""

    def __init__(self, machine, name):
        self.machine, self.name = machine, name
        self.wire = connect_client(access(machine.server, "client"), machine.run, name)
        self.named = 0
        self.position = START
        self.greet()

    def greet(self):
        """Begin a life."""
        spec = self.machine.spec
        self.outbox = []  # (position, data, names)
        self.clock = 0
        before = self.position.epoch
        while self.position.epoch <= before:  # a server that forgot us may do so in a millisecond
            self.position = self.wire.hello(Hello("run-1", PROTOCOL, "t", "e", 1, spec.crc))

    def play(self, steps):
        self.position = Position(self.position.epoch, self.position.seq + 1)
        messages, names = [], []
        for _ in range(steps):
            fragment = Fragment(
                client=self.name, epoch=0, episode=self.clock, start=0, clock=self.clock,
                generation=1, version=1, obs={"obs": np.zeros((2, 8), "f4")},
                action=np.zeros(1, "u1"), reward=np.array([self.named], "f4"),
                terminated=True, truncated=False,
            )  # fmt: skip
            messages.append(encode_message(fragment, self.machine.spec))
            names.append((self.name, self.named))
            self.clock += 1
            self.named += 1
        self.outbox.append((self.position, pack(messages), names))

    def send(self, acknowledged):
        """Push all that waits; without the acknowledgement it waits on."""
        with contextlib.suppress(WireError):
            self.push([(position, data) for position, data, _ in self.outbox])
        if acknowledged:
            for _, _, names in self.outbox:
                self.machine.acked.update(names)
            self.outbox = []

    def push(self, entries):
        self.wire.push(entries, retry=True)


class Protocol(RuleBasedStateMachine):
    """Clients play, send, resend and die; learners learn, save, die and are superseded."""

    server = None  # set by the test
    Learner, Client = Learner, Client

    def __init__(self):
        super().__init__()
        self.run = f"protocol{next(_runs)}"
        self.spec = run_spec("run-1")
        self._folder = tempfile.TemporaryDirectory()
        self.folder = Path(self._folder.name)
        self.acked, self.excused = set(), set()
        self.learner = self.zombie = None
        self.clients = {}

    @initialize()
    def begin(self):
        self.learner = self.Learner(self)
        self.clients = {name: self.Client(self, name) for name in NAMES}

    @rule(name=st.sampled_from(NAMES), steps=st.integers(1, 3))
    def play(self, name, steps):
        self.clients[name].play(steps)

    @rule(name=st.sampled_from(NAMES), acknowledged=st.booleans())
    def send(self, name, acknowledged):
        self.clients[name].send(acknowledged)

    @rule(name=st.sampled_from(NAMES))
    def client_dies(self, name):
        self.clients[name].greet()

    @rule()
    def learn(self):
        self.learner.read()

    @rule(crash=st.booleans())
    def save(self, crash):
        self.learner.checkpoint(crash)
        if crash:
            self.learner_dies()

    @rule()
    def learner_dies(self):
        self.learner.close()
        self.learner = self.Learner(self)

    @precondition(lambda self: self.zombie is None)
    @rule()
    def second_learner(self):
        self.zombie, self.learner = self.learner, self.Learner(self)

    @precondition(lambda self: self.zombie is not None)
    @rule()
    def older_learner_goes_on(self):
        try:
            self.zombie.read()
            self.zombie.checkpoint(crash=False)
        except Superseded:
            self.zombie.close()
            self.zombie = None

    @rule()
    def server_loses_everything(self):
        durable = Ledger()
        newest = sorted(self.folder.glob("checkpoints/0*"))
        if newest:
            snapshot.restore(newest[-1], {"ledger": durable})
        self.excused |= self.acked - set(durable.names)
        self.learner.wire._remove("*")
        self.learner.check()

    def teardown(self):
        try:
            if self.learner is not None:
                while self.learner.read():
                    pass
                self.check()
        finally:
            for one in (self.learner, self.zombie):
                if one is not None:
                    one.wire._remove("*")
                    one.close()
            for client in self.clients.values():
                client.wire.close()
            self._folder.cleanup()

    def check(self):
        names = self.learner.ledger.names
        assert len(names) == len(set(names)), f"learnt twice: {names}"
        missing = self.acked - set(names) - self.excused
        assert not missing, f"acknowledged and lost: {missing}"
        for name, mark in self.learner.progress.marks.items():
            client = self.clients[name]
            if mark.position == client.position:  # all of this life has come, or is counted
                assert mark.clock == client.clock, "counted other than played"
        assert self.learner.progress.env_steps == len(names), "counted other than learnt"


class Overtaking(Protocol):
    """The same, and a learner may also be superseded at the worst moment."""

    @precondition(lambda self: self.zombie is None)
    @rule()
    def second_learner_between_look_and_trim(self):
        older = self.learner
        older.checkpoint(crash=True)
        older.check()
        self.zombie, self.learner = older, self.Learner(self)
        older.wire.trim(older.saver.durable)
