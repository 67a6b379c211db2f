"""Feed a sink from a thread of its own, so that a slow sink never delays the record."""

import logging
import threading
import time
from collections import deque
from collections.abc import Callable, Mapping
from typing import Generic, Protocol, TypeVar

from msgspec import Struct

from soulsai.errors import SoulsAIError

MOST = 10_000  # items that wait for one sink; beyond, the oldest are dropped and counted
GRACE = 5.0  # seconds for the remaining items when the connector closes
FIRST_PAUSE, LONGEST_PAUSE = 1.0, 60.0  # seconds after a failure
SHORTEST, LONGEST = 0.5, 60.0  # seconds between two points of one curve
POINTS = 5000  # approximate number of points of one curve; longer runs get wider intervals

_log = logging.getLogger(__name__)
Item = TypeVar("Item", contravariant=True)
Any_ = TypeVar("Any_")


class Sink(Protocol[Item]):
    """A receiver of items; it may be slow, and may raise ``OSError`` or ``SoulsAIError``."""

    def write(self, item: Item) -> None:
        """Write one item."""
        ...

    def flush(self) -> None:
        """Make the written items durable; the queue is empty for the moment."""
        ...

    def close(self) -> None:
        """Release all resources."""
        ...

    def abort(self) -> None:
        """Interrupt a blocked ``write`` from another thread."""
        ...


class Connector(Generic[Any_]):
    """Write items to a sink in the background, and retry after failures at growing intervals.

    ``offer`` never blocks and memory is bounded, however slow or broken the sink is.
    """

    def __init__(
        self,
        name: str,
        sink: Sink[Any_],
        most: int = MOST,
        grace: float = GRACE,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.name = name
        self.dropped = 0
        self.written = 0
        self._sink = sink
        self._most = most
        self._grace = grace
        self._clock = clock
        self._waiting: deque[Any_] = deque()
        self._wake = threading.Condition()
        self._over = False
        self._fault = ""
        self._thread = threading.Thread(target=self._run, name=f"connector-{name}")
        self._thread.start()

    def __repr__(self) -> str:
        return f"<Connector {self.name} written={self.written} dropped={self.dropped}>"

    def offer(self, item: Any_) -> None:
        """Queue an item; a full queue drops its oldest item."""
        with self._wake:
            if len(self._waiting) >= self._most:
                self._waiting.popleft()
                self.dropped += 1
            self._waiting.append(item)
            self._wake.notify()

    @property
    def waiting(self) -> int:
        """The number of queued items."""
        return len(self._waiting)

    def close(self) -> None:
        """Write the queued items within the grace period, then close the sink."""
        with self._wake:
            self._over = True
            self._wake.notify()
        self._thread.join(self._grace)
        if self._thread.is_alive():
            _log.warning("connector %s hangs and is aborted", self.name)
            self._sink.abort()
            self._thread.join()

    def _run(self) -> None:
        pause = FIRST_PAUSE
        while True:
            item, over = self._next()
            if item is None:
                break
            try:
                self._sink.write(item)
                if not self._waiting:
                    self._sink.flush()
            except (OSError, SoulsAIError) as error:
                self._requeue(item, error)
                if over or self._rest(pause):
                    break
                pause = min(2 * pause, LONGEST_PAUSE)
                continue
            self.written += 1
            if self._fault:
                _log.info("connector %s works again", self.name)
            self._fault = ""
            pause = FIRST_PAUSE
        try:
            self._sink.close()
        except (OSError, SoulsAIError) as error:
            _log.warning("connector %s not closed error=%s", self.name, error)

    def _next(self) -> tuple[Any_ | None, bool]:
        with self._wake:
            while not self._waiting and not self._over:
                self._wake.wait()
            return (self._waiting.popleft() if self._waiting else None), self._over

    def _requeue(self, item: Any_, error: Exception) -> None:
        if not self._fault:
            _log.warning("connector %s fails, training goes on error=%s", self.name, error)
        self._fault = str(error)
        with self._wake:
            if len(self._waiting) < self._most:
                self._waiting.appendleft(item)
            else:
                self.dropped += 1

    def _rest(self, seconds: float) -> bool:
        """Wait, and return whether the connector was closed meanwhile."""
        end = self._clock() + seconds
        with self._wake:
            while not self._over and (left := end - self._clock()) > 0:
                self._wake.wait(left)
            return self._over


class Point(Struct, frozen=True):
    """Values of several curves at one moment, by the name of the curve."""

    time: float  # Unix seconds
    env_steps: int
    values: Mapping[str, float]
    video: str = ""  # file of a recorded episode; such a point has no values


class Thinner:
    """Average points over an interval that grows with the run, to bound the points of a curve.

    Episodes that are further apart than the interval pass unchanged.
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._began = clock()
        self._due = self._began
        self._sums: dict[str, float] = {}
        self._counts: dict[str, int] = {}
        self._last = Point(0.0, 0, {})

    def add(self, point: Point) -> Point | None:
        """Add a point, and return the mean of the interval if the interval is over."""
        for name, value in point.values.items():
            self._sums[name] = self._sums.get(name, 0.0) + value
            self._counts[name] = self._counts.get(name, 0) + 1
        self._last = point
        return self.rest() if self._clock() >= self._due else None

    def rest(self) -> Point | None:
        """Return the mean of the points since the last mean, or ``None`` without points."""
        if not self._sums:
            return None
        means = {name: total / self._counts[name] for name, total in self._sums.items()}
        self._sums, self._counts = {}, {}
        now = self._clock()
        self._due = now + min(max(SHORTEST, (now - self._began) / POINTS), LONGEST)
        return Point(self._last.time, self._last.env_steps, means)
