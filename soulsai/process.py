"""Stopping by signals, and ending with the parent process."""

import ctypes
import os
import platform
import secrets
import signal
import sys
import threading
import time
from collections.abc import Callable, MutableMapping
from contextlib import suppress
from pathlib import Path
from types import FrameType
from typing import Self

PARENT = "SOULSAI_PARENT"  # variable with the process id of the supervisor
PULSE = "SOULSAI_PULSE"  # variable with a file to touch while the main loop runs
PULSE_SECONDS = 1.0
INTERRUPTED = 130  # 128 + SIGINT
LOWEST_PRIORITY = 19  # the largest nice value
LAST_SECONDS = 10  # for an orphan to save and end
RELEASE_SECONDS = 60.0  # between two releases of free memory
SPINS = "GOMP_SPINCOUNT"  # variable with the looks of a waiting thread before it sleeps
FEW_SPINS = "500"  # some microseconds

_PR_SET_PDEATHSIG = 1
CONSOLE_SECONDS = 4.5  # to end in; a console that closes waits for 5 seconds

if sys.platform == "win32":
    INTERRUPTS = (signal.SIGINT, signal.SIGBREAK)  # Ctrl-C, and Ctrl-Break
    _SIGNALS = (*INTERRUPTS, signal.SIGTERM)
else:
    INTERRUPTS = (signal.SIGINT,)
    _SIGNALS = (*INTERRUPTS, signal.SIGTERM, signal.SIGHUP)


