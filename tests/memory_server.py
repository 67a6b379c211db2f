"""A server inside the test's process, by fakeredis, with the wires of all roles."""

from collections.abc import Callable
from types import SimpleNamespace

import fakeredis
import pytest

from soulsai.errors import ServerFull
from soulsai.wire.client_role import ClientRole
from soulsai.wire.names import Keys
from soulsai.wire.protocols import ClientWire, OperatorWire, TelemetryWire, TrainingWire
from soulsai.wire.redis.connection import RedisConnection
from soulsai.wire.secrets import Server
from soulsai.wire.signing import Signer, Verifier
from soulsai.wire.training_role import TrainingRole
from soulsai.wire.watching_roles import OperatorRole, TelemetryRole
from soulsai.wire.weights import WeightsDtype

made: list[ClientRole | TelemetryRole] = []  # whose threads end with the test


class MemoryServer:
    """One run on a fake server; while ``down`` is set, every call raises ``Unreachable``.

    ``limit`` bounds the stored bytes, as ``maxmemory`` with ``noeviction`` does.
    """

    def __init__(self, run: str = "soulsai") -> None:
        self.limit: int | None = None
        self.mute = False  # whether messages of channels are lost
        self._run = run
        self._server = fakeredis.FakeServer(version=(7, 0))

    @property
    def down(self) -> bool:
        return not self._server.connected

    @down.setter
    def down(self, down: bool) -> None:
        self._server.connected = not down

    def client(self, name: str, verifier: Verifier | None = None) -> ClientWire:
        wire = ClientRole(self.link(), self._run, name, verifier)
        made.append(wire)
        return wire

    def training(
        self, dtype: WeightsDtype = "float32", signer: Signer | None = None
    ) -> TrainingWire:
        return TrainingRole(self.link(), self._run, dtype, signer)

    def telemetry(self) -> TelemetryWire:
        wire = TelemetryRole(self.link(), self._run)
        made.append(wire)
        return wire

    def operator(self) -> OperatorWire:
        return OperatorRole(self.link(), self._run)

    def link(self) -> RedisConnection:
        return _Limited(self)

    def redis(self) -> fakeredis.FakeRedis:
        return fakeredis.FakeRedis(server=self._server, protocol=3)

    def clear(self) -> None:
        self.redis().flushall()

    def entries(self, client: str) -> int:
        """Return the number of entries in a client's stream."""
        return self.redis().xlen(Keys(self._run).experience(client))

    def size(self) -> int:
        """Return the number of bytes in all strings, lists and streams."""
        redis = self.redis()
        read = {
            b"string": lambda key: [redis.get(key)],
            b"list": lambda key: redis.lrange(key, 0, -1),
            b"stream": lambda key: [
                value for _, fields in redis.xrange(key) for value in fields.values()
            ],
        }
        return sum(len(value) for key in redis.scan_iter() for value in read[redis.type(key)](key))


class _Limited(RedisConnection):
    """Refuses commands that store something while the server's limit is exceeded."""

    def __init__(self, server: MemoryServer) -> None:
        super().__init__(Server("redis://memory"), "test", lambda *_: server.redis())
        self._memory = server

    def execute_all(self, commands):
        limit = self._memory.limit
        if limit is None and not self._memory.mute:
            return super().execute_all(commands)
        replies = []
        for command in commands:
            if command[0] == "PUBLISH" and self._memory.mute:
                replies.append(0)
                continue
            size = sum(len(word) for word in command if isinstance(word, bytes))
            size *= command[0] in ("SET", "XADD", "RPUSH")
            if size and limit is not None and self._memory.size() + size > limit:
                replies.append(ServerFull("the server's memory is used up"))
            else:
                replies += super().execute_all([command])
        return replies


def set_clock(monkeypatch: pytest.MonkeyPatch, clock: Callable[[], float]) -> None:
    """Let fake servers take the time from ``clock``: that of expiry, ``TIME`` and new ids."""
    fake = SimpleNamespace(time=clock, monotonic=clock)
    for module in ("_socket._base", "model._stream", "commands_mixins.server_mixin", "_helpers"):
        monkeypatch.setattr(f"fakeredis.{module}.time", fake)


def close_all() -> None:
    """Close the wires that have threads."""
    while made:
        made.pop().close()
