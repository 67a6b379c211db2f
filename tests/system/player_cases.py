"""A player of random numbers, for tests of a training node as a process on a real server."""

import time

import msgspec
import numpy as np

from soulsai.algorithms.dqn.settings import DQNSettings
from soulsai.config.schema import (
    CheckpointSettings,
    Config,
    EnvironmentSettings,
    RedisSettings,
    RunSettings,
)
from soulsai.errors import NoRun
from soulsai.types import PROTOCOL, Fragment, Hello
from soulsai.wire.codec import encode_message, pack
from soulsai.wire.protocols import Position

STEPS = 32
START_SECONDS = 60.0  # torch and its exporter are slow on a busy machine


def wait_for(condition, seconds=START_SECONDS):
    deadline = time.monotonic() + seconds
    while not (found := condition()):
        assert time.monotonic() < deadline, "waited in vain"
        time.sleep(0.01)
    return found


def settings_of(server, folder):
    """Return the settings of a training node that learns as it likes, and a file of them."""
    config = Config(
        run=RunSettings(saves=str(folder / "saves"), max_env_steps=0, seed=3),
        redis=RedisSettings(url=server.url, secrets=str(server.secrets)),
        environment=EnvironmentSettings(id="CartPole-v1"),
        checkpoint=CheckpointSettings(every=40),
        dqn=DQNSettings(
            hidden=(16,),
            learning_starts=64,
            batch_size=16,
            pace="free",
            slack_steps=10**6,
            epsilon_base=1.0,  # its actions are random
        ),
    )
    settings = folder / "config.json"
    settings.write_bytes(msgspec.json.encode(config))
    return config, settings


def told(operator, condition):
    """Wait for a status that satisfies a condition, and return it."""

    def look():
        status = operator.status()
        return status if status is not None and condition(status) else None

    return wait_for(look)


class Client:
    """Sends fragments of random numbers that look like CartPole."""

    def __init__(self, wire):
        self.wire = wire
        self.spec = wait_for(self._spec)
        said = Hello(self.spec.run, PROTOCOL, "test", "CartPole-v1", 1, self.spec.crc)
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
