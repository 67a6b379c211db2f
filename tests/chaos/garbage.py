"""Two who send nothing but garbage, at a steady rate: one is soon kept out, the other never is."""

import random
import time

import numpy as np

from soulsai.config.schema import RedisSettings
from soulsai.errors import WireError
from soulsai.types import PROTOCOL, Fragment, Hello
from soulsai.wire.codec import encode_message, pack
from soulsai.wire.names import Keys
from soulsai.wire.redis.connection import RedisConnection
from soulsai.wire.redis.roles import connect_client
from soulsai.wire.secrets import server_for

from .beside import Beside

PER_SECOND = 2000  # messages, of each
TICK = 0.02
STEPS = 20
VARIETY = 50  # of each kind; they are made before, so that to send them costs next to nothing


class Garbage(Beside):
    """A thread that sends it, between two points in time."""

    def __init__(self, stage):
        super().__init__(self._send)
        redis = RedisSettings(url=stage.links.url("us"), secrets=str(stage.broker.secrets))
        self._server, self._run = server_for("client", redis), stage.config().run.name
        self.sent = 0
        self.seconds = 0.0

    def __enter__(self):
        wire = connect_client(self._server, self._run, "garbage")
        spec = wire.spec()
        wire.close()
        rng = random.Random(2)
        foreign = [_flipped(pack([_valid(spec)]), 8 + bit // 8, bit % 8) for bit in range(32)]
        # Whoever still plays an older run means no harm: of him each message is read.
        self._piles = {"garbage": garbage(spec, rng), "stranger": foreign}
        return super().__enter__()

    @property
    def per_second(self):
        """How many messages were sent per second, of each."""
        return self.sent / len(self._piles) / self.seconds

    def _send(self):
        link = RedisConnection(self._server, "garbage")
        keys = {name: Keys(self._run).experience(name) for name in self._piles}
        rng, began = random.Random(3), time.monotonic()
        due = 0
        while not self.stop.wait(TICK):
            self.seconds = time.monotonic() - began
            count, due = int(PER_SECOND * self.seconds) - due, int(PER_SECOND * self.seconds)
            words = [
                ("XADD", keys[name], "MAXLEN", "~", 4096, "*", "d", rng.choice(pile))
                for name, pile in self._piles.items()
                for _ in range(count)
            ]
            self.sent += sum(not isinstance(one, WireError) for one in link.execute_all(words))
        link.close()


def garbage(spec, rng):
    """Return messages that must not be let in, all for the same reason that others are not."""
    (name,) = spec.spec.obs
    kinds = {
        "random bytes": lambda: rng.randbytes(rng.randrange(500)),
        "cut off": lambda: pack([_valid(spec)])[: -rng.randrange(1, 100)],
        "of many": lambda: pack([_valid(spec)]) * 2,
        "not finite": lambda: pack([_valid(spec, obs={name: _stamps(float("nan"))})]),
        "action": lambda: pack([_valid(spec, action=np.full(STEPS, 9, np.uint8))]),
        "reward": lambda: pack([_valid(spec, reward=np.full(STEPS, 1e9, np.float32))]),
        "version": lambda: pack([_valid(spec, version=2**31)]),
        "epsilon": lambda: pack([_valid(spec, epsilon=1.0)]),
        "hello": lambda: pack(
            [encode_message(Hello("another", PROTOCOL, "x", "e", 1, spec.crc), spec)]
        ),
    }  # fmt: skip
    return [make() for make in kinds.values() for _ in range(VARIETY)]


def _stamps(fill):
    return np.full((STEPS + 1, 4), fill, np.float32)


def _valid(spec, **changes):
    """Return a fragment that would be let in, but for the changes."""
    (name,) = spec.spec.obs
    given = {
        "obs": {name: _stamps(0.0)}, "action": np.zeros(STEPS, np.uint8),
        "reward": np.zeros(STEPS, np.float32), "generation": 1, "version": 0,
        "terminated": True, "truncated": False,
    }  # fmt: skip
    fields = {"client": "garbage", "epoch": 1, "episode": 0, "start": 0, "clock": 0}
    return encode_message(Fragment(**fields, **{**given, **changes}), spec)


def _flipped(data, byte, bit):
    return data[:byte] + bytes([data[byte] ^ 1 << bit]) + data[byte + 1 :]
