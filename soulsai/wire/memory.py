"""The server's commands carried out in this process: for tests, and to play without a server."""

import fnmatch
import threading
import time
from collections.abc import Callable, Sequence
from typing import Any

from soulsai.errors import ServerFull, Unreachable, WireError
from soulsai.wire.client_role import ClientRole
from soulsai.wire.link import Command, Heard, OldId, Word
from soulsai.wire.protocols import ClientWire, OperatorWire, TelemetryWire, TrainingWire
from soulsai.wire.signing import Signer, Verifier
from soulsai.wire.training_role import TrainingRole
from soulsai.wire.watching_roles import OperatorRole, TelemetryRole
from soulsai.wire.weights import WeightsDtype

_Id = tuple[int, int]
_LAST_ID = (2**64 - 1, 2**64 - 1)


class _Stream:
    """Entries in order, and the greatest id ever, which trimming does not forget."""

    def __init__(self) -> None:
        self.entries: list[tuple[_Id, list[bytes]]] = []
        self.last: _Id = (0, 0)


class MemoryServer:
    """Behaves as a Redis does towards our roles, bytes and all; safe between threads.

    ``limit`` bounds the bytes stored, as ``maxmemory`` with ``noeviction`` does. While ``down``
    is set, everybody gets ``Unreachable``.
    """

    def __init__(
        self,
        run: str = "soulsai",
        clock: Callable[[], float] = time.time,
        limit: int | None = None,
    ) -> None:
        self.down = False
        self.limit = limit
        self._run = run
        self._clock = clock
        self._changed = threading.Condition()
        self._values: dict[str, Any] = {}
        self._deadlines: dict[str, float] = {}
        self._ears: list[_MemoryEar] = []

    def client(self, name: str, verifier: Verifier | None = None) -> ClientWire:
        """Return the wire of a client."""
        return ClientRole(self, self._run, name, verifier)

    def training(
        self, dtype: WeightsDtype = "float32", signer: Signer | None = None
    ) -> TrainingWire:
        """Return the wire of a training node."""
        return TrainingRole(self, self._run, dtype, signer)

    def telemetry(self) -> TelemetryWire:
        """Return the wire of a telemetry node."""
        return TelemetryRole(self, self._run)

    def operator(self) -> OperatorWire:
        """Return the wire of an operator."""
        return OperatorRole(self, self._run)

    def link(self) -> "_MemoryLink":
        """Return a connection for commands."""
        return _MemoryLink(self)

    def ear(self, *channels: str) -> "_MemoryEar":
        """Return a connection that listens to those channels."""
        return _MemoryEar(self, channels)

    def execute(self, command: Command) -> Any:
        """Carry out one command and return its reply, which may be an error."""
        name = str(command[0]).lower()
        words = [_bytes(word) for word in command[1:]]
        with self._changed:
            if self.down:
                raise Unreachable("the server is down")
            self._expire()
            try:
                reply = _COMMANDS[name](self, words)
            except WireError as error:
                return error
            self._changed.notify_all()
            return reply

    def wait(self, command: Command, seconds: float, closed: threading.Event) -> Any:
        """Carry out a command until it has a reply or the time is over."""
        deadline = time.monotonic() + seconds
        while True:
            with self._changed:
                reply = self.execute(command)
                left = deadline - time.monotonic()
                if reply is not None or left <= 0 or closed.is_set():
                    return reply
                self._changed.wait(left)

    # The commands our roles use, as the server documents them.

    def _get(self, words: list[bytes]) -> bytes | None:
        return self._values.get(_key(words[0]))

    def _getrange(self, words: list[bytes]) -> bytes:
        value: bytes = self._values.get(_key(words[0]), b"")
        return value[int(words[1]) : int(words[2]) + 1]

    def _set(self, words: list[bytes]) -> bytes:
        self._make_room(len(words[1]))
        key = _key(words[0])
        self._values[key] = words[1]
        self._deadlines.pop(key, None)
        if len(words) > 2:
            self._deadlines[key] = self._clock() + int(words[3])
        return b"OK"

    def _incr(self, words: list[bytes]) -> int:
        value = int(self._values.get(_key(words[0]), b"0")) + 1
        self._values[_key(words[0])] = b"%d" % value
        return value

    def _unlink(self, words: list[bytes]) -> int:
        for word in words:
            self._deadlines.pop(_key(word), None)
        return sum(self._values.pop(_key(word), None) is not None for word in words)

    def _expire_in(self, words: list[bytes]) -> int:
        if _key(words[0]) not in self._values:
            return 0
        self._deadlines[_key(words[0])] = self._clock() + int(words[1])
        return 1

    def _persist(self, words: list[bytes]) -> int:
        return int(self._deadlines.pop(_key(words[0]), None) is not None)

    def _scan(self, words: list[bytes]) -> list[Any]:
        pattern = _key(words[2])
        return [b"0", [key.encode() for key in self._values if fnmatch.fnmatchcase(key, pattern)]]

    def _time(self, _: list[bytes]) -> list[bytes]:
        now = self._clock()
        return [b"%d" % int(now), b"%d" % int(now % 1 * 1e6)]

    def _publish(self, words: list[bytes]) -> int:
        ears = [ear for ear in self._ears if _key(words[0]) in ear.channels]
        for ear in ears:
            ear.hear(Heard(_key(words[0]), words[1]))
        return len(ears)

    def _rpush(self, words: list[bytes]) -> int:
        self._make_room(len(words[1]))
        values: list[bytes] = self._values.setdefault(_key(words[0]), [])
        values.append(words[1])
        return len(values)

    def _blpop(self, words: list[bytes]) -> list[bytes] | None:
        values: list[bytes] = self._values.get(_key(words[0]), [])
        if not values:
            return None
        value = values.pop(0)
        if not values:
            self._unlink(words[:1])
        return [words[0], value]

    def _xadd(self, words: list[bytes]) -> bytes:
        key, _, _, most, id, *fields = words
        self._make_room(sum(map(len, fields)))
        stream: _Stream = self._values.get(_key(key), _Stream())
        new = self._next_id(stream) if id == b"*" else _id(id)
        if new <= stream.last or stream.last == _LAST_ID:
            raise OldId("The ID specified in XADD is equal or smaller than the top item")
        self._values[_key(key)] = stream
        stream.entries.append((new, fields))
        stream.last = new
        # Redis trims whole nodes of a hundred entries; more are kept there, never fewer.
        del stream.entries[: max(0, len(stream.entries) - int(most))]
        return b"%d-%d" % new

    def _next_id(self, stream: _Stream) -> _Id:
        now = int(self._clock() * 1000)
        last, seq = stream.last
        return (now, 0) if now > last else (last, seq + 1) if seq + 1 < 2**64 else (last + 1, 0)

    def _xtrim(self, words: list[bytes]) -> int:
        stream: _Stream | None = self._values.get(_key(words[0]))
        if stream is None:
            return 0
        before = len(stream.entries)
        if words[1] == b"MAXLEN":
            stream.entries = stream.entries[max(0, before - int(words[2])) :]
            return before - len(stream.entries)
        stream.entries = [entry for entry in stream.entries if entry[0] >= _id(words[2])]
        return before - len(stream.entries)

    def _xread(self, words: list[bytes]) -> dict[bytes, list[Any]] | None:
        count = int(words[1])
        words = words[words.index(b"STREAMS") + 1 :]
        half = len(words) // 2
        found: dict[bytes, list[Any]] = {}
        for key, after in zip(words[:half], words[half:], strict=True):
            stream: _Stream | None = self._values.get(_key(key))
            if stream is None or stream.last <= _id(after):
                continue
            later = [entry for entry in stream.entries if entry[0] > _id(after)][:count]
            if later:
                found[key] = [[b"%d-%d" % id, fields] for id, fields in later]
        return found or None

    def _make_room(self, size: int) -> None:
        if self.limit is not None and self._size() + size > self.limit:
            raise ServerFull("the server's memory is used up")

    def _size(self) -> int:
        total = 0
        for value in self._values.values():
            if isinstance(value, _Stream):
                total += sum(len(word) for _, fields in value.entries for word in fields)
            else:
                total += sum(map(len, value)) if isinstance(value, list) else len(value)
        return total

    def _expire(self) -> None:
        now = self._clock()
        for key in [key for key, deadline in self._deadlines.items() if deadline <= now]:
            del self._deadlines[key]
            self._values.pop(key, None)


