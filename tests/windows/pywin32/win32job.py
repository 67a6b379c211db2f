"""Plays ``win32job``: a job is a process group, which a shell kills with its last handle."""

import os
import subprocess

import pywintypes

JOB_OBJECT_LIMIT_KILL_ON_JOB_CLOSE = 0x2000
JobObjectExtendedLimitInformation = 9
REFUSE = "SIMULATED_WINDOWS_REFUSES_JOBS"  # variable: this process may join none


class _Job:
    def __init__(self) -> None:
        self.flags = 0
        self.watcher: subprocess.Popen | None = None


def CreateJobObject(attributes: None, name: str, /) -> _Job:
    """Return a new job."""
    assert (attributes, name) == (None, "")
    return _Job()


def QueryInformationJobObject(job: _Job, kind: int, /) -> dict:
    """Return the limits of a job."""
    assert kind == JobObjectExtendedLimitInformation
    return {"BasicLimitInformation": {"LimitFlags": job.flags}}


def SetInformationJobObject(job: _Job, kind: int, limits: dict, /) -> None:
    """Set the limits of a job."""
    assert kind == JobObjectExtendedLimitInformation
    job.flags = limits["BasicLimitInformation"]["LimitFlags"]


def AssignProcessToJobObject(job: _Job, process: int, /) -> None:
    """Put this process into a job."""
    assert process == -1
    if os.environ.get(REFUSE):
        raise pywintypes.error(5, "AssignProcessToJobObject", "Access is denied.")
    if job.flags & JOB_OBJECT_LIMIT_KILL_ON_JOB_CLOSE:
        script = f"read nothing; kill -9 -{os.getpgid(0)}"
        job.watcher = subprocess.Popen(["sh", "-c", script], stdin=subprocess.PIPE, process_group=0)
