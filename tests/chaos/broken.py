"""The product with a witness, or with a bug of our choice, to see whether the ledger finds it.

``python -m tests.chaos.broken`` takes the place of ``python -m soulsai``, and the variable
``CHAOS_BUG`` says which bug it is to have; a player looks at it, too.
"""

import json
import os
import time

from soulsai.wire.client_role import ClientRole
from soulsai.wire.protocols import Position
from soulsai.wire.training_role import TrainingRole

from . import witness
from .stage import BUG


def early_trim():
    """Entries are deleted when they are read, and not when a checkpoint covers them."""
    read = TrainingRole.read

    def read_and_trim(self, after, timeout):
        entries = read(self, after, timeout)
        self.trim({entry.client: entry.position for entry in entries})
        return entries

    TrainingRole.read = read_and_trim


def early_positions():
    """A checkpoint holds newer experience than its positions say."""
    from soulsai.training_node.saving import snapshot

    files = snapshot.files
    before = []

    def stale(progress, parts, policy, *, replay):
        marks, progress.marks = progress.marks, before[-1] if before else {}
        before.append(dict(marks))
        try:
            return files(progress, parts, policy, replay=replay)
        finally:
            progress.marks = marks

    snapshot.files = stale
    TrainingRole.trim = lambda self, upto: {}


def torn_checkpoints():
    """A checkpoint is written where it will be, one file after the other."""

    from soulsai.training_node.saving import atomic_folders

    def write(target, files):
        target.mkdir(parents=True)
        manifest = {}
        for name, content in files.items():
            size, sha256 = atomic_folders._write(target / name, content)
            manifest[name] = {"size": size, "sha256": sha256}
            time.sleep(0.1)
        (target / atomic_folders.MANIFEST).write_text(json.dumps(manifest))
        return target

    atomic_folders._write_aside = write
    atomic_folders._rename = lambda aside, target: None


def renumbered():
    """What a client is not sure to have sent, it sends again under other numbers."""
    push = ClientRole.push
    ahead = [0]

    def push_anew(self, entries, retry=False):
        ahead[0] += len(entries) if retry else 0
        moved = [(Position(p.epoch, p.seq + ahead[0]), data) for p, data in entries]
        push(self, moved)

    ClientRole.push = push_anew


def forgetful():
    """A client forgets what the server has acknowledged."""
    from soulsai.client.unconfirmed import UnconfirmedEntries

    UnconfirmedEntries.add = lambda self, entries: None


def unfinished_batch():
    """A checkpoint of PPO lacks the fragments that wait for a whole batch."""
    from soulsai.algorithms.ppo.batches import Batches

    state_dict = Batches.state_dict
    Batches.state_dict = lambda self: {**state_dict(self), "waiting": []}


BUGS = {
    bug.__name__: bug
    for bug in (
        early_trim,
        early_positions,
        torn_checkpoints,
        renumbered,
        forgetful,
        unfinished_batch,
    )
}


def seed():
    """Put in the bug that the variable names, if it names one."""
    if os.environ.get(BUG):
        BUGS[os.environ[BUG]]()


if __name__ == "__main__":
    from soulsai.__main__ import main

    seed()
    witness.install()
    main()
