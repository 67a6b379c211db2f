"""The memory and the end of a process with all its descendants."""

import logging
import os
import signal
import subprocess
import sys
from collections.abc import Iterable
from contextlib import suppress
from typing import TYPE_CHECKING, Any

from soulsai.process import describe_exit

if TYPE_CHECKING:  # imported late: most clients never need it, and should stay small
    import psutil

if sys.platform == "win32":
    APART = subprocess.CREATE_NEW_PROCESS_GROUP  # Ctrl-C does not reach it
else:
    APART = 0  # a session of its own has the same effect
WAIT_SECONDS = 5.0  # for the end of a process that was killed

log = logging.getLogger(__name__)


class WindowsJob:
    """A job object of Windows with this process, which kills its processes with the last handle.

    So everything that this process starts ends with it, also what has lost its parent meanwhile.
    The process itself makes it: in a virtual environment, the process that another one starts is
    a launcher, which may have started this one before it could be put into a job.
    """

    def __init__(self) -> None:
        """Join a new job; raise ``OSError`` if the present one does not let this process do so."""
        import pywintypes
        import win32api
        import win32job

        limits_kind = win32job.JobObjectExtendedLimitInformation
        try:
            create: Any = win32job.CreateJobObject  # whose stub says that it returns nothing
            self._handle = create(None, "")
            limits = win32job.QueryInformationJobObject(self._handle, limits_kind)
            kill = win32job.JOB_OBJECT_LIMIT_KILL_ON_JOB_CLOSE
            limits["BasicLimitInformation"]["LimitFlags"] |= kill
            win32job.SetInformationJobObject(self._handle, limits_kind, limits)
            win32job.AssignProcessToJobObject(self._handle, win32api.GetCurrentProcess())
        except pywintypes.error as error:
            raise OSError(f"no job: {error.strerror}") from None


_jobs: list[WindowsJob] = []  # of this process; they end with it and not before


def bind_children() -> None:
    """Let everything that this process starts end with it, however it ends.

    On Windows only: elsewhere the process leads a session, which is killed after it.
    """
    if sys.platform != "win32":
        return
    try:
        _jobs.append(WindowsJob())
    except OSError as error:
        log.warning("processes of the environment may stay behind: %s", error)


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
