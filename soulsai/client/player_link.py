"""What passes between the thread that plays and the one that talks to the server."""

import threading
from collections import deque
from collections.abc import Callable
from typing import Literal, NamedTuple, Protocol

from msgspec import Struct

from soulsai.client.actor import Actor
from soulsai.types import Episode, Fragment, Pointer

MAX_MESSAGES = 128  # taken for one entry


class Instructions(NamedTuple):
    """What the server wants now; replaced as a whole, never changed."""

    pointer: Pointer | None = None  # of the newest version that has come, with its quota and knobs
    actor: Actor | None = None  # the newest version that is ready to act
    paused: bool = False
    over: Literal["", "stop", "run", "error"] = ""  # why to play no longer

    @property
    def knobs(self) -> dict[str, float]:
        """The newest version's numbers for the head."""
        return self.pointer.knobs if self.pointer is not None else {}


class PlayerProgress(Struct):
    """What the player has done in this epoch; only he writes it."""

    steps: int = 0
    episodes: int = 0
    version: int = 0  # of the newest weights acted with
    waiting: bool = False  # for weights, or because the quota is spent
    discarded: int = 0  # env steps of fragments that were unfinished when an environment broke
    restarts: int = 0  # of environments
    faults: dict[str, int] = {}  # of environments, by kind; replaced as a whole, never changed
    trouble: str = ""  # the last fault of an environment


class PlayerLink(Protocol):
    """The other end, as the player sees it."""

    @property
    def orders(self) -> Instructions:
        """The newest orders."""
        ...

    def send(self, message: Fragment | Episode) -> None:
        """Take a message to be sent some time; its arrays are copied, and it never waits."""
        ...

    def wait(self, orders: Instructions, timeout: float) -> None:
        """Return when the orders are others than those given, or after ``timeout`` seconds."""
        ...


class _Waiting(NamedTuple):
    order: int
    steps: int
    data: bytes
    since: float


class Outbox:
    """A queue of encoded messages between the thread that plays and the one that sends.

    Fragments (``steps`` > 0) are dropped first, oldest first, when there is no room; what is
    small and tells of more, such as episodes, only when no fragment is left.
    """

    def __init__(self, limit: int, clock: Callable[[], float]) -> None:
        self.dropped = 0  # env steps
        self._limit = limit
        self._clock = clock
        self._lock = threading.Lock()
        self._fragments: deque[_Waiting] = deque()
        self._notes: deque[_Waiting] = deque()
        self._bytes = 0
        self._order = 0

    def __len__(self) -> int:
        """Return the number of messages waiting."""
        return len(self._fragments) + len(self._notes)

    @property
    def size(self) -> int:
        """How many bytes wait."""
        return self._bytes

    def put(self, data: bytes, steps: int = 0) -> None:
        """Append a message, dropping older ones if there is no room."""
        with self._lock:
            self._order += 1
            waiting = _Waiting(self._order, steps, data, self._clock())
            (self._fragments if steps else self._notes).append(waiting)
            self._bytes += len(data)
            while self._bytes > self._limit:
                oldest = (self._fragments or self._notes).popleft()
                self._bytes -= len(oldest.data)
                self.dropped += oldest.steps

    def take(self, most: int) -> list[bytes]:
        """Remove and return the oldest messages, in order: one, and more up to ``most`` bytes."""
        taken: list[bytes] = []
        size = 0
        with self._lock:
            while (queue := self._oldest()) and len(taken) < MAX_MESSAGES:
                size += len(queue[0].data)
                if taken and size > most:
                    break
                taken.append(queue.popleft().data)
                self._bytes -= len(taken[-1])
        return taken

    def oldest(self) -> float | None:
        """Return since when the oldest message waits, if there is one."""
        with self._lock:
            queue = self._oldest()
            return queue[0].since if queue else None

    def _oldest(self) -> deque[_Waiting]:
        """Return the queue whose turn it is; an empty one if nothing waits."""
        if not self._fragments or not self._notes:
            return self._fragments or self._notes
        return min(self._fragments, self._notes, key=lambda queue: queue[0].order)
