"""A port on loopback for one game at a time: JSON lines, MessagePack frames, or a WebSocket.

The first bytes decide: ``GET`` begins a WebSocket, a zero byte the length of a frame (u32,
big-endian), and anything else a line of JSON.
"""

import functools
import ipaddress
import re
import socket
from collections.abc import Callable
from importlib.util import find_spec
from typing import Any, Protocol

import msgspec

from soulsai.errors import ConfigError, SoulsAIError

MOST_BYTES = 16 * 2**20  # of a message
POLL_SECONDS = 0.2  # between two checks of ``stopped``
GREETING_SECONDS = 5.0  # for the first bytes of a game
_CHUNK = 65_536
_LOCAL_PAGE = re.compile(r"https?://(localhost|127\.0\.0\.1|\[::1\])(:\d+)?\Z")

Stopped = Callable[[], bool]


class GameGone(SoulsAIError):
    """The game has closed its connection, or does not keep to the protocol."""


class GameConnection(Protocol):
    """Messages to and from a game."""

    def receive(self, stopped: Stopped) -> bytes | None:
        """Return the next message, or ``None`` once ``stopped()``; raise ``GameGone``."""

    def send(self, value: Any) -> None:
        """Send a value; raise ``GameGone``."""

    def decode(self, data: bytes, kind: Any) -> Any:
        """Return a message as a type of msgspec; raise ``msgspec.MsgspecError``."""

    def close(self) -> None:
        """Close the connection."""


class Door:
    """Listens on a port of this machine; only programs of this machine can reach it."""

    def __init__(self, port: int, origins: tuple[str, ...] = ()) -> None:
        """Listen.

        Args:
            port: The port; 0 for any.
            origins: Web pages that may connect, beside those of this machine, such as
                ``https://example.org``.
        """
        self._origins = origins
        self._listener = socket.create_server(("127.0.0.1", port), backlog=1)
        self.port: int = self._listener.getsockname()[1]

    def __repr__(self) -> str:
        return f"Door(127.0.0.1:{self.port})"

    def accept(self, timeout: float) -> GameConnection | None:
        """Return a game's connection, if one comes within ``timeout`` seconds."""
        self._listener.settimeout(max(timeout, 0.001))
        try:
            link, _ = self._listener.accept()
        except TimeoutError:
            return None
        link.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        link.settimeout(GREETING_SECONDS)
        try:
            first = link.recv(4, socket.MSG_PEEK)
            link.settimeout(POLL_SECONDS)
            return self._connection(link, first)
        except (OSError, GameGone):
            link.close()
            return None

    def _connection(self, link: socket.socket, first: bytes) -> GameConnection:
        if first.startswith(b"GET"):
            return WebSocketConnection(link, self._is_welcome)
        if first.startswith(b"\0"):
            return FrameConnection(link)
        return LineConnection(link)

    def _is_welcome(self, origin: str | None) -> bool:
        """Return whether a page may connect; programs that are no browsers name no origin."""
        return origin is None or origin in self._origins or bool(_LOCAL_PAGE.match(origin))

    def close(self) -> None:
        """Stop listening."""
        self._listener.close()


class _Link:
    """A socket, and the bytes that have come."""

    def __init__(self, link: socket.socket) -> None:
        self._socket = link
        self._buffer = bytearray()

    def _more(self, stopped: Stopped) -> bytes | None:
        """Return new bytes, or ``None`` once ``stopped()``."""
        while not stopped():
            try:
                data = self._socket.recv(_CHUNK)
            except TimeoutError:
                continue
            except OSError as error:
                raise GameGone(f"the game's connection broke: {error}") from error
            if not data:
                raise GameGone("the game has closed its connection")
            return data
        return None

    def _fill(self, stopped: Stopped) -> bool:
        data = self._more(stopped)
        if data is None:
            return False
        self._buffer += data
        if len(self._buffer) > MOST_BYTES:
            raise GameGone(f"a message of the game is over {MOST_BYTES} bytes")
        return True

    def _write(self, data: bytes) -> None:
        try:
            self._socket.sendall(data)
        except OSError as error:
            raise GameGone(f"the game's connection broke: {error}") from error

    def close(self) -> None:
        """Close the connection."""
        self._socket.close()


class LineConnection(_Link):
    """One line of JSON for each message."""

    def receive(self, stopped: Stopped) -> bytes | None:
        """Return the next line."""
        searched = 0
        while (end := self._buffer.find(b"\n", searched)) < 0:
            searched = len(self._buffer)
            if not self._fill(stopped):
                return None
        line = bytes(self._buffer[:end])
        del self._buffer[: end + 1]
        return line

    def send(self, value: Any) -> None:
        """Send a line."""
        self._write(msgspec.json.encode(value) + b"\n")

    def decode(self, data: bytes, kind: Any) -> Any:
        """Return the message in a line."""
        return _decoder(msgspec.json.Decoder, kind).decode(data)


