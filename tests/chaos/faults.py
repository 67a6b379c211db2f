"""What may go wrong, when, and for how long: drawn from a seed, and so repeatable."""

import os
import random
import signal
import time
from dataclasses import dataclass

from .stage import LEARNER, TELEMETRY

# What is drawn how often: each kind, and the seconds that it lasts at least and at most.
KINDS = {
    "kill learner": (4, 0.0, 0.0),
    "kill learner while saving": (2, 0.0, 0.0),
    "kill redis": (4, 0.0, 0.0),
    "kill client": (4, 0.0, 0.0),
    "kill telemetry": (2, 0.0, 0.0),
    "pause learner": (2, 0.5, 3.0),
    "pause redis": (2, 0.5, 7.0),  # calls give up after five seconds
    "pause client": (2, 0.5, 4.0),
    "cut learner": (2, 0.5, 4.0),
    "cut client": (2, 0.5, 7.0),
    "cut telemetry": (1, 0.5, 4.0),
    "kill redis while cut": (2, 1.0, 3.0),  # half-open connections
    "second learner": (1, 0.0, 0.0),
    "rewind redis": (2, 0.5, 2.0),  # killed, and its file lacks the last seconds
}
LEARNER_KILLS = ("kill learner", "kill learner while saving")
APART_SECONDS = 31.0  # in which no child is killed thrice: the product takes that for a loop
SAVING_SECONDS = 4.0  # that we wait for a checkpoint to begin


@dataclass
class Fault:
    """One fault: planned, then done."""

    kind: str
    at: float  # seconds since the beginning
    seconds: float
    client: int = 0  # which, counted from zero
    written: tuple = ()  # the server's file and its size, when the fault began
    began: float = 0.0  # seconds since the epoch
    ended: float = 0.0


def plan(seed, count, seconds, clients, kinds=tuple(KINDS)):
    """Return faults at random moments of some seconds, each short against the time to the next."""
    rng = random.Random(seed)
    room = seconds / count
    faults = []
    for number in range(count):
        at = room * (number + 0.5 * rng.random())
        kind = rng.choices(kinds, [KINDS[kind][0] for kind in kinds])[0]
        while _too_often(faults, kind, at):
            kind = rng.choice([other for other in kinds if not other.startswith("kill")] or kinds)
        _, least, most = KINDS[kind]
        lasts = min(rng.uniform(least, most), 0.5 * room)
        faults.append(Fault(kind, at, lasts, rng.randrange(clients)))
    return faults


def _too_often(faults, kind, at):
    """Whether a kill would look like a crash loop, which the product rightly gives up on."""
    if not kind.startswith("kill"):
        return kind == "second learner" and any(fault.kind == kind for fault in faults)
    victim = kind.split()[1]
    before = [f for f in faults if f.kind.startswith("kill") and f.kind.split()[1] == victim]
    return len([f for f in before if at - f.at < APART_SECONDS + 4 * SAVING_SECONDS]) >= 2


class Nemesis:
    """Carries faults out, one after the other."""

    def __init__(self, stage):
        self._stage = stage
        self._armed = 0.0

    def begin(self, fault):
        """Begin a fault, if it can be now; return whether it has begun."""
        what, _, victim = fault.kind.partition(" ")
        if fault.kind == "kill learner while saving" and not self._is_saving():
            return False
        fault.began = time.time()
        if fault.kind == "kill redis while cut":
            self._cut_all()
            self._restart_broker()
        elif fault.kind == "second learner":
            self._stage.learner.double()
        elif fault.kind == "rewind redis":
            fault.written = self._stage.broker.written()
        elif victim == "redis":
            self._broker(what)
        else:
            self._person(what, victim.split()[0], fault)
        return True

    def end(self, fault):
        """End a fault that lasts; return whether it is over."""
        what, _, victim = fault.kind.partition(" ")
        if fault.kind == "kill redis while cut":
            for child in self._stage.everybody:
                self._stage.links.heal(child.name)
        elif fault.kind == "pause redis":
            self._stage.broker.signal(signal.SIGCONT)
        elif fault.kind == "rewind redis":
            self._stage.broker.kill()
            os.truncate(*fault.written)
            self._stage.broker.start()
        elif fault.kind == "second learner":
            if self._stage.learner.replaced() is None:
                return False
        elif victim != "redis":
            child = self._child(victim.split()[0], fault)
            if what == "kill" and child.state != "running":
                return False
            if what == "pause":
                child.go_on()
            if what == "cut":
                self._stage.links.heal(child.name)
        fault.ended = time.time()
        return True

    def _is_saving(self):
        """Whether the learner is writing a checkpoint just now; after a while, say so anyhow."""
        now = time.monotonic()
        self._armed = self._armed or now
        folder = self._stage.run_folder
        found = folder is not None and any((folder / "checkpoints").glob(".writing-*"))
        if not found and now - self._armed < SAVING_SECONDS:
            return False
        self._armed = 0.0
        return True

    def _broker(self, what):
        if what == "pause":
            self._stage.broker.signal(signal.SIGSTOP)
        else:
            self._restart_broker()

    def _restart_broker(self):
        self._stage.broker.kill()
        self._stage.broker.start()

    def _cut_all(self):
        for child in self._stage.everybody:
            self._stage.links.cut(child.name)

    def _person(self, what, victim, fault):
        child = self._child(victim, fault)
        if what == "kill":
            child.kill_now()
        elif what == "pause":
            child.pause()
        else:
            self._stage.links.cut(child.name)

    def _child(self, victim, fault):
        stage = self._stage
        named = {LEARNER: stage.learner, TELEMETRY: stage.telemetry}
        return named[victim] if victim in named else stage.clients[fault.client]
