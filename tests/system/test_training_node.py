"""The training node as a process, on a real server: killed, resumed, and asked to stop."""

import contextlib
import signal
import subprocess
import sys
import time

import msgspec
import pytest
from player_cases import Client, wait_for

from soulsai.config import DQN, Checkpoint, Config, Environment, Redis, Run
from soulsai.training_node import checkpoints
from soulsai.types import Status
from soulsai.wire.embedded import EmbeddedServer
from soulsai.wire.redis import connect_client, connect_operator
from soulsai.wire.secrets import server_for


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
    settings = tmp_path / "config.json"
    config = Config(
        run=Run(saves=str(tmp_path / "saves"), max_env_steps=0, seed=3),
        redis=Redis(url=server.url, secrets=str(server.secrets)),
        environment=Environment(id="CartPole-v1"),
        checkpoint=Checkpoint(every=40),
        dqn=DQN(
            hidden=(16,),
            learning_starts=64,
            batch_size=16,
            pace="free",
            slack_steps=10**6,
            epsilon_base=1.0,  # its actions are random
        ),
    )
    settings.write_bytes(msgspec.json.encode(config))
    operator = connect_operator(server_for("operator", config.redis), "soulsai")
    wire = connect_client(server_for("client", config.redis), "soulsai", "player")

    def told(condition):
        def look():
            status = operator.status()
            return status if status is not None and condition(status) else None

        return wait_for(look)

    try:
        with start(settings) as first:
            client = Client(wire)
            for number in range(1, 4):  # one is written at a time: it may be late for the next
                for _ in range(5):
                    client.play()
                status = told(lambda status, least=f"{number:06}": status.checkpoint >= least)
            client.play()
            told(lambda status: status.env_steps == client.clock)
            first.kill()
        assert status.generation == 1
        client.play()  # nobody is there
        with start(settings, "--resume", "latest") as second:
            status = told(lambda s: s.generation == 2 and s.env_steps == client.clock)
            assert status.run == client.spec.run
            assert (status.lost, status.rejected, status.duplicates) == (0, {}, 0)
            client.play()
            told(lambda s: s.env_steps == client.clock)
            began = time.monotonic()
            second.send_signal(signal.SIGTERM)
            assert second.wait(10.0) == 0
            assert time.monotonic() - began < 5.0
        (folder,) = (tmp_path / "saves").iterdir()
        last = msgspec.json.decode((folder / "status.json").read_bytes(), type=Status)
        assert (last.env_steps, last.phase) == (client.clock, "stopping")
        newest = checkpoints.numbered(folder / "checkpoints")[-1]
        assert (newest.name, checkpoints.damage(newest)) == (last.checkpoint, None)
    finally:
        operator.close()
        wire.close()