_COMMANDS: dict[str, Callable[[MemoryServer, list[bytes]], Any]] = {
    "get": MemoryServer._get,
    "getrange": MemoryServer._getrange,
    "set": MemoryServer._set,
    "incr": MemoryServer._incr,
    "unlink": MemoryServer._unlink,
    "expire": MemoryServer._expire_in,
    "persist": MemoryServer._persist,
    "scan": MemoryServer._scan,
    "time": MemoryServer._time,
    "publish": MemoryServer._publish,
    "rpush": MemoryServer._rpush,
    "blpop": MemoryServer._blpop,
    "xadd": MemoryServer._xadd,
    "xtrim": MemoryServer._xtrim,
    "xread": MemoryServer._xread,
}


class _MemoryLink:
    """Implements ``Link`` by calls."""

    def __init__(self, server: MemoryServer) -> None:
        self._server = server
        self._closed = threading.Event()

    def ask(self, *command: Word) -> Any:
        self._check()
        name = command[0]
        if name == "BLPOP":
            reply = self._server.wait(command, float(command[-1]), self._closed)
        elif "BLOCK" in command[:5]:
            seconds = int(command[command.index("BLOCK") + 1]) / 1000
            reply = self._server.wait(command, seconds, self._closed)
        else:
            reply = self._server.execute(command)
        if isinstance(reply, WireError):
            raise reply
        return reply

    def ask_all(self, commands: Sequence[Command]) -> list[Any]:
        self._check()
        return [self._server.execute(command) for command in commands]

    def close(self) -> None:
        self._closed.set()

    def _check(self) -> None:
        if self._closed.is_set():
            raise Unreachable("this wire is closed")


