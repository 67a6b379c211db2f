"""Runs one job of the evaluator as a child process, and ends it when it hangs."""

import os
import selectors
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from contextlib import suppress

import msgspec

from soulsai.config.schema import WatchdogSettings
from soulsai.errors import SoulsAIError
from soulsai.evaluator.orders import JobOrder, Reply
from soulsai.process import describe_exit

MODULE = "soulsai.evaluator.job"
SLICE = 0.5  # seconds between two checks of whether to stop
MOST_BYTES = 64_000_000  # of all replies


class JobFailed(SoulsAIError):
    """A job did not do its work; the message is one line."""

    def __init__(self, reason: str, *, unplayable: bool = False) -> None:
        super().__init__(reason)
        self.unplayable = unplayable  # the environment cannot be made on this machine


class JobStopped(SoulsAIError):
    """The evaluator was told to stop."""


class JobProcess:
    """One child process and what it has written."""

    def __init__(
        self,
        order: JobOrder,
        limits: WatchdogSettings,
        *,
        module: str = MODULE,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """Prepare a job.

        Args:
            order: The job.
            limits: The longest silences, in seconds: of the start, of a reset and of a step.
            module: The module that carries it out.
            clock: Monotonic seconds.
        """
        self._order = order
        self._limits = limits
        self._module = module
        self._clock = clock
        self._data = b""

    def run(self, stopped: Callable[[], bool]) -> Reply:
        """Return the reply of the finished job.

        Args:
            stopped: Whether to end; called several times a second.

        Raises:
            JobFailed: It died, hung, or could not do its work.
            JobStopped: ``stopped`` has returned true.
        """
        process = subprocess.Popen(  # noqa: S603 - our own module
            [sys.executable, "-P", "-m", self._module],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            start_new_session=True,
        )
        try:
            return self._outcome(process, stopped)
        finally:
            with suppress(ProcessLookupError, PermissionError):
                os.killpg(process.pid, signal.SIGKILL)  # also what the environment has started
            process.wait()
            for pipe in (process.stdin, process.stdout):
                if pipe is not None:
                    with suppress(OSError):
                        pipe.close()

    def _outcome(self, process: "subprocess.Popen[bytes]", stopped: Callable[[], bool]) -> Reply:
        if process.stdin is None or process.stdout is None:
            raise JobFailed("the job has no pipes")
        with suppress(BrokenPipeError):
            process.stdin.write(msgspec.json.encode(self._order))
            process.stdin.close()
        os.set_blocking(process.stdout.fileno(), False)
        limits = self._limits
        patience = limits.start_seconds
        heard = self._clock()
        with selectors.DefaultSelector() as selector:
            selector.register(process.stdout, selectors.EVENT_READ)
            while not stopped():
                if self._clock() - heard > patience:
                    raise JobFailed(f"the environment hangs: silent for {patience:.0f} s")
                if not selector.select(SLICE):
                    continue
                piece = os.read(process.stdout.fileno(), 1 << 16)
                if not piece:
                    code = process.wait()
                    raise JobFailed(f"the environment's process {describe_exit(code)}")
                heard = self._clock()
                patience = max(limits.reset_seconds, limits.step_seconds)
                for reply in self._replies(piece):
                    if reply.done:
                        return _checked(reply)
        raise JobStopped("stopped")

    def _replies(self, piece: bytes) -> list[Reply]:
        self._data += piece
        if len(self._data) > MOST_BYTES:
            raise JobFailed(f"the job has written more than {MOST_BYTES} bytes")
        *lines, self._data = self._data.split(b"\n")
        try:
            return [msgspec.json.decode(line, type=Reply) for line in lines]
        except (msgspec.MsgspecError, UnicodeDecodeError) as error:
            raise JobFailed(f"the job's reply cannot be read: {error}") from error


def _checked(reply: Reply) -> Reply:
    if reply.fault:
        raise JobFailed(reply.fault, unplayable=reply.unplayable)
    return reply
