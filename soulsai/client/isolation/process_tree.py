"""The memory and the end of a process with all its descendants."""

import os
import signal
import subprocess
import sys
from collections.abc import Iterable
from contextlib import suppress
from typing import TYPE_CHECKING

from soulsai.process import describe_exit

if TYPE_CHECKING:  # imported late: most clients never need it, and should stay small
    import psutil

if sys.platform == "win32":
    APART = subprocess.CREATE_NEW_PROCESS_GROUP  # Ctrl-C does not reach it
else:
    APART = 0  # a session of its own has the same effect
WAIT_SECONDS = 5.0  # for the end of a process that was killed


def resident(pid: int) -> int:
    """Return the resident bytes of a process and its descendants."""
    return sum(_bytes(process) for process in _family(pid))


def end(
    process: "subprocess.Popen[bytes]", programs: Iterable[str] = (), grace: float = 0.0
) -> None:
    """End a process, its descendants, and all programs of the given names.

    Args:
        process: The leader of a session or process group of its own.
        programs: Names of programs that games start apart from their own process.
        grace: Seconds for the process to end by itself before it is killed.
    """
    import psutil

    family = _family(process.pid)
    if grace:
        with suppress(subprocess.TimeoutExpired):
            process.wait(grace)
    if sys.platform != "win32":
        # Its descendants stay in its group, even after its own end.
        with suppress(ProcessLookupError, PermissionError):
            os.killpg(process.pid, signal.SIGKILL)
    names = {name.casefold() for name in programs}
    if names:
        family += [one for one in psutil.process_iter() if _name(one).casefold() in names]
    for one in family:
        if one.pid != os.getpid():
            with suppress(psutil.Error):
                one.kill()
    with suppress(subprocess.TimeoutExpired):
        process.wait(WAIT_SECONDS)


def describe(code: int | None) -> str:
    """Return a phrase for the exit code of a process."""
    if code is None:
        return "closed its connection"
    return describe_exit(code)


def _family(pid: int) -> "list[psutil.Process]":
    import psutil

    try:
        process = psutil.Process(pid)
        return [process, *process.children(recursive=True)]
    except psutil.Error:
        return []


def _bytes(process: "psutil.Process") -> int:
    import psutil

    try:
        return int(process.memory_info().rss)
    except psutil.Error:
        return 0


def _name(process: "psutil.Process") -> str:
    import psutil

    try:
        return str(process.name())
    except psutil.Error:
        return ""
