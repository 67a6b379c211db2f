"""Faulty clients as processes: killed, replaced, and gone at the end."""

import psutil
import pytest

from benchmarks.crowd import Crowd
from benchmarks.faults import Faults
from soulsai.config.schema import RedisSettings
from soulsai.wire.redis.embedded_server import EmbeddedServer
from tests.system.train_cases import until

CLIENT = "benchmarks.faulty_client"


class Clock:
    now = 0.0

    def __call__(self):
        return self.now


def clients():
    """Return the names of our faulty clients, by process."""
    found = {}
    for process in psutil.Process().children():
        words = process.cmdline() if process.status() != psutil.STATUS_ZOMBIE else []
        if CLIENT in words:
            found[process.pid] = words[words.index("--name") + 1]
    return found


def test_a_crowd_loses_one_after_the_other_and_nobody_stays(tmp_path):
    clock, log = Clock(), tmp_path / "log"
    faults = Faults(kill_seconds=5.0, slow_clients=1, slow_seconds=0.1)

    def gathered(server):
        redis = RedisSettings(url=server.url, secrets=str(server.secrets))
        crowd = Crowd(
            redis, ["soulsai.testing:ToyEnv"] * 3, seed=1, faults=faults, log=log, clock=clock
        )
        with crowd:
            until("three clients", lambda: len(clients()) == 3)
            assert sorted(clients().values()) == ["client-0-0", "client-1-0", "client-2-0"]
            for _ in range(3):
                clock.now += 5.0
                crowd.tend()
                # A process that was just started shows its command a moment later.
                until("three clients", lambda: len(clients()) == 3)
            assert sorted(clients().values()) == ["client-0-0", "client-1-2", "client-2-1"]
            until("a client that waits for a run", lambda: "NoRun" in log.read_text())
            raise KeyboardInterrupt

    with EmbeddedServer() as server, pytest.raises(KeyboardInterrupt):
        gathered(server)
    assert clients() == {}