class FrameConnection(_Link):
    """The length of each message (u32, big-endian), and its MessagePack."""

    def receive(self, stopped: Stopped) -> bytes | None:
        """Return the content of the next frame."""
        while len(self._buffer) < 4 or len(self._buffer) < 4 + self._length():
            if not self._fill(stopped):
                return None
        end = 4 + self._length()
        data = bytes(self._buffer[4:end])
        del self._buffer[:end]
        return data

    def _length(self) -> int:
        length = int.from_bytes(self._buffer[:4], "big")
        if length > MOST_BYTES - 4:
            raise GameGone(f"a frame of {length} bytes is over {MOST_BYTES}")
        return length

    def send(self, value: Any) -> None:
        """Send a frame."""
        data = msgspec.msgpack.encode(value)
        self._write(len(data).to_bytes(4, "big") + data)

    def decode(self, data: bytes, kind: Any) -> Any:
        """Return the message in a frame."""
        return _decoder(msgspec.msgpack.Decoder, kind).decode(data)


class WebSocketConnection(_Link):
    """A text message of JSON, or a binary one of MessagePack, for each message."""

    def __init__(self, link: socket.socket, is_welcome: Callable[[str | None], bool]) -> None:
        super().__init__(link)
        if find_spec("websockets") is None:
            raise ConfigError('websockets: not installed; pip install "soulsai[bridge]"')
        from websockets.server import ServerProtocol

        self._protocol = ServerProtocol(max_size=MOST_BYTES)
        self._events: list[Any] = []
        self._is_binary = False
        link.settimeout(GREETING_SECONDS)
        while not self._events:
            data = link.recv(_CHUNK)
            if not data:
                raise GameGone("the page has closed its connection")
            self._take(data)
        request = self._events.pop(0)
        origin = request.headers.get("Origin")
        if not is_welcome(origin) or not _is_loopback(request.headers.get("Host", "")):
            self._protocol.send_response(
                self._protocol.reject(403, f"pages of {origin} may not play: see --origin\n")
            )
            self._flush()
            raise GameGone(f"a page of {origin} was refused")
        self._protocol.send_response(self._protocol.accept(request))
        self._flush()
        link.settimeout(POLL_SECONDS)

    def _take(self, data: bytes) -> None:
        self._protocol.receive_data(data)
        self._events += self._protocol.events_received()

    def _flush(self) -> None:
        for data in self._protocol.data_to_send():
            if data:
                self._write(data)

    def receive(self, stopped: Stopped) -> bytes | None:
        """Return the content of the next message."""
        from websockets.frames import Opcode

        parts: list[bytes] = []
        while True:
            while self._events:
                frame = self._events.pop(0)
                if frame.opcode in (Opcode.TEXT, Opcode.BINARY):
                    self._is_binary = frame.opcode is Opcode.BINARY
                elif frame.opcode is Opcode.CLOSE:
                    self._flush()
                    raise GameGone("the page has closed its connection")
                elif frame.opcode is not Opcode.CONT:
                    continue
                parts.append(bytes(frame.data))
                if frame.fin:
                    return b"".join(parts)
            data = self._more(stopped)
            if data is None:
                return None
            self._take(data)
            self._flush()  # answers to pings

    def send(self, value: Any) -> None:
        """Send a message of the kind that came last."""
        from websockets.exceptions import InvalidState

        try:
            if self._is_binary:
                self._protocol.send_binary(msgspec.msgpack.encode(value))
            else:
                self._protocol.send_text(msgspec.json.encode(value))
        except InvalidState as error:
            raise GameGone("the page is closing its connection") from error
        self._flush()

    def decode(self, data: bytes, kind: Any) -> Any:
        """Return the content of a message."""
        decoder = msgspec.msgpack.Decoder if self._is_binary else msgspec.json.Decoder
        return _decoder(decoder, kind).decode(data)


@functools.cache
def _decoder(form: Any, kind: Any) -> Any:
    """Return the decoder of a type; without one, msgspec resolves the type for each message."""
    return form(kind)


def _is_loopback(host: str) -> bool:
    """Return whether a Host header names this machine: another name may be rebound to it."""
    name = host.rpartition(":")[0] if re.search(r":\d+\Z", host) else host
    if name == "localhost":
        return True
    try:
        return ipaddress.ip_address(name.strip("[]")).is_loopback
    except ValueError:
        return False