class StopSignal:
    """Whether to stop, because of a signal or of the parent's death.

    The first SIGINT or SIGTERM sets it; the second one kills. On Linux the kernel sends SIGTERM
    when the parent dies; elsewhere each call compares the parent's id. On Windows also Ctrl-Break,
    a window that closes, and the end of the session set it. Each call also touches the file named
    by ``SOULSAI_PULSE``, at most once a second, to show that the main loop runs.
    """

    def __init__(
        self,
        parent: int | None = None,
        *,
        at_once: bool = False,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """Prepare to stop; signals are handled inside ``with``.

        Args:
            parent: Process id of the parent, if its death counts.
            at_once: Kill this process when the parent dies, instead of stopping it.
            clock: Seconds, monotonic.
        """
        self.signal: int | None = None
        self._pulse = os.environ.get(PULSE, "")
        self._next_beat = -float("inf")
        self._clock = clock
        self._parent = parent
        self._before: dict[int, object] = {}
        self._at_once = at_once
        self._console_handler = self._on_console_event  # the same object when it is removed
        self._left = threading.Event()

    def __enter__(self) -> Self:
        for number in _SIGNALS:
            if signal.getsignal(number) == signal.SIG_IGN:
                continue  # as nohup does
            self._before[number] = signal.signal(number, self._handle)
        self._watch_console(begin=True)
        if self._parent is not None:
            die_with_parent(at_once=self._at_once)
        return self

    def __exit__(self, *_: object) -> None:
        self._left.set()
        self._watch_console(begin=False)
        for number, handler in self._before.items():
            signal.signal(number, handler)  # type: ignore[arg-type]

    def __call__(self) -> bool:
        """Return whether to stop."""
        if self._pulse and self._clock() >= self._next_beat:
            self._next_beat = self._clock() + PULSE_SECONDS
            with suppress(OSError):  # a full disk must not end the process
                Path(self._pulse).touch()
        return self.signal is not None or self.orphaned

    @property
    def orphaned(self) -> bool:
        """Whether the parent has died."""
        return self._parent is not None and os.getppid() != self._parent

    @property
    def exit_code(self) -> int:
        """Exit code after a clean stop: 130 after Ctrl-C, 0 after SIGTERM."""
        return INTERRUPTED if self.signal == signal.SIGINT else 0

    def _handle(self, number: int, frame: FrameType | None) -> None:
        del frame
        if self.signal is not None:
            signal.signal(number, signal.SIG_DFL)
            signal.raise_signal(number)
        self.signal = number
        if sys.platform != "win32" and self.orphaned:
            signal.setitimer(signal.ITIMER_REAL, LAST_SECONDS)  # SIGALRM kills

    def _watch_console(self, *, begin: bool) -> None:
        if sys.platform == "win32":
            import win32api

            win32api.SetConsoleCtrlHandler(self._console_handler, begin)

    def _on_console_event(self, event: int) -> bool:
        """Stop when the console closes or the session ends; called in a thread of Windows.

        Windows kills the process as soon as this returns.
        """
        import win32con

        if event not in (
            win32con.CTRL_CLOSE_EVENT, win32con.CTRL_LOGOFF_EVENT, win32con.CTRL_SHUTDOWN_EVENT
        ):  # fmt: skip
            return False  # the others are signals
        if self.signal is None:
            self.signal = signal.SIGTERM
        self._left.wait(CONSOLE_SECONDS)
        return True


def release_free_memory() -> None:
    """Give the free memory of the C library back to the system; with glibc only.

    Its heaps keep what many short-lived connections and messages have taken, scattered among what
    is still in use.
    """
    if sys.platform == "linux" and (trim := getattr(ctypes.CDLL(None), "malloc_trim", None)):
        trim(0)


class MemoryRelease:
    """Releases free memory once in ``RELEASE_SECONDS``."""

    def __init__(self, release: Callable[[], None] = release_free_memory) -> None:
        self._release = release
        self._due = -float("inf")

    def look(self, now: float) -> None:
        """Release free memory if it is time; ``now`` is in seconds of a monotonic clock."""
        if now >= self._due:
            self._due = now + RELEASE_SECONDS
            self._release()


def parent() -> int | None:
    """Return the supervisor's process id, if there is one, and remove it from the environment.

    Child processes must not inherit it.
    """
    named = os.environ.pop(PARENT, "")
    return int(named) if named.isdecimal() else None


def yield_cores() -> None:
    """Give this process the lowest priority: it runs where the others leave a core idle.

    Where Linux groups processes by session, a nice value counts inside its session only, so the
    session gets it, too.
    """
    if sys.platform == "win32":
        return
    os.nice(LOWEST_PRIORITY)
    with suppress(OSError):  # no such groups
        Path("/proc/self/autogroup").write_text(str(LOWEST_PRIORITY))


def let_threads_sleep(environ: MutableMapping[str, str]) -> None:
    """Let threads that wait for one another sleep at once; call it before torch is imported.

    They would look for milliseconds first, a core each. Where other processes need that core, the
    thread that is waited for does not run meanwhile, and two threads learn a hundred times slower
    than one.

    Args:
        environ: The variables of the process; what the user has set stays.
    """
    environ.setdefault(SPINS, FEW_SPINS)


def available_cores() -> int:
    """Return the number of cores that this process may use."""
    if sys.platform == "linux":
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def describe_exit(code: int) -> str:
    """Return an exit code in words."""
    if code >= 0:  # Windows has codes of 32 bits
        return f"ended with exit code {code if code < 256 else hex(code)}"
    try:
        return f"was killed by {signal.Signals(-code).name}"
    except ValueError:
        return f"was killed by signal {-code}"


def unique_name() -> str:
    """Return a unique name for something of this machine on a shared server."""
    host = "".join(
        letter if letter.isascii() and letter.isalnum() else "-"
        for letter in platform.node().partition(".")[0].lower()
    )
    return f"{host.strip('-')[:40] or 'host'}-{secrets.token_hex(3)}"


def die_with_parent(*, at_once: bool) -> None:
    """Let the kernel kill or stop this process when its parent dies; on Linux only."""
    if sys.platform == "linux":
        libc = ctypes.CDLL(None, use_errno=True)
        number = signal.SIGKILL if at_once else signal.SIGTERM
        libc.prctl(_PR_SET_PDEATHSIG, int(number), 0, 0, 0)
