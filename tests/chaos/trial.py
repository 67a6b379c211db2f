"""One fault at a time, done thoroughly: what is lost, and how long it takes to recover."""

import time
from contextlib import contextmanager
from dataclasses import dataclass, field

from .program import Result, ready, reckon, settle
from .stage import Stage
from .watch import Watch, gap, slowness

PATIENCE = 90.0


class Impossible(Exception):
    """This machine cannot do what a trial needs."""


@dataclass
class Row:
    """What a trial found: a row of the table of faults, and which promises were broken."""

    fault: str
    lost: str = ""
    seconds: float | None = None  # to recover
    figures: dict = field(default_factory=dict)
    broken: list = field(default_factory=list)
    slow: float = 1.0  # how many times slower than the reference this machine was

    def must(self, what, holds):
        """Note that a promise was broken, unless it holds."""
        if not holds:
            self.broken.append(what)

    def within(self, what, seconds, limit):
        """Note that a promise was broken, if something took longer than that."""
        limit *= self.slow
        self.must(f"{what} after {seconds:.1f} s, not below {limit:.1f}", seconds < limit)


class Trial:
    """A stage with its watch; at the end everybody is let go, and the ledgers are compared."""

    def __init__(self, stage, watch, row):
        self.stage, self.watch, self.row = stage, watch, row

    def begin(self):
        """Start everybody, and wait until they play."""
        self.stage.start()
        ready(self.stage, self.watch)

    def wait(self, seconds):
        """Let so much time pass."""
        self.until("nothing", lambda: False, seconds, must=False)

    def until(self, what, holds, seconds=PATIENCE, *, must=True):
        """Wait until something holds; return how many seconds that took."""
        began = time.monotonic()
        while not holds():
            self.stage.tend()
            if time.monotonic() - began > seconds:
                if must:
                    raise TimeoutError(f"{what}, {self.watch.status}, {self.stage.over}")
                break
            time.sleep(0.02)
        return time.monotonic() - began

    def recovered(self, since, client=None):
        """Wait until experience comes in again; note, and return, after how many seconds."""
        self.until("experience", lambda: gap(self.watch.seen, since, client=client) is not None)
        seconds = round(gap(self.watch.seen, since, client=client), 2)
        self.row.seconds = max(seconds, self.row.seconds or 0.0)
        return seconds

    def end(self):
        """Let everybody go; return how the ledgers differ, and the learner's last progress."""
        result = Result(0, self.stage.links.kind)
        settle(self.stage, self.watch, result)
        self.row.broken += result.notes
        verdict, progress = reckon(self.stage)
        self.row.must(f"double_counted = {verdict.double_counted}", not verdict.double_counted)
        self.row.must(f"never_sent = {verdict.never_sent}", not verdict.never_sent)
        self.row.must(f"miscounted = {verdict.miscounted}", not verdict.miscounted)
        self.row.must(f"unloadable {self.watch.broken}", not self.watch.broken)
        self.row.figures |= {"accepted": verdict.accepted, "acked": verdict.acked}
        return verdict, progress

    def end_whole(self):
        """The same, where nothing that was acknowledged may be lost."""
        verdict, progress = self.end()
        self.row.must(f"acked_lost = {verdict.acked_lost}", not verdict.acked_lost)
        self.row.lost = "nothing" if not verdict.missing else f"{verdict.missing} env steps"
        return verdict, progress


@contextmanager
def trial(folder, links, fault, **stage):
    """Give a trial of a fault on a stage of its own."""
    row = Row(fault, slow=slowness())
    with Stage(folder, links, **stage) as made, Watch(made) as watch:
        yield Trial(made, watch, row)
