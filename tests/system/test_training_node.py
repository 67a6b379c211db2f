"""The training node as a process, on a real server: killed, resumed, and asked to stop."""

import contextlib
import signal
import subprocess
import sys
import time

import msgspec
import numpy as np
import pytest

from soulsai.config import DQN, Checkpoint, Config, Environment, Redis, Run
from soulsai.errors import NoRun
from soulsai.training_node import checkpoints
from soulsai.types import Fragment, Hello, Status
from soulsai.wire import Position
from soulsai.wire.codec import encode_message, pack
from soulsai.wire.embedded import EmbeddedServer
from soulsai.wire.redis import connect_client, connect_operator
from soulsai.wire.secrets import server_for

STEPS = 32
START_SECONDS = 60.0  # torch and its exporter are slow on a busy machine


@pytest.fixture(scope="module")
def server():
    with EmbeddedServer() as server:
        yield server


def wait_for(condition, seconds=START_SECONDS):
    deadline = time.monotonic() + seconds
    while not (found := condition()):
        assert time.monotonic() < deadline, "waited in vain"
        time.sleep(0.01)
    return found


class Client:
    """Sends fragments of random numbers that look like CartPole."""

    def __init__(self, wire):
        self.wire = wire
        self.spec = wait_for(self._spec)
        said = Hello(self.spec.run, 1, "test", "CartPole-v1", 1, self.spec.crc)
        self.position = wire.hello(said)
        self.clock = 0
        self.rng = np.random.default_rng(0)

    def play(self):
        pointer = wait_for(self.wire.pointer)
        fragment = Fragment(
            client="player",
            epoch=self.position.epoch,
            episode=self.clock,
            start=0,
            clock=self.clock,
            generation=pointer.generation,
            version=pointer.version,
            obs={"obs": self.rng.standard_normal((STEPS + 1, 4)).astype("f4")},
            action=self.rng.integers(0, 2, STEPS).astype("u1"),
            reward=np.ones(STEPS, "f4"),
            epsilon=1.0,
            terminated=True,
            truncated=False,
        )
        self.clock += STEPS
        self.position = Position(self.position.epoch, self.position.seq + 1)
        self.wire.push([(self.position, pack([encode_message(fragment, self.spec)]))])

    def _spec(self):
        try:
            return self.wire.spec()
        except NoRun:
            return None


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
