"""Resident memory of all processes of a run with the default settings, and of each role."""

import time
from collections.abc import Iterator, Sequence

import psutil

from benchmarks.figure import Figure, at_most, beside
from benchmarks.start import PATIENCE, running, until

TOTAL_LIMIT = 0.7 * 1024  # MiB of all processes, as the system counts them: shared pages each time
UPDATES = 20_000  # after which a run is measured
ROLES = ("training-node", "telemetry-node", "client")
BUILDERS = "_job", ".job", ".figure"  # modules of processes that end again


def measure() -> Iterator[Figure]:
    """Yield the memory of all processes once the updates are compiled, and of each role."""
    with running(clients=2) as (process, redis, _, server):
        until(process, redis, updates=UPDATES, patience=5 * PATIENCE)
        tree = _settled(process, server)
        held = {one.pid: one.memory_info().rss / 2**20 for one in tree}
        shared = sum(one.memory_full_info().pss for one in tree) / 2**20
        words = {one.pid: one.cmdline() for one in tree}
    yield at_most("memory: all processes of a run", sum(held.values()), "MiB", TOTAL_LIMIT)
    yield beside("memory: the same, shared pages once", shared, "MiB", TOTAL_LIMIT)
    for role in ROLES:
        largest = max(size for pid, size in held.items() if role in words[pid])
        yield beside(f"memory: {role}", largest, "MiB", sum(held.values()))
    yield beside("memory: the supervisor", held[process.pid], "MiB", sum(held.values()))


def _settled(process: psutil.Popen, server: psutil.Process) -> Sequence[psutil.Process]:
    """Return all processes at a moment at which nothing is built or drawn."""
    deadline = time.monotonic() + PATIENCE
    while True:
        tree = [server, process, *process.children(recursive=True)]
        if time.monotonic() > deadline or not any(map(_builds, tree)):
            return tree
        time.sleep(0.2)


def _builds(process: psutil.Process) -> bool:
    try:
        return any(word.endswith(BUILDERS) for word in process.cmdline())
    except psutil.NoSuchProcess:
        return True
