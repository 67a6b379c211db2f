"""What clients were told is stored, what the learner has counted, and how the two differ.

The clients' side is written by the client processes themselves, around the call that appends to
their stream: what is to be sent before it, that it was acknowledged after it. The learner's side is
the replay of a checkpoint, in which every transition carries its stamp: what was learnt from, and
not a counter that a fault could spoil in the same way as the thing it counts. PPO has no replay: a
witness notes the stamps of what it was given and of its batches, and is saved with it.
"""

import json
import os
import time
from dataclasses import dataclass, field

import numpy as np

from soulsai.training_node.saving import atomic_folders, state_file
from soulsai.types import Fragment
from soulsai.wire.codec import decode_entry
from soulsai.wire.protocols import Entry

from .stamps import names
from .witness import NAME as WITNESS
from .witness import joined

NONE = np.zeros(0, np.int64)
PROGRESS = "progress.json"
REPLAY = "replay"


class RecordingWire:
    """A client's wire that keeps a ledger; everything but ``push`` is the wire's own."""

    def __init__(self, wire, client, path):
        self._wire = wire
        self._client = client
        # One write per line: what the kernel has got survives our death.
        self._file = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
        self._spec = None

    def __getattr__(self, name):
        return getattr(self._wire, name)

    def spec(self):
        self._spec = self._wire.spec()
        return self._spec

    def push(self, entries, retry=False):
        """Append entries, and note what is in them before, and that it is stored after."""
        seqs = [[*position] for position, _ in entries]
        self._note("sent", [self._ranges(*entry) for entry in entries], seqs)
        began = time.monotonic()
        self._wire.push(entries, retry)
        self._note("acked", [], seqs, time.monotonic() - began)

    def weights(self, pointer, program):
        """Fetch weights, and note how long that took."""
        began = time.monotonic()
        weights = self._wire.weights(pointer, program)
        self._note("weights", [], [], time.monotonic() - began)
        return weights

    def _ranges(self, position, data):
        """Return the steps in one entry: name of the first, and how many follow one another."""
        ranges = []
        for message in decode_entry(Entry(self._client, position, data), self._spec):
            if isinstance(message, Fragment):
                (stamps,) = message.obs.values()
                found = names(stamps[:-1])
                if (np.diff(found) != 1).any():
                    raise ValueError(f"the steps of a fragment do not follow one another: {found}")
                ranges.append([int(found[0]), len(found)])
        return ranges

    def _note(self, what, ranges, seqs, seconds=0.0):
        line = json.dumps({"is": what, "steps": ranges, "entries": seqs, "seconds": seconds})
        os.write(self._file, line.encode() + b"\n")


@dataclass
class Claims:
    """What all clients have sent, and what of it was acknowledged, by name of step."""

    sent: np.ndarray = field(default_factory=lambda: NONE)
    acked: np.ndarray = field(default_factory=lambda: NONE)
    entries: int = 0  # acknowledged


def read(paths):
    """Return what ledgers say; a last line that was cut short by a kill was not written."""
    sent, acked, entries = [], [], 0
    for path in paths:
        pending = {}
        for what, steps, places in _notes(path):
            if what == "sent":
                pending |= dict(zip(places, steps, strict=True))
                sent += [each for ranges in steps for each in ranges]
            elif what == "acked":
                acked += [each for place in places for each in pending[place]]
                entries += len(places)
    return Claims(_names(sent), _names(acked), entries)


def _notes(path):
    """Yield the kind, the steps and the positions of each whole line of a ledger."""
    for line in path.read_bytes().splitlines():
        try:
            note = json.loads(line)
        except ValueError:
            continue
        yield note["is"], note["steps"], [tuple(entry) for entry in note["entries"]]


def repeated(paths):
    """Return how many entries were sent again after they were acknowledged."""
    again = 0
    for path in paths:
        acked = set()
        for what, _, places in _notes(path):
            again += len(acked & set(places)) if what == "sent" else 0
            acked |= set(places) if what == "acked" else set()
    return again


