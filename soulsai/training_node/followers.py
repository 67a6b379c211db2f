"""The other ranks on this machine: processes that the first one starts, and ends."""

import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from soulsai.algorithms.group import PLACE, Group, joined
from soulsai.process import PARENT
from soulsai.wire.private import PrivateFolder

LEAVING_SECONDS = 5.0
COMMAND = (sys.executable, "-m", "soulsai", "training-node")


@contextmanager
def followed(size: int, stopped: Callable[[], bool]) -> Iterator[Group]:
    """Lead ``size`` ranks, of which this process is the first; none of them outlives it.

    They meet in a private folder and speak over loopback, so nobody else can join them.
    """
    with PrivateFolder() as folder:
        os.environ.setdefault("GLOO_SOCKET_IFNAME", "lo0" if sys.platform == "darwin" else "lo")
        place = folder / "ranks"
        followers = [_start(rank, size, place) for rank in range(1, size)]
        try:
            with joined(stopped, f"file://{place}", rank=0, size=size) as group:
                yield group
        finally:
            for follower in followers:
                _end(follower)


def _start(rank: int, size: int, place: Path) -> subprocess.Popen[bytes]:
    numbers = {"WORLD_SIZE": str(size), "RANK": str(rank), "LOCAL_RANK": str(rank)}
    environ = {**os.environ, **numbers, PLACE: str(place), PARENT: str(os.getpid())}
    return subprocess.Popen(  # noqa: S603 - our own command line
        COMMAND, stdin=subprocess.DEVNULL, env=environ
    )


def _end(follower: subprocess.Popen[bytes]) -> None:
    """Wait for one that has been told to end, or that misses us; not for one that hangs."""
    try:
        follower.wait(LEAVING_SECONDS)
    except subprocess.TimeoutExpired:
        follower.kill()
        follower.wait()
