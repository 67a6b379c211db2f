"""The wire over a real Redis or Valkey, 7.0 or later."""

import threading
from collections.abc import Iterator, Sequence
from typing import Any

from redis import exceptions

from soulsai.errors import Unreachable, WireError
from soulsai.wire.client_role import ClientRole
from soulsai.wire.link import Command, Word
from soulsai.wire.protocols import ClientWire, OperatorWire, TelemetryWire, TrainingWire
from soulsai.wire.redis.connection import Connected, Dialler, is_passing, socket_of, translated
from soulsai.wire.redis.subscriber import RedisEar
from soulsai.wire.secrets import Server
from soulsai.wire.signing import Signer, Verifier
from soulsai.wire.training_role import TrainingRole
from soulsai.wire.watching_roles import OperatorRole, TelemetryRole
from soulsai.wire.weights import WeightsDtype

_BATCH_BYTES = 256 * 1024  # sent before replies are awaited: 50 KB/s suffice for the time-out


def connect_client(server: Server, run_name: str, client: str) -> ClientWire:
    """Return a client's wire; the connection is made by the first call that needs it."""
    verifier = Verifier(server.public_key) if server.public_key else None
    return ClientRole(RedisAccess(server, f"client:{client}"), run_name, client, verifier)


def connect_training(
    server: Server,
    run_name: str,
    dtype: WeightsDtype = "float32",
    signer: Signer | None = None,
) -> TrainingWire:
    """Return a training node's wire; the connection is made by the first call that needs it."""
    return TrainingRole(RedisAccess(server, "training_node"), run_name, dtype, signer)


def connect_telemetry(server: Server, run_name: str) -> TelemetryWire:
    """Return a telemetry node's wire; the connection is made by the first call that needs it."""
    return TelemetryRole(RedisAccess(server, "telemetry_node"), run_name)


def connect_operator(server: Server, run_name: str) -> OperatorWire:
    """Return an operator's wire; the connection is made by the first call that needs it."""
    return OperatorRole(RedisAccess(server, "operator"), run_name)


class RedisAccess:
    """Implements ``Access``."""

    def __init__(self, server: Server, name: str) -> None:
        self._dialler = Dialler(server, f"soulsai:{name}")

    def __repr__(self) -> str:
        return f"RedisAccess({self._dialler!r})"

    def link(self) -> "RedisLink":
        """Return a connection for commands."""
        return RedisLink(self._dialler)

    def ear(self, *channels: str) -> RedisEar:
        """Return a connection that listens to channels."""
        return RedisEar(self._dialler, channels)


class RedisLink:
    """Implements ``Link`` with one connection, which is made anew by the call after it broke."""

    def __init__(self, dialler: Dialler) -> None:
        self._dialler = dialler
        self._connection: Connected | None = None
        self._closed = False
        self._lock = threading.Lock()

    def ask(self, *command: Word) -> Any:
        """Return the server's reply to one command; raise what it refuses."""
        (reply,) = self.ask_all([command])
        if isinstance(reply, WireError):
            raise reply
        return reply

    def ask_all(self, commands: Sequence[Command]) -> list[Any]:
        """Send commands in batches, each in one go, and return their replies."""
        with self._lock:
            connection = self._ready()
            try:
                return [
                    self._reply(connection)
                    for batch in batches(commands)
                    for _ in self._sent(connection, batch)
                ]
            except exceptions.RedisError as error:
                self._drop()
                raise translated(error, repr(self._dialler)) from error

    def close(self) -> None:
        """Let go of the connection."""
        with self._lock:
            self._closed = True
            self._drop()

    def _sent(self, connection: Connected, batch: Sequence[Command]) -> Sequence[Command]:
        connection.send_packed_command(connection.pack_commands(batch))
        return batch

    def _reply(self, connection: Connected) -> Any:
        try:
            return connection.read_response(disable_decoding=True)
        except exceptions.ResponseError as error:
            if is_passing(error):
                raise
            return translated(error, repr(self._dialler))

    def _ready(self) -> Connected:
        if self._closed:
            raise Unreachable("this wire is closed")
        if self._connection is not None and _is_stale(self._connection):
            self._drop()
        if self._connection is None:
            self._connection = self._dialler.dial()
        return self._connection

    def _drop(self) -> None:
        if self._connection is not None:
            self._connection.disconnect()
            self._connection = None


def batches(commands: Sequence[Command]) -> Iterator[Sequence[Command]]:
    """Cut commands into runs of at most some hundred kilobytes, or of one command."""
    start = size = 0
    for index, command in enumerate(commands):
        length = sum(len(word) for word in command if not isinstance(word, int))
        if index > start and size + length > _BATCH_BYTES:
            yield commands[start:index]
            start, size = index, 0
        size += length
    yield commands[start:]


def _is_stale(connection: Connected) -> bool:
    """Whether the server has closed an idle connection, or said something nobody asked for."""
    if socket_of(connection) is None:
        return True
    try:
        return bool(connection.can_read(0))
    except (exceptions.RedisError, OSError):
        return True
