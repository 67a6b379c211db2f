"""Listening to a server's channels without busy waiting, and being woken from another thread."""

import random
import selectors
import socket
import threading
import time
from collections.abc import Callable, Sequence
from typing import Any

from redis import exceptions

from soulsai.errors import Unreachable, WireError
from soulsai.wire.link import Heard
from soulsai.wire.redis.connection import Connected, Dialler, socket_of, translated

_SILENCE_SECONDS = 5.0  # then we ask whether the server is still there; after twice that it is not
_FIRST_DELAY, _LAST_DELAY = 0.1, 10.0  # before connecting again


class RedisEar:
    """Implements ``Ear`` with one connection; it reconnects with full jitter, in ``listen``."""

    def __init__(
        self,
        dialler: Dialler,
        channels: Sequence[str],
        clock: Callable[[], float] = time.monotonic,
        rng: random.Random | None = None,
    ) -> None:
        self._dialler = dialler
        self._channels = channels
        self._clock = clock
        self._rng = rng or random.Random()
        self._connection: Connected | None = None
        self._wake_in, self._wake_out = socket.socketpair()
        self._wake_in.setblocking(False)
        self._wake_out.setblocking(False)
        self._listening = threading.Lock()
        self._closed = False
        self._delay = _FIRST_DELAY
        self._not_before = 0.0
        self._heard_at = 0.0
        self._asked = False  # whether the server is still there

    def listen(self, timeout: float) -> list[Heard]:
        """Sleep until something is said, ``wake`` is called, or ``timeout`` seconds have passed."""
        with self._listening:
            until = self._clock() + timeout
            try:
                return self._listen(until)
            except exceptions.RedisError as error:
                problem = translated(error, repr(self._dialler))
            except WireError as error:
                problem = error
            self._drop()
            self._sleep(until, None)
            raise problem

    def wake(self) -> None:
        """End a ``listen`` now, or the next one at once."""
        try:
            self._wake_in.send(b"!")
        except (BlockingIOError, OSError):
            return  # full, so it will wake already; or closed

    def close(self) -> None:
        """Let go of the connection; a ``listen`` that sleeps ends."""
        self._closed = True
        self.wake()
        with self._listening:
            self._drop()
            self._wake_in.close()
            self._wake_out.close()

    def _listen(self, until: float) -> list[Heard]:
        connection = self._connected()
        heard: list[Heard] = []
        while True:
            # First what is buffered already, by redis-py or by TLS: no socket tells of that.
            while connection.can_read(0):
                self._heard_at, self._asked = self._clock(), False
                heard += _heard(connection.read_response(disable_decoding=True, push_request=True))
            if heard or self._clock() >= until:
                return heard
            if self._sleep(min(until, self._check_silence(connection)), connection):
                return heard

    def _check_silence(self, connection: Connected) -> float:
        """Ask the server for a sign of life where it is due; return when to look again."""
        due = self._heard_at + _SILENCE_SECONDS * (2 if self._asked else 1)
        if self._clock() < due:
            return due
        if self._asked:
            raise Unreachable(f"{self._dialler!r} is silent")
        connection.send_command("PING", check_health=False)
        self._asked = True
        return due + _SILENCE_SECONDS

    def _connected(self) -> Connected:
        if self._closed:
            raise Unreachable("this wire is closed")
        if self._connection is not None:
            return self._connection
        if self._clock() < self._not_before:
            raise Unreachable(f"{self._dialler!r} could not be reached; trying again soon")
        self._not_before = self._clock() + self._rng.uniform(0, self._delay)
        self._delay = min(2 * self._delay, _LAST_DELAY)
        connection = self._dialler.dial()
        connection.send_command("SUBSCRIBE", *self._channels, check_health=False)
        self._connection = connection
        self._delay = _FIRST_DELAY
        self._heard_at, self._asked = self._clock(), False
        return connection

    def _sleep(self, until: float, connection: Connected | None) -> bool:
        """Sleep until there is something to read, or woken; return whether we were woken."""
        with selectors.DefaultSelector() as selector:
            selector.register(self._wake_out, selectors.EVENT_READ)
            if connection is not None:
                selector.register(_live_socket(connection), selectors.EVENT_READ)
            ready = selector.select(max(0.0, until - self._clock()))
        woken = any(key.fileobj is self._wake_out for key, _ in ready)
        if woken:
            self._wake_out.recv(4096)
        return woken

    def _drop(self) -> None:
        if self._connection is not None:
            self._connection.disconnect()
            self._connection = None


def _live_socket(connection: Connected) -> socket.socket:
    found = socket_of(connection)
    if found is None:
        raise exceptions.ConnectionError("the connection is closed")
    return found


def _heard(said: Any) -> list[Heard]:
    """Return what one message from the server says, if anything that concerns us."""
    if not isinstance(said, list) or len(said) != 3:
        return []
    kind, channel, data = said
    if kind == b"message":
        return [Heard(channel.decode(), data)]
    return [Heard(channel.decode(), None)] if kind == b"subscribe" else []