def acknowledged_after(paths, position):
    """Return how many env steps were acknowledged in entries after a position."""
    sent, acked = {}, set()
    for path in paths:
        for what, steps, places in _notes(path):
            if what == "sent":
                sent |= dict(zip(places, steps, strict=True))
            elif what == "acked":
                acked |= set(places)
    later = [sent[place] for place in acked if place > position]
    return sum(count for ranges in later for _, count in ranges)


def durations(paths, what):
    """Return how many seconds each push (``"acked"``) or fetch of ``"weights"`` took."""
    notes = (json.loads(line) for path in paths for line in path.read_bytes().splitlines())
    return [note["seconds"] for note in notes if note["is"] == what]


def _names(ranges):
    """Return every step of some ranges, each once, in order."""
    parts = [np.arange(first, first + count, dtype=np.int64) for first, count in ranges]
    return np.unique(np.concatenate(parts)) if parts else NONE


@dataclass(frozen=True)
class Account:
    """What a checkpoint says about the steps that its learner was given."""

    held: np.ndarray  # the names of all steps that it holds or has learnt from, in order
    progress: dict
    unaccounted: int = 0  # steps that were given, and neither learnt, nor dropped, nor wait


def counted(checkpoint):
    """Return the account of a checkpoint, which must be whole."""
    if fault := atomic_folders.damage(checkpoint):
        raise ValueError(f"{checkpoint}: {fault}")
    progress = json.loads(atomic_folders.read(checkpoint, PROGRESS))
    parts = {
        path.stem: state_file.decode(path.read_bytes()) for path in checkpoint.glob("*.safetensors")
    }
    if WITNESS in parts:
        given = np.sort(parts[WITNESS]["given"])
        return Account(given, progress, unaccounted(parts[WITNESS], parts["batches"]))
    ring = parts[REPLAY]["ring"]
    (stamps,) = (rows for name, rows in ring["columns"].items() if name.startswith("obs."))
    if ring["added"] != len(stamps):
        raise ValueError(f"{checkpoint}: its replay is too small to be a ledger")
    return Account(np.sort(names(stamps)), progress)


def unaccounted(witness, batches):
    """Return how many steps differ between what PPO was given and where it says that they are.

    Each step was learnt from once, or waits for its batch, or is counted as dropped.
    """
    waiting = [names(stamps[:-1]) for f in batches["waiting"] for stamps in f["obs"].values()]
    placed = joined([witness["learnt"], *waiting])
    once = np.unique(placed)
    rest = np.setdiff1d(witness["given"], once)
    dropped = sum(batches["dropped"][kind] for kind in ("stale", "overflow", "greedy"))
    never_given = np.setdiff1d(once, witness["given"])
    return len(placed) - len(once) + abs(len(rest) - dropped) + len(never_given)


@dataclass(frozen=True)
class Verdict:
    """How the two sides differ, in env steps."""

    accepted: int  # steps that the learner holds
    acked: int  # steps of which a client knows that they are stored
    acked_lost: int  # those that the learner does not hold
    missing: int  # steps that were sent at least once, acknowledged or not, and are not held
    double_counted: int  # held more than once
    never_sent: int  # held, though no client sent it
    miscounted: int  # difference between what is held and the learner's own counter


def compare(claims, held, env_steps):
    """Return how what clients claim differs from what a learner holds."""
    once = np.unique(held)
    return Verdict(
        accepted=len(once),
        acked=len(claims.acked),
        acked_lost=len(np.setdiff1d(claims.acked, once, assume_unique=True)),
        missing=len(np.setdiff1d(claims.sent, once, assume_unique=True)),
        double_counted=len(held) - len(once),
        never_sent=len(np.setdiff1d(once, claims.sent, assume_unique=True)),
        miscounted=abs(len(held) - env_steps),
    )
