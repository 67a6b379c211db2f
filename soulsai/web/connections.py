"""Bound the connections of the page, so that silent and slow ones never close it for others."""

import asyncio
from collections.abc import Iterable
from typing import Any

from starlette.responses import PlainTextResponse
from starlette.types import ASGIApp, Receive, Scope, Send
from uvicorn.protocols.http.h11_impl import H11Protocol

MOST_CONNECTIONS = 256
MOST_PER_ADDRESS = 128
HEALTH_ONLY = 32  # more connections, which get the health check and nothing else
REQUEST_SECONDS = 10.0  # from the connection, or from the last answer, to the next whole request
TAKEN_SECONDS = 30.0  # that an answer may wait for its reader without a pause in between
HEALTH = "/healthz"


class BoundedProtocol(H11Protocol):
    """A connection that ends without a request in time, or to make room for a new one.

    A new connection beyond a limit closes the one that has been idle for longest, or else the one
    whose other side has let us wait longest, by not sending its body or not reading our answer.
    Only if all others are in use, the new one is refused, except for the health check.
    """

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.idle_since = self.loop.time()
        self._unread_since: float | None = None
        self._timer: asyncio.TimerHandle | None = None
        self._taken_timer: asyncio.TimerHandle | None = None

    @property
    def idle(self) -> bool:
        """Whether no request is in progress."""
        return self.cycle is None or self.cycle.response_complete

    @property
    def stalled_since(self) -> float | None:
        """The time since when the other side lets us wait for its body, or does not read."""
        if self._unread_since is not None:
            return self._unread_since
        return self.idle_since if self.cycle is not None and self.cycle.more_body else None

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """Register the connection and close others if there are too many."""
        super().connection_made(transport)
        self._expect_request()
        host = self.client[0] if self.client else ""
        every: set[Any] = self.connections
        same = [one for one in every if one.client and one.client[0] == host]
        admitted = len(same) <= MOST_PER_ADDRESS or self._close_one(same)
        if len(every) > MOST_CONNECTIONS and not self._close_one(every):
            admitted = False
        if not admitted:
            self.app = _health_only(self.app)
        if len(every) > MOST_CONNECTIONS + HEALTH_ONLY:
            self.close()

    def connection_lost(self, exc: Exception | None) -> None:
        """Stop the timer."""
        for timer in (self._timer, self._taken_timer):
            if timer:
                timer.cancel()
        super().connection_lost(exc)

    def pause_writing(self) -> None:
        """Wait until the reader has taken some of the answer."""
        super().pause_writing()
        self._unread_since = self.loop.time()
        self._taken_timer = self.loop.call_later(TAKEN_SECONDS, self.close)

    def resume_writing(self) -> None:
        """Go on with the answer."""
        super().resume_writing()
        self._unread_since = None
        if self._taken_timer:
            self._taken_timer.cancel()

    def on_response_complete(self) -> None:
        """Wait for the next request."""
        super().on_response_complete()
        self._expect_request()

    def close(self) -> None:
        """Drop the connection at once."""
        self.connections.discard(self)
        self.transport.abort()

    def _expect_request(self) -> None:
        if self._timer:
            self._timer.cancel()
        self.idle_since = self.loop.time()
        self._timer = self.loop.call_later(REQUEST_SECONDS, self._expire)

    def _expire(self) -> None:
        if self.idle:
            self.close()

    def _close_one(self, connections: Iterable[Any]) -> bool:
        """Close the longest idle or stalled connection beside this one, if there is one."""
        others = [one for one in connections if one is not self]
        if idle := [one for one in others if one.idle]:
            min(idle, key=lambda one: one.idle_since).close()
            return True
        if stalled := [one for one in others if one.stalled_since is not None]:
            min(stalled, key=lambda one: one.stalled_since).close()
            return True
        return False


def _health_only(app: ASGIApp) -> ASGIApp:
    async def _respond(scope: Scope, receive: Receive, send: Send) -> None:
        full = PlainTextResponse("too many connections; try again in a moment\n", 503)
        await (app if scope["path"] == HEALTH else full)(scope, receive, send)

    return _respond
