"""Ours and other packages, timed in turns, so that a noisy machine is noisy for all."""

import os
import subprocess
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Literal

import numpy as np

from soulsai.errors import ConfigError

PEERS = Path(__file__).with_name("peers.py")

Run = Callable[[int], None]
Timed = Callable[[int], float]  # from a count to seconds


@contextmanager
def peer(name: str, python: str, clock: Literal["cpu", "wall"] = "cpu") -> Iterator[Timed]:
    """Run a peer in a process of its own, with one thread for its products.

    Args:
        name: The peer, as in ``peers.py``.
        python: The Python in which it is installed.
        clock: Whether seconds are those of CPU time.

    Raises:
        ConfigError: It is not installed there.
    """
    process = subprocess.Popen(
        [python, str(PEERS), name, clock],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        bufsize=1,
        env={
            **os.environ,
            "OMP_NUM_THREADS": "1",
            "XLA_FLAGS": "--xla_cpu_multi_thread_eigen=false",
        },
    )
    try:
        _answer(process, name, python)

        def run(count: int) -> float:
            if process.stdin is not None:
                process.stdin.write(f"{count}\n")
            return float(_answer(process, name, python))

        yield run
    finally:
        process.kill()
        process.communicate()


def _answer(process: "subprocess.Popen[str]", name: str, python: str) -> str:
    line = process.stdout.readline() if process.stdout is not None else ""
    if not line:
        _, said = process.communicate()
        last = (said.strip().splitlines() or ["no message"])[-1]
        raise ConfigError(
            f"--peers: {name} cannot run in {python} ({last}); install it, and name its Python"
        )
    return line


def timed(run: Run) -> Timed:
    """Return a function of this process with the seconds of CPU time that it takes."""

    def seconds(count: int) -> float:
        began = time.process_time()
        run(count)
        return time.process_time() - began

    return seconds


def rates(runs: Mapping[str, Timed], count: int, rounds: int) -> dict[str, float]:
    """Return the median rate of each, per second, over rounds in which they take turns.

    Args:
        runs: What is timed, by name.
        count: Repetitions in one turn.
        rounds: Turns of each.
    """
    seen: dict[str, list[float]] = {name: [] for name in runs}
    for _ in range(rounds):
        for name, run in runs.items():
            seen[name].append(count / run(count))
    return {name: float(np.median(some)) for name, some in seen.items()}
