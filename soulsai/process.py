"""What a process owes those who started it: to stop when asked, and not to outlive them."""

import ctypes
import os
import platform
import secrets
import signal
import sys
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from types import FrameType, TracebackType
from typing import Self

PARENT = "SOULSAI_PARENT"  # the variable in which a supervisor tells a child its own process id
PULSE = "SOULSAI_PULSE"  # the variable that names a file to touch while we go round
PULSE_SECONDS = 1.0
INTERRUPTED = 130  # 128 + SIGINT
LAST_SECONDS = 10  # that an orphan has for its last words

_PR_SET_PDEATHSIG = 1
_ASKING = [signal.SIGINT, signal.SIGTERM]  # to stop
if sys.platform != "win32":
    _ASKING.append(signal.SIGHUP)


class StopSignal:
    """Whether to stop: because a signal asks for it, or because the parent named is gone.

    The first SIGINT or SIGTERM only makes this true; the second one kills. A parent's death is a
    SIGTERM by the kernel where it can do that, and noticed by asking everywhere else. Whoever asks
    goes round, and shows it by touching the file that ``SOULSAI_PULSE`` names.
    """

    def __init__(
        self,
        parent: int | None = None,
        *,
        at_once: bool = False,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """Stop when ``parent`` dies, if there is one: killed ``at_once``, or with last words."""
        self.signal: int | None = None
        self._pulse = os.environ.get(PULSE, "")
        self._next_beat = -float("inf")
        self._clock = clock
        self._parent = parent
        self._before: dict[int, object] = {}
        self._at_once = at_once

    def __enter__(self) -> Self:
        for number in _ASKING:
            if signal.getsignal(number) == signal.SIG_IGN:
                continue  # as nohup does
            self._before[number] = signal.signal(number, self._asked)
        if self._parent is not None:
            die_with_parent(at_once=self._at_once)
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)  # type: ignore[arg-type]

    def __call__(self) -> bool:
        """Return whether to stop."""
        if self._pulse and self._clock() >= self._next_beat:
            self._next_beat = self._clock() + PULSE_SECONDS
            with suppress(OSError):  # a full disk is no reason to end
                Path(self._pulse).touch()
        return self.signal is not None or self.orphaned

    @property
    def orphaned(self) -> bool:
        """Whether the parent that should live is gone."""
        return self._parent is not None and os.getppid() != self._parent

    @property
    def exit_code(self) -> int:
        """What a role that stopped cleanly exits with: Ctrl-C is no success, SIGTERM is one."""
        return INTERRUPTED if self.signal == signal.SIGINT else 0

    def _asked(self, number: int, frame: FrameType | None) -> None:
        del frame
        if self.signal is not None:
            signal.signal(number, signal.SIG_DFL)
            signal.raise_signal(number)
        self.signal = number
        if sys.platform != "win32" and self.orphaned:
            signal.setitimer(signal.ITIMER_REAL, LAST_SECONDS)  # SIGALRM kills


def parent() -> int | None:
    """Return the supervisor's process id, if one started us, and take it from the environment.

    What we start ourselves must not take our parent for its own.
    """
    named = os.environ.pop(PARENT, "")
    return int(named) if named.isdecimal() else None


def unique_name() -> str:
    """Return a name for something of this machine's on a server that others use, too."""
    host = "".join(
        letter if letter.isascii() and letter.isalnum() else "-"
        for letter in platform.node().partition(".")[0].lower()
    )
    return f"{host.strip('-')[:40] or 'host'}-{secrets.token_hex(3)}"


def die_with_parent(*, at_once: bool) -> None:
    """Let the kernel kill us, or ask us to stop, when our parent dies; only Linux can do that."""
    if sys.platform == "linux":
        libc = ctypes.CDLL(None, use_errno=True)
        number = signal.SIGKILL if at_once else signal.SIGTERM
        libc.prctl(_PR_SET_PDEATHSIG, int(number), 0, 0, 0)
