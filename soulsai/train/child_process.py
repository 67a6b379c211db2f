"""Child processes of a supervisor: one log each, and a rule for what follows when one ends."""

import os
import signal
import subprocess
import sys
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Literal

from msgspec import Struct

from soulsai.process import PARENT

LOOP_CRASHES = 3  # so many crashes
LOOP_SECONDS = 30.0  # within so many seconds are a loop
FORGIVEN_SECONDS = 60.0  # after so long a crash does not count any more
FIRST_DELAY = 0.25  # seconds before the first restart; doubled with each further one that counts
FINAL = (2, 3, 4)  # exit codes of settings, protocol and being superseded: trying again is wrong
TAIL_BYTES = 4096


class Verdict(Struct, frozen=True):
    """What follows when a child has ended: nothing more, a restart, or the end of everything."""

    then: Literal["done", "restart", "give up"]
    code: int = 0
    reason: str = ""
    delay: float = 0.0  # seconds until the restart


def judge(code: int, ends: Sequence[float], *, worked: bool) -> Verdict:
    """Decide what follows an exit; ``ends`` are this child's crashes, this one the last of them.

    ``worked`` says whether the child has ever been seen at its work: what fails from the start, in
    words of its own, fails again.
    """
    if code == 0:
        return Verdict("done")
    how = describe(code)
    if code in FINAL or (code == 1 and not worked):
        return Verdict("give up", code, how)
    recent = [end for end in ends if ends[-1] - end < LOOP_SECONDS]
    if len(recent) >= LOOP_CRASHES:
        how = f"{how}, {len(recent)} times within {LOOP_SECONDS:.0f} s"
        return Verdict("give up", code, how)
    counted = sum(ends[-1] - end < FORGIVEN_SECONDS for end in ends)
    return Verdict("restart", code, how, FIRST_DELAY * 2 ** (counted - 1))


def with_crash(ends: Sequence[float], now: float) -> list[float]:
    """Return the crashes that still count, and one that is now."""
    return [*(end for end in ends if now - end < FORGIVEN_SECONDS), now]


def describe(code: int) -> str:
    """Return an exit code in words."""
    if code >= 0:
        return f"ended with {code}"
    try:
        return f"was killed by {signal.Signals(-code).name}"
    except ValueError:
        return f"was killed by signal {-code}"


class Child:
    """One child process, over all its lives; ``words`` gives each life's command line."""

    def __init__(
        self,
        name: str,
        words: Callable[[int], Sequence[str]],
        log: Path,
        environ: Mapping[str, str],
    ) -> None:
        self.name = name
        self.log = log
        self.lives = 0
        self.state: Literal["running", "restarting", "done"] = "restarting"
        self.due = 0.0  # when the next life begins
        self.worked = False  # whether it has ever been seen at its work
        self.words = words
        self.environ = {**environ, PARENT: str(os.getpid())}
        self._process: subprocess.Popen[bytes] | None = None
        self._ends: list[float] = []

    def __repr__(self) -> str:
        return f"Child({self.name}, {self.state}, pid={self.pid}, lives={self.lives})"

    @property
    def pid(self) -> int | None:
        """The process id, while there is a process."""
        return self._process.pid if self._process is not None else None

    def start(self) -> None:
        """Begin a new life, in a session of its own: Ctrl-C reaches it through us only."""
        with self.log.open("ab") as log:
            self._process = subprocess.Popen(  # noqa: S603 - our own command line
                self.command_line(),
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                env=self.environ,
                start_new_session=True,
            )
        self.state = "running"
        self.lives += 1

    def command_line(self) -> list[str]:
        """Return the command of the next life."""
        return [sys.executable, "-m", "soulsai", *self.words(self.lives)]

    def poll(self, now: float) -> Verdict | None:
        """Return what follows if the child has just ended, and remember it."""
        if self._process is None:
            return None
        code = self._process.poll()
        if code is None:
            return None
        self._sweep(self._process)
        self._process = None
        self._ends = with_crash(self._ends, now)
        verdict = judge(code, self._ends, worked=self.worked)
        self.state = "restarting" if verdict.then == "restart" else "done"
        self.due = now + verdict.delay
        return verdict

    def send(self, number: int) -> None:
        """Send a signal, if there is a process to get it."""
        if self._process is not None:
            self._process.send_signal(number)

    def wait(self, timeout: float) -> bool:
        """Wait until the process has ended; return whether it has."""
        if self._process is None:
            return True
        try:
            self._process.wait(max(0.0, timeout))
        except subprocess.TimeoutExpired:
            return False
        self._process = None
        self.state = "done"
        return True

    def kill(self) -> None:
        """End the process and all that it started in its session, now."""
        if self._process is None:
            return
        self._sweep(self._process)
        self.wait(5.0)

    def _sweep(self, process: subprocess.Popen[bytes]) -> None:
        # What it has started, a game perhaps, is in its group and must not stay behind.
        with suppress(ProcessLookupError, PermissionError):
            os.killpg(process.pid, signal.SIGKILL)

    def tail(self, lines: int = 12) -> list[str]:
        """Return the last lines of the log."""
        try:
            with self.log.open("rb") as log:
                log.seek(max(0, log.seek(0, os.SEEK_END) - TAIL_BYTES))
                return log.read().decode(errors="replace").splitlines()[-lines:]
        except FileNotFoundError:
            return []
