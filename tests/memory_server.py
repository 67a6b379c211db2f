"""A server inside the test's process, by fakeredis, with the wires of all roles."""

from collections.abc import Callable
from types import SimpleNamespace

import fakeredis
import pytest

from soulsai.wire.client_role import ClientRole, text_of
from soulsai.wire.names import Keys
from soulsai.wire.protocols import (
    ClientWire,
    OperatorWire,
    Position,
    TelemetryWire,
    TrainingWire,
)
from soulsai.wire.redis.connection import RedisConnection
from soulsai.wire.secrets import Server
from soulsai.wire.signing import Signer, Verifier
from soulsai.wire.training_role import TrainingRole
from soulsai.wire.watching_roles import OperatorRole, TelemetryRole

made: list[ClientRole | TelemetryRole] = []  # whose threads end with the test


class MemoryServer:
    """One run on a fake server; while ``down`` is set, every call raises ``Unreachable``."""

    def __init__(self, run: str = "soulsai") -> None:
        self._run = run
        self._server = fakeredis.FakeServer(version=(7, 0))

    @property
    def down(self) -> bool:
        return not self._server.connected

    @down.setter
    def down(self, down: bool) -> None:
        self._server.connected = not down

    def lose(self, client: str, after: Position) -> None:
        """Lose the entries of a stream after a position, as a killed server may."""
        link, key = self.link(), Keys(self._run).experience(client)
        entries = link.execute("XRANGE", key, "-", text_of(after))
        link.execute("DEL", key)
        for id, fields in entries:
            link.execute("XADD", key, id, *fields)
        link.close()

    def client(self, name: str, verifier: Verifier | None = None) -> ClientWire:
        wire = ClientRole(self.link(), self._run, name, verifier)
        made.append(wire)
        return wire

    def training(self, signer: Signer | None = None) -> TrainingWire:
        return TrainingRole(self.link(), self._run, signer)

    def telemetry(self) -> TelemetryWire:
        wire = TelemetryRole(self.link(), self._run)
        made.append(wire)
        return wire

    def operator(self) -> OperatorWire:
        return OperatorRole(self.link(), self._run)

    def link(self) -> RedisConnection:
        return RedisConnection(Server("redis://memory"), "test", self._redis)

    def _redis(self, server: Server, username: str, name: str) -> fakeredis.FakeRedis:
        return fakeredis.FakeRedis(server=self._server, protocol=3)


def set_clock(monkeypatch: pytest.MonkeyPatch, clock: Callable[[], float]) -> None:
    """Let fake servers take the time from ``clock``: that of expiry, ``TIME`` and new ids."""
    fake = SimpleNamespace(time=clock, monotonic=clock)
    for module in ("_socket._base", "model._stream", "commands_mixins.server_mixin", "_helpers"):
        monkeypatch.setattr(f"fakeredis.{module}.time", fake)


def close_all() -> None:
    """Close the wires that have threads."""
    while made:
        made.pop().close()
