"""Starting and resting measured: how long until it learns, and what it costs when nobody plays."""

import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager

import psutil

from benchmarks.figure import Figure, at_most
from soulsai.config.schema import RedisSettings
from soulsai.errors import SoulsAIError, Unreachable
from soulsai.wire.redis.embedded_server import EmbeddedServer
from soulsai.wire.redis.roles import connect_operator
from soulsai.wire.secrets import server_for

LEARNING_LIMIT = 15.0  # seconds from the command to the first gradient step
VIEW_LIMIT = 3.0  # seconds from the command to the first view
IDLE_LIMIT = 2.0  # per cent of a core, all nodes up, no client
CLIENT_LIMIT = 110.0  # MiB of a client's process
PATIENCE = 120.0  # seconds until a start counts as failed
SETTLE, WATCH = 8.0, 20.0  # seconds before and while resting is watched


def measure() -> Iterator[Figure]:
    """Yield what a start takes, what a client's memory is, and what resting costs."""
    with running(clients=2) as (process, redis, began, _):
        viewed = _first_output(process) - began
        learning = _first_update(process, redis) - began
        memory = max(_mebibytes(child) for child in _children(process, "client"))
    yield at_most("start: command to first view", viewed, "s", VIEW_LIMIT)
    yield at_most("start: command to first gradient step", learning, "s", LEARNING_LIMIT)
    yield at_most("client: resident memory of a process", memory, "MiB", CLIENT_LIMIT)
    with running(clients=0) as (process, redis, _, server):
        _first_status(process, redis)
        time.sleep(SETTLE)
        tree = [server, process, *process.children(recursive=True)]
        before, began = _cpu_seconds(tree), time.monotonic()
        time.sleep(WATCH)
        share = 100 * (_cpu_seconds(tree) - before) / (time.monotonic() - began)
    yield at_most("start: all nodes up, no client, share of a core", share, "%", IDLE_LIMIT)


@contextmanager
def running(clients: int) -> Iterator[tuple[psutil.Popen, RedisSettings, float, psutil.Process]]:
    """Run ``soulsai train`` against a server of our own, so that we can ask for its status."""
    with EmbeddedServer() as server, tempfile.TemporaryDirectory() as saves:
        redis = RedisSettings(url=server.url, secrets=str(server.secrets))
        words = ["train", "--clients", str(clients), "--saves", saves]
        settings = [f"--set=redis.url={redis.url}", f"--set=redis.secrets={redis.secrets}"]
        began = time.monotonic()
        process = psutil.Popen(
            [sys.executable, "-m", "soulsai", *words, *settings],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
        )
        try:
            yield process, redis, began, psutil.Process(server.pid)
        finally:
            process.terminate()
            process.communicate()


def _first_output(process: psutil.Popen) -> float:
    line = os.read(process.stderr.fileno(), 1)
    if not line:
        raise SoulsAIError("soulsai train ended before it showed anything")
    return time.monotonic()


def _first_status(process: psutil.Popen, redis: RedisSettings) -> None:
    until(process, redis, updates=0)


def _first_update(process: psutil.Popen, redis: RedisSettings) -> float:
    return until(process, redis, updates=1)


def until(
    process: psutil.Popen,
    redis: RedisSettings,
    *,
    updates: int,
    patience: float = PATIENCE,
) -> float:
    """Return the time at which a run has done so many updates.

    Args:
        process: The command.
        redis: Its server.
        updates: The number of updates.
        patience: Seconds after which it counts as failed.

    Raises:
        SoulsAIError: It has ended, or has not done them in time.
    """
    wire = connect_operator(server_for("operator", redis), "soulsai")
    deadline = time.monotonic() + patience
    try:
        while time.monotonic() < deadline and process.poll() is None:
            try:
                status = wire.status()
            except Unreachable:
                status = None
            if status is not None and status.updates >= updates:
                return time.monotonic()
            time.sleep(0.05)
    finally:
        wire.close()
    raise SoulsAIError("soulsai train did not come up; run it by itself to see why")


def _children(process: psutil.Popen, command: str) -> list[psutil.Process]:
    everybody = process.children(recursive=True)
    return [child for child in everybody if command in child.cmdline()]


def _mebibytes(process: psutil.Process) -> float:
    return float(process.memory_info().rss) / 2**20


def _cpu_seconds(processes: list[psutil.Process]) -> float:
    spent = [process.cpu_times() for process in processes if process.is_running()]
    return float(sum(times.user + times.system for times in spent))