class _MemoryEar:
    """Implements ``Ear``; subscribed at the first ``listen``, as the real one."""

    def __init__(self, server: MemoryServer, channels: tuple[str, ...]) -> None:
        self.channels = channels
        self._server = server
        self._said = threading.Condition()
        self._heard: list[Heard] = []
        self._woken = False
        self._listening = False

    def listen(self, timeout: float) -> list[Heard]:
        self._follow_server()
        with self._said:
            self._said.wait_for(lambda: self._heard or self._woken, timeout)
            heard, self._heard = self._heard, []
            self._woken = False
        if self._server.down:
            raise Unreachable("the server is down")
        return heard

    def hear(self, heard: Heard) -> None:
        with self._said:
            self._heard.append(heard)
            self._said.notify_all()

    def wake(self) -> None:
        with self._said:
            self._woken = True
            self._said.notify_all()

    def close(self) -> None:
        if self in self._server._ears:
            self._server._ears.remove(self)

    def _follow_server(self) -> None:
        """Lose the subscription with the server, and begin anew when it is back."""
        if self._server.down and self._listening:
            self._listening = False
            self.close()
        elif not self._server.down and not self._listening:
            self._listening = True
            self._server._ears.append(self)
            for channel in self.channels:
                self.hear(Heard(channel, None))


def _bytes(word: Word) -> bytes:
    return word if isinstance(word, bytes) else str(word).encode()


def _key(word: bytes) -> str:
    return word.decode("utf-8", "replace")


def _id(word: bytes) -> _Id:
    epoch, _, seq = word.partition(b"-")
    return int(epoch), int(seq)
