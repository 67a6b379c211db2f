"""One thread for all that takes long, so that the page never takes two cores from the training."""

import asyncio
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import ParamSpec, TypeVar

P = ParamSpec("P")
T = TypeVar("T")

MOST_WAITING = 64


class Busy(Exception):
    """Too much was asked for at once."""


class Worker:
    """Carries out one piece of work after another, beside the event loop."""

    def __init__(self, name: str, most: int = MOST_WAITING) -> None:
        self._thread = ThreadPoolExecutor(1, name)
        self._most = most
        self._waiting = 0

    async def do(self, work: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
        """Return what ``work`` returns; raise ``Busy`` if too many wait already."""
        if self._waiting >= self._most:
            raise Busy("too many requests wait; try again in a moment")
        self._waiting += 1
        try:
            loop = asyncio.get_running_loop()
            return await loop.run_in_executor(self._thread, lambda: work(*args, **kwargs))
        finally:
            self._waiting -= 1

    def close(self) -> None:
        """Finish what was begun, and end the thread."""
        self._thread.shutdown(wait=True, cancel_futures=True)
