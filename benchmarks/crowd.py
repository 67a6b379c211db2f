"""A fleet of faulty clients: started, killed, replaced, and never left behind."""

import os
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from types import TracebackType
from typing import Self

import msgspec

from benchmarks.calls import options
from benchmarks.faults import Faults
from soulsai.config.schema import RedisSettings
from soulsai.launch.child_process import client_seed as life_seed
from soulsai.process import PARENT

LEAVING_SECONDS = 5.0  # that clients have to go by themselves


class Crowd:
    """So many clients of one run; a context manager that must be tended.

    The first ``faults.slow_clients`` of them are slow, and are not killed. A client that was killed
    is followed by another one, of another name.
    """

    def __init__(
        self,
        redis: RedisSettings,
        environments: Sequence[str],
        *,
        seed: int,
        faults: Faults,
        log: Path,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._redis = redis
        self._environments = environments  # of each client
        self._clients = len(environments)
        self._seed = seed
        self._faults = faults
        self._log_path = log
        self._clock = clock
        self._due = clock() + faults.kill_seconds
        self._processes: list[subprocess.Popen[bytes]] = []
        self._lives = [0] * self._clients
        self._victim = faults.slow_clients

    def __enter__(self) -> Self:
        self._log = self._log_path.open("ab")
        self._processes = [self._start(number) for number in range(self._clients)]
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        until = self._clock() + LEAVING_SECONDS * (error is None)
        for process in self._processes:
            try:
                process.wait(max(0.0, until - self._clock()))
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()
        self._log.close()

    def tend(self) -> None:
        """Kill and replace whom it is time for; replace who has ended by himself."""
        if self._faults.kill_seconds and self._clock() >= self._due:
            self._due += self._faults.kill_seconds
            self._processes[self._victim].kill()
            self._processes[self._victim].wait()
            self._victim = max(self._faults.slow_clients, (self._victim + 1) % self._clients)
        for number, process in enumerate(self._processes):
            if process.poll() not in (None, 0):  # those that were told to stop have done so
                self._processes[number] = self._start(number)

    def _start(self, number: int) -> subprocess.Popen[bytes]:
        life, self._lives[number] = self._lives[number], self._lives[number] + 1
        slow = number < self._faults.slow_clients
        named = {
            "--redis": self._redis.url,
            "--secrets": self._redis.secrets,
            "--env": self._environments[number],
            "--name": f"client-{number}-{life}",
            "--seed": life_seed(self._seed, 0, number, life),
            "--faults": msgspec.json.encode(self._faults).decode(),
            "--step-delay": self._faults.slow_seconds if slow else 0.0,
        }
        return subprocess.Popen(
            [sys.executable, "-m", "benchmarks.faulty_client", *options(named)],
            stdin=subprocess.DEVNULL,
            stdout=self._log,
            stderr=self._log,
            env={**os.environ, PARENT: str(os.getpid())},
        )
