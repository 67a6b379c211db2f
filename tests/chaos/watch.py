"""What can be seen of a run from outside: when experience is let in, and what is on disk."""

import statistics
import subprocess
import sys
import time
from collections import defaultdict
from itertools import pairwise

from soulsai import connect
from soulsai.errors import WireError
from soulsai.training_node.saving import atomic_folders

from .beside import Beside
from .ledger import counted

LOOK_SECONDS = 0.2
WINDOW = 10.0  # seconds in which there must be progress
ENOUGH = 100  # env steps: so much
QUIET = 1.3  # seconds that it takes to import torch, on the reference machine


class Watch(Beside):
    """A thread that listens as the telemetry node does, and reads every checkpoint once.

    The training node stamps each episode with the time at which it let it in, and with the env
    steps let in before: that is when it worked, in its own words, to the hundredth of a second.
    """

    def __init__(self, stage, *, read_checkpoints=True):
        super().__init__(self._listen, self._inspect)
        self.seen = []  # (seconds since the epoch, env steps, client) of each episode let in
        self.statuses = []  # (seconds since the epoch, Status), as they change
        self.whole = {}  # checkpoints that could be loaded: name -> env steps
        self.broken = {}  # and those that could not: name -> why
        self.doubled = 0  # steps that are in a checkpoint more than once
        self.unaccounted = 0  # steps of which a checkpoint does not say where they are
        self._stage = stage
        self._read_checkpoints = read_checkpoints

    @property
    def status(self):
        """The newest status seen, if any."""
        return self.statuses[-1][1] if self.statuses else None

    def _listen(self):
        with connect.telemetry(self._stage.config()) as wire:
            after = "0-0"
            while not self.stop.is_set():
                try:
                    for id, episode in wire.episodes(after, LOOK_SECONDS):
                        after = id
                        self.seen.append((episode.time, episode.env_steps, episode.client))
                    status = wire.status()
                except WireError:
                    self.stop.wait(LOOK_SECONDS)
                    continue
                if status is not None and status != self.status:
                    self.statuses.append((time.time(), status))

    def _inspect(self):
        while not self.stop.wait(LOOK_SECONDS):
            folder = self._stage.run_folder
            if folder is not None and self._read_checkpoints:
                for path in atomic_folders.numbered(folder / "checkpoints"):
                    if path.name not in self.whole and path.name not in self.broken:
                        self.inspect(path)

    def inspect(self, path):
        """Load a checkpoint, and note what is wrong with it."""
        try:
            account = counted(path)
        except Exception as error:
            if path.exists():  # and was not removed, to keep only the newest
                self.broken[path.name] = str(error)
            return
        held = account.held.tolist()
        self.doubled = max(self.doubled, len(held) - len(set(held)))
        self.unaccounted = max(self.unaccounted, account.unaccounted)
        self.whole[path.name] = account.progress["env_steps"]


class Yardstick(Beside):
    """Measures, now and then, what takes most of a learner's restart: to import torch."""

    PAUSE = 20.0

    def __init__(self):
        super().__init__(self._measure)
        self._seconds = []

    @property
    def slow(self):
        """How many times slower than the reference this machine was, as the median of all."""
        return statistics.median(self._seconds)

    def _measure(self):
        while not self.stop.is_set():
            self._seconds.append(slowness())
            self.stop.wait(self.PAUSE)


def slowness():
    """Return how much slower than the reference this machine is now; 1 is the least.

    All bars in seconds are for a machine that does nothing else, and follow this.
    """
    began = time.monotonic()
    subprocess.run([sys.executable, "-c", "import torch"], check=True)
    return round(max(1.0, (time.monotonic() - began) / QUIET), 2)


def gap(seen, begin, *, client=None):
    """Return the seconds from ``begin`` until the first experience let in after it."""
    later = [at for at, _, who in seen if at > begin and client in (None, who)]
    return min(later) - begin if later else None


def rate(seen, begin, end):
    """Return the env steps let in per second between the first and the last episode in between."""
    inside = sorted((at, steps) for at, steps, _ in seen if begin <= at <= end)
    (first, before), (last, after) = inside[0], inside[-1]
    return (after - before) / (last - first)


def windows(seen, live, begin, end, width=WINDOW):
    """Return the env steps let in within each window without a fault, of those that touch.

    ``live`` are the intervals in which a fault was; after each, windows begin anew. Steps that
    are let in once more, after a learner went back to its checkpoint, are progress too.
    """
    steps = defaultdict(int)
    ordered = sorted(seen)
    for (_, before, _), (at, now, _) in pairwise(ordered):
        steps[at] += max(0, now - before)
    found = []
    start = begin
    for fault_begin, fault_end in [*sorted(live), (end, end)]:
        while start + width <= fault_begin:
            found.append(sum(n for at, n in steps.items() if start <= at < start + width))
            start += width
        start = max(start, fault_end)
    return found
