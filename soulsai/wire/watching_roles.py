"""The sides of the wire that watch a run and send commands: operator and telemetry node."""

import logging
import secrets
from collections.abc import Iterable

from soulsai.errors import NoRun, WireError
from soulsai.types import Answer, Command, Episode, Event, RunSpec, Status
from soulsai.wire.client_role import position_of
from soulsai.wire.codec import decode, encode
from soulsai.wire.names import CommandingRole, Keys, checked
from soulsai.wire.protocols import Position
from soulsai.wire.redis.connection import RedisConnection
from soulsai.wire.redis.subscriber import Subscriber
from soulsai.wire.training_role import CommandEntry

_BLOCK_SECONDS = 0.25
_EPISODES_PER_CALL = 1000
_COMMANDS_KEPT = 256

_log = logging.getLogger(__name__)


class OperatorRole:
    """Implements ``OperatorWire``, which documents the methods."""

    _who: CommandingRole = "operator"

    def __init__(self, connection: RedisConnection, run: str) -> None:
        self._keys = Keys(run)
        self._connection = connection

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self._keys.run!r})"

    def spec(self) -> RunSpec:
        data = self._connection.execute("GET", self._keys.spec)
        if not data:
            raise NoRun(f"no training run is published under the name {self._keys.run!r} yet")
        return decode(data, RunSpec)

    def status(self) -> Status | None:
        data = self._connection.execute("GET", self._keys.status)
        return decode(data, Status) if data else None

    def command(self, command: Command, timeout: float) -> Answer:
        id = secrets.token_hex(16)
        self._connection.execute(
            *("XADD", self._keys.commands(self._who), "MAXLEN", "~", _COMMANDS_KEPT, "*"),
            *("d", encode(CommandEntry(id, timeout, command))),
        )
        left = timeout
        while left > 0:
            block = min(left, _BLOCK_SECONDS)
            reply = self._connection.execute(
                "BLPOP", self._keys.reply(self._who, id), f"{max(block, 0.001):.3f}"
            )
            if reply:
                return decode(reply[1], Answer)
            left -= block
        raise WireError(
            f"no answer from the training node within {timeout:g} s; is it running? "
            "See `soulsai status`"
        )

    def forget(self, client: str) -> None:
        """Delete a client's stream."""
        self._connection.execute("UNLINK", self._keys.experience(checked("client", client)))

    def close(self) -> None:
        self._connection.close()


class TelemetryRole(OperatorRole):
    """Implements ``TelemetryWire``, which documents the methods."""

    _who: CommandingRole = "telemetry"

    def __init__(self, connection: RedisConnection, run: str) -> None:
        super().__init__(connection, run)
        self.unreadable = 0
        self._subscriber: Subscriber | None = None
        self._counted = Position(0, 0)  # the newest unreadable entry so far

    def episodes(self, after: str, timeout: float) -> list[tuple[str, Episode]]:
        left = timeout
        while True:
            block = min(left, _BLOCK_SECONDS)
            items = self._read(after, block)
            left -= block
            readable = self._readable(items)
            if readable or (not items and left <= 0):
                return readable
            if items:  # none of them can be decoded: read the next ones
                after = items[-1][0].decode()

    def _read(self, after: str, block: float) -> list[tuple[bytes, list[bytes]]]:
        wait = ("BLOCK", max(1, int(block * 1000))) if block > 0 else ()
        reply = self._connection.execute(
            *("XREAD", "COUNT", _EPISODES_PER_CALL, *wait),
            *("STREAMS", self._keys.episodes, after),
        )
        return [item for items in (reply or {}).values() for item in items]

    def _readable(self, items: list[tuple[bytes, list[bytes]]]) -> list[tuple[str, Episode]]:
        """Return the episodes among the entries; count the others, each once."""
        episodes: list[tuple[str, Episode]] = []
        for id, fields in items:
            try:
                episodes.append((id.decode(), decode(fields[1], Episode)))
            except (WireError, IndexError) as error:
                position = position_of(id)
                if position > self._counted:
                    self._counted = position
                    self.unreadable += 1
                    _log.warning("episode skipped id=%s error=%s", id.decode(), error)
        return episodes

    def announce(self, event: Event) -> None:
        self._connection.execute("PUBLISH", self._keys.event, encode(event))

    def events(self, timeout: float) -> Iterable[Event]:
        if self._subscriber is None:
            self._subscriber = Subscriber(self._connection, [self._keys.event])
        heard = self._subscriber.receive(timeout)
        return [decode(data, Event) for _, data in heard if data is not None]

    def close(self) -> None:
        if self._subscriber is not None:
            self._subscriber.close()
        super().close()
