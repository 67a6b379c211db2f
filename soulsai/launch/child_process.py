"""The child processes of ``soulsai train``, and the rule for restarting each of them."""

import os
import random
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Literal

import msgspec
from msgspec import Struct

from soulsai.config import Config
from soulsai.config.layers import PREFIX
from soulsai.process import PARENT, available_cores, describe_exit

TRAINING, TELEMETRY, EVALUATOR = "training-node", "telemetry-node", "evaluator"
STARTING = ".starting-"  # begins the name of the log folder until the run's folder is known

LOOP_CRASHES = 3  # crashes
LOOP_SECONDS = 30.0  # within this many seconds are a loop
FORGIVEN_SECONDS = 60.0  # age at which a crash no longer counts
FIRST_DELAY = 0.25  # seconds before the first restart; doubled with each further counted crash
EARLY_DELAY = 5.0  # seconds before the restart of a process that ended well, but before the run
FINAL = (2, 3, 4, 5)  # of settings, protocol, takeover, password: a restart changes nothing
TAIL_BYTES = 4096


class ExitDecision(Struct, frozen=True):
    """The consequence of a child's exit: nothing more, a restart, or the end of the whole run."""

    then: Literal["done", "restart", "give up"]
    code: int = 0
    reason: str = ""
    delay: float = 0.0  # seconds until the restart


def decide(
    code: int, crashes: Sequence[float], *, worked: bool, may_end: bool = True
) -> ExitDecision:
    """Decide the consequence of an exit.

    Args:
        code: The exit code, negative for a signal.
        crashes: The times of this child's counted crashes, this one last, in seconds.
        worked: Whether the child has ever been seen at work; an error of its own before that
            would only repeat itself.
        may_end: Whether an exit with 0 is the regular end of the child.
    """
    if code == 0 and may_end:
        return ExitDecision("done")
    reason = describe_exit(code) if code else "ended by itself before the run"
    if code in FINAL or (code == 1 and not worked):
        return ExitDecision("give up", code, reason)
    recent = [crash for crash in crashes if crashes[-1] - crash < LOOP_SECONDS]
    if len(recent) >= LOOP_CRASHES:
        reason = f"{reason}, {len(recent)} times within {LOOP_SECONDS:.0f} s"
        return ExitDecision("give up", code, reason)
    counted = sum(crashes[-1] - crash < FORGIVEN_SECONDS for crash in crashes)
    delay = FIRST_DELAY * 2 ** (counted - 1) if code else EARLY_DELAY
    return ExitDecision("restart", code, reason, delay)


def with_crash(crashes: Sequence[float], now: float) -> list[float]:
    """Return the crashes that still count, and one at ``now``."""
    return [*(crash for crash in crashes if now - crash < FORGIVEN_SECONDS), now]


class Child:
    """One child process and its restarts."""

    def __init__(
        self,
        name: str,
        words: Callable[[int], Sequence[str]],
        log: Path,
        environ: Mapping[str, str],
        *,
        may_end: bool = True,
    ) -> None:
        """Create a child without starting it.

        Args:
            name: The name in notices.
            words: Returns the words after ``soulsai`` for the n-th start, counted from 0.
            log: The file that receives its output.
            environ: Its variables.
            may_end: Whether it may end with 0 before the run does.
        """
        self.name = name
        self.log = log
        self.starts = 0
        self.state: Literal["running", "restarting", "done"] = "restarting"
        self.due = 0.0  # time of the next start
        self.worked = False  # whether it has ever been seen at work
        self.ended_well = False  # whether its last exit code was 0
        self.words = words
        self.environ = {**environ, PARENT: str(os.getpid())}
        self._may_end = may_end
        self._process: subprocess.Popen[bytes] | None = None
        self._crashes: list[float] = []

    def __repr__(self) -> str:
        return f"Child({self.name}, {self.state}, pid={self.pid}, starts={self.starts})"

    @property
    def pid(self) -> int | None:
        """The process id while there is a process."""
        return self._process.pid if self._process is not None else None

    def start(self) -> None:
        """Start it in a session of its own, so that Ctrl-C reaches only the supervisor."""
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
        self.starts += 1

    def command_line(self) -> list[str]:
        """Return the command of the next start; ``-P`` keeps modules of the current folder out."""
        return [sys.executable, "-P", "-m", "soulsai", *self.words(self.starts)]

    def poll(self, now: float) -> ExitDecision | None:
        """Return the consequence if the child has just ended; ``now`` is in seconds."""
        if self._process is None:
            return None
        code = self._process.poll()
        if code is None:
            return None
        self._kill_session(self._process)
        self._process = None
        self.ended_well = code == 0
        self._crashes = with_crash(self._crashes, now)
        decision = decide(code, self._crashes, worked=self.worked, may_end=self._may_end)
        self.state = "restarting" if decision.then == "restart" else "done"
        self.due = now + decision.delay
        return decision

    def send(self, number: int) -> None:
        """Send a signal if the process runs."""
        if self._process is not None:
            self._process.send_signal(number)

    def wait(self, timeout: float) -> bool:
        """Wait at most ``timeout`` seconds for the end; return whether it has ended."""
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
        """Kill the process and all processes of its session."""
        if self._process is None:
            return
        self._kill_session(self._process)
        self.wait(5.0)

    def tail(self, lines: int = 12) -> list[str]:
        """Return the last lines of the log."""
        try:
            with self.log.open("rb") as log:
                log.seek(max(0, log.seek(0, os.SEEK_END) - TAIL_BYTES))
                return log.read().decode(errors="replace").splitlines()[-lines:]
        except FileNotFoundError:
            return []

    def _kill_session(self, process: subprocess.Popen[bytes]) -> None:
        # Processes started by the child, such as a game, must not stay behind.
        with suppress(ProcessLookupError, PermissionError):
            os.killpg(process.pid, signal.SIGKILL)


