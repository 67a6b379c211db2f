"""The training node as a process, on a real server: killed, resumed, and asked to stop."""

import contextlib
import signal
import subprocess
import sys
import time

import msgspec
import pytest

from soulsai.training_node.saving import atomic_folders
from soulsai.types import Status
from soulsai.wire.redis.embedded_server import EmbeddedServer
from soulsai.wire.redis.roles import connect_client, connect_operator
from soulsai.wire.secrets import server_for
from tests.system.player_cases import Client, settings_of, told


@pytest.fixture(scope="module")
def server():
    with EmbeddedServer() as server:
        yield server


@contextlib.contextmanager
def start(settings, *more):
    command = [sys.executable, "-m", "soulsai", "training-node", str(settings), *more]
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True) as node:
        try:
            yield node
        finally:
            node.kill()


def test_killed_in_the_middle_then_resumed_then_stopped(server, tmp_path):
    config, settings = settings_of(server, tmp_path)
    operator = connect_operator(server_for("operator", config.redis), "soulsai")
    wire = connect_client(server_for("client", config.redis), "soulsai", "player")

    try:
        with start(settings) as first:
            client = Client(wire)
            for number in range(1, 4):  # one is written at a time: it may be late for the next
                for _ in range(5):
                    client.play()
                status = told(
                    operator, lambda status, least=f"{number:06}": status.checkpoint >= least
                )
            client.play()
            told(operator, lambda status: status.env_steps == client.clock)
            first.kill()
        assert status.generation == 1
        client.play()  # nobody is there
        with start(settings, "--resume", "latest") as second:
            status = told(operator, lambda s: s.generation == 2 and s.env_steps == client.clock)
            assert status.run == client.spec.run
            assert (status.lost, status.rejected, status.duplicates) == (0, {}, 0)
            client.play()
            told(operator, lambda s: s.env_steps == client.clock)
            began = time.monotonic()
            second.send_signal(signal.SIGTERM)
            assert second.wait(10.0) == 0
            assert time.monotonic() - began < 5.0
        (folder,) = (tmp_path / "saves").iterdir()
        last = msgspec.json.decode((folder / "status.json").read_bytes(), type=Status)
        assert (last.env_steps, last.phase) == (client.clock, "stopping")
        newest = atomic_folders.numbered(folder / "checkpoints")[-1]
        assert (newest.name, atomic_folders.damage(newest)) == (last.checkpoint, None)
    finally:
        operator.close()
        wire.close()
