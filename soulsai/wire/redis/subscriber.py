"""Messages of a server's channels, received by one thread and handed over without polling."""

import random
import threading
import time
from collections import deque
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

from redis import exceptions
from redis.client import PubSub

from soulsai.errors import Unreachable, WireError
from soulsai.wire.redis.connection import RedisConnection

_SILENCE_SECONDS = 5.0  # before a ping; after twice that the connection counts as broken
_POLL_SECONDS = 0.1  # of the thread between two looks at whether it is to end
_FIRST_DELAY, _LAST_DELAY = 0.1, 10.0  # before connecting again
_MESSAGES_KEPT = 1024


class ChannelMessage(NamedTuple):
    """A message of a channel; ``None`` marks a new subscription: earlier messages may be missed."""

    channel: str
    data: bytes | None


class Subscriber:
    """Receives the messages of channels; only ``wake`` and ``close`` may come from other threads.

    The first ``receive`` starts the thread and waits until it is connected or has failed to
    connect. The thread reconnects with full jitter, and ``close`` joins it.
    """

    def __init__(
        self,
        connection: RedisConnection,
        channels: Sequence[str],
        clock: Callable[[], float] = time.monotonic,
        rng: random.Random | None = None,
    ) -> None:
        self._connection = connection
        self._channels = channels
        self._clock = clock
        self._rng = rng or random.Random()
        self._changed = threading.Condition()
        self._messages: deque[ChannelMessage] = deque()
        self._problem: WireError | None = None
        self._attempted = False  # to connect, with or without success
        self._woken = False
        self._closed = threading.Event()
        self._thread: threading.Thread | None = None

    def receive(self, timeout: float) -> list[ChannelMessage]:
        """Return the messages since the last call, waiting up to ``timeout`` seconds for the first.

        ``wake`` ends the wait.

        Raises:
            Unreachable: There is no connection; raised at the end of the wait.
            AccessDenied: The server refuses the user.
        """
        if self._closed.is_set():
            raise Unreachable("this subscription is closed")
        if self._thread is None:
            self._thread = threading.Thread(target=self._run, name="subscriber")
            self._thread.start()
        with self._changed:
            self._changed.wait_for(lambda: self._attempted or self._closed.is_set())
            self._changed.wait_for(
                lambda: self._messages or self._woken or self._closed.is_set(), timeout
            )
            self._woken = False
            messages = list(self._messages)
            self._messages.clear()
            if self._problem is not None and not messages:
                raise self._problem
        return messages

    def wake(self) -> None:
        """End a ``receive`` now, or the next one at once."""
        with self._changed:
            self._woken = True
            self._changed.notify_all()

    def close(self) -> None:
        """End the thread and its connection; a ``receive`` that waits ends."""
        self._closed.set()
        self.wake()
        if self._thread is not None:
            self._thread.join()

    def _run(self) -> None:
        delay = _FIRST_DELAY
        while not self._has_ended():
            try:
                pubsub = self._connection.subscribe(self._channels)
            except (exceptions.RedisError, WireError) as error:
                self._fail(error)
            else:
                delay = _FIRST_DELAY
                try:
                    self._receive(pubsub)
                except (exceptions.RedisError, WireError) as error:
                    self._fail(error)
                finally:
                    pubsub.close()
            self._closed.wait(self._rng.uniform(0, delay))
            delay = min(2 * delay, _LAST_DELAY)

    def _receive(self, pubsub: PubSub) -> None:
        heard_at, pinged = self._clock(), False
        while not self._has_ended():
            received = pubsub.get_message(timeout=_POLL_SECONDS)
            if received is not None:
                heard_at, pinged = self._clock(), False
                self._accept(received)
                continue
            silence = self._clock() - heard_at
            if silence >= 2 * _SILENCE_SECONDS and pinged:
                raise Unreachable(f"{self._connection!r} is silent")
            if silence >= _SILENCE_SECONDS and not pinged:
                pubsub.ping()
                pinged = True

    def _has_ended(self) -> bool:
        # A subscriber that nobody closed must not keep a process alive that is about to exit.
        return self._closed.is_set() or not threading.main_thread().is_alive()

    def _accept(self, received: dict[str, Any]) -> None:
        if received["type"] not in ("message", "subscribe"):
            return
        data = received["data"] if received["type"] == "message" else None
        with self._changed:
            self._problem, self._attempted = None, True
            if len(self._messages) < _MESSAGES_KEPT:
                self._messages.append(ChannelMessage(received["channel"].decode(), data))
            else:  # nobody has received for long: read the stored values anew instead
                self._messages.clear()
                self._messages.extend(ChannelMessage(name, None) for name in self._channels)
            self._changed.notify_all()

    def _fail(self, error: exceptions.RedisError | WireError) -> None:
        if isinstance(error, exceptions.RedisError):
            error = self._connection.translated(error)
        with self._changed:
            self._problem, self._attempted = error, True
            self._changed.notify_all()