class RunProcesses:
    """The child processes of one run: both nodes, the clients, and perhaps an evaluator."""

    def __init__(
        self,
        config: Config,
        private: Path,
        logs: Path,
        *,
        client_prefix: str,
        start: int,
        resume: Callable[[], str],
    ) -> None:
        """Create the children without starting them.

        Args:
            config: The settings for all of them, with a server's address and a seed.
            private: A folder that only this user can read, for those settings.
            logs: The folder for their logs.
            client_prefix: Begins the name of each client.
            start: Distinguishes the seeds of clients of this start from those of others.
            resume: Returns the id of the run that a training node resumes, or nothing.
        """
        settings = private / "config.json"
        settings.touch(mode=0o600)
        settings.write_bytes(msgspec.json.encode(config))
        # The settings hold these already; they must not override the command line a second time.
        environ = {key: value for key, value in os.environ.items() if not key.startswith(PREFIX)}

        def training(_: int) -> list[str]:
            run = resume()
            return [TRAINING, str(settings), *(["--resume", run] if run else [])]

        def client(number: int) -> Callable[[int], list[str]]:
            return lambda starts: [
                *("client", str(settings)),
                *("--env", config.environment.id),  # the user's own choice, so it is allowed
                *("--name", f"{client_prefix}-{number}"),
                *("--set", f"client.number={number}"),
                *("--seed", str(client_seed(config.run.seed, start, number, starts))),
            ]

        self.logs = logs
        self.training = Child(TRAINING, training, logs / f"{TRAINING}.log", environ)
        self.telemetry = Child(
            TELEMETRY, lambda _: [TELEMETRY, str(settings)], logs / f"{TELEMETRY}.log", environ
        )
        self.evaluator = _evaluator(config, settings, logs, environ, resume)
        self.clients = [
            Child(
                f"{client_prefix}-{number}",
                client(number),
                logs / f"client-{number}.log",
                environ,
                may_end=False,
            )
            for number in range(1, config.run.clients + 1)
        ]

    def __iter__(self) -> Iterator[Child]:
        yield self.training
        yield self.telemetry
        yield from self.clients
        if self.evaluator is not None:
            yield self.evaluator

    def move_logs(self, folder: Path) -> None:
        """Move the logs into the run's folder once that is known; open files move along."""
        if not self.logs.name.startswith(STARTING):
            return
        self.logs = self.logs.rename(folder / "logs")
        for child in self:
            child.log = self.logs / child.log.name

    def kill(self) -> None:
        """Kill all processes that still run."""
        for child in self:
            child.kill()


def _evaluator(
    config: Config,
    settings: Path,
    logs: Path,
    environ: Mapping[str, str],
    resume: Callable[[], str],
) -> Child | None:
    """Return the evaluator of a run, which begins when there is one; ``None`` without any."""
    if not evaluates(config, available_cores()):
        return None
    words = [EVALUATOR, str(settings), "--saves", config.run.saves]
    child = Child(
        EVALUATOR, lambda _: [*words, "--run", resume()], logs / f"{EVALUATOR}.log", environ
    )
    child.due = float("inf")
    return child


def evaluates(config: Config, cores: int) -> bool:
    """Return whether a run gets an evaluator.

    Args:
        config: The settings.
        cores: The cores that this process may use.
    """
    if config.evaluate.every == "auto":
        return cores > max(1, config.training.threads) + config.run.clients
    return config.evaluate.every > 0


def client_seed(run: int | None, start: int, number: int, starts: int) -> int:
    """Return the seed of a client below 2**31; no two clients or starts of one share episodes.

    Args:
        run: The seed of the run.
        start: Distinguishes starts of the whole run.
        number: The number of the client.
        starts: How often the client has been started before.
    """
    return random.Random(f"{run}/{start}/{number}/{starts}").getrandbits(31)
