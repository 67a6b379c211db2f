"""The data shared by the thread that plays and the thread that talks to the server."""

import logging
import re
import threading
from collections import deque
from collections.abc import Callable
from typing import Literal, NamedTuple, Protocol

from msgspec import Struct

from soulsai.client.actor import Actor
from soulsai.types import MOST_STAGES, STAGE, ClientValues, Episode, Fragment, Pointer

log = logging.getLogger(__name__)

MAX_MESSAGES = 128  # of one entry
LONGEST_TEXT = 120  # of the trouble that a heartbeat reports
_FOLDERS = re.compile(r"(?<![^\s'\"(])(?:[A-Za-z]:)?[/\\](?:[^\s'\"]*[/\\])?")


class EvaluationTask(NamedTuple):
    """Greedy episodes to play with one version, each from its first step to its last."""

    actor: Actor
    episodes: int


class Instructions(NamedTuple):
    """The instructions of the server; replaced as a whole, never changed."""

    pointer: Pointer | None = None  # to the newest version, with its quota and exploration values
    actor: Actor | None = None  # the newest version that is ready to act
    paused: bool = False
    over: Literal["", "stop", "run", "error"] = ""  # the reason to end
    evaluation: EvaluationTask | None = None  # the last one that was asked for

    @property
    def stage(self) -> int:
        """Return the number of stages of the schedule that have begun; 0 if it makes no sense."""
        stage = self.exploration.get(STAGE, 0.0)
        return int(stage) if 0 <= stage <= MOST_STAGES else 0

    @property
    def exploration(self) -> dict[str, float]:
        """Return the newest version's values for the head."""
        return self.pointer.exploration if self.pointer is not None else {}


class PlayerProgress(Struct):
    """The progress of the player in this epoch; only the player writes it."""

    steps: int = 0
    episodes: int = 0
    version: int = 0  # of the newest weights acted with
    waiting: bool = False  # for weights or a new quota
    discarded: int = 0  # env steps of broken environments' unfinished fragments, or not sendable
    restarts: int = 0  # of environments
    faults: dict[str, int] = {}  # of environments, by kind; replaced as a whole, never changed
    trouble: str = ""  # the last fault of an environment, or the reason why steps are not sent
    kwargs: ClientValues = {}  # of the environments, where the run lets clients set them
    called: float | None = None  # the time of the call to an environment that has not returned


class PlayerLink(Protocol):
    """The interface of the uplink for the player."""

    @property
    def instructions(self) -> Instructions:
        """Return the newest instructions."""
        ...

    def send(self, message: Fragment | Episode) -> None:
        """Queue a message without waiting; its arrays are copied."""
        ...

    def wait(self, known: Instructions, timeout: float) -> None:
        """Wait for instructions other than ``known``, for at most ``timeout`` seconds."""
        ...


class _Message(NamedTuple):
    order: int
    steps: int
    data: bytes
    since: float


class Outbox:
    """A bounded queue of encoded messages between the player and the uplink.

    When it is full, the oldest fragments (``steps`` > 0) are dropped first; other messages, such
    as episodes, only when no fragment is left.
    """

    def __init__(self, limit: int, clock: Callable[[], float]) -> None:
        """Start empty; ``limit`` is in bytes and ``clock`` gives monotonic seconds."""
        self.dropped = 0  # env steps
        self._limit = limit
        self._clock = clock
        self._lock = threading.Lock()
        self._fragments: deque[_Message] = deque()
        self._others: deque[_Message] = deque()
        self._bytes = 0
        self._order = 0

    def __len__(self) -> int:
        """Return the number of messages."""
        return len(self._fragments) + len(self._others)

    @property
    def size(self) -> int:
        """Return the bytes of all messages."""
        return self._bytes

    def put(self, data: bytes, steps: int = 0) -> None:
        """Append a message with its env steps, and drop older ones if there is no room."""
        with self._lock:
            self._order += 1
            message = _Message(self._order, steps, data, self._clock())
            (self._fragments if steps else self._others).append(message)
            self._bytes += len(data)
            while self._bytes > self._limit:
                if not self.dropped and self._fragments:
                    log.warning("outbox=full: the oldest env steps are dropped from now on")
                oldest = (self._fragments or self._others).popleft()
                self._bytes -= len(oldest.data)
                self.dropped += oldest.steps

    def take(self, most: int) -> list[bytes]:
        """Remove and return the oldest messages: one, and more up to ``most`` bytes."""
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
        """Return the time at which the oldest message was queued, if there is one."""
        with self._lock:
            queue = self._oldest()
            return queue[0].since if queue else None

    def _oldest(self) -> deque[_Message]:
        """Return the queue with the oldest message, or an empty one."""
        if not self._fragments or not self._others:
            return self._fragments or self._others
        return min(self._fragments, self._others, key=lambda queue: queue[0].order)


def printable(text: str) -> str:
    """Return a text as one short printable line, without folders of this machine."""
    line = " ".join(_FOLDERS.sub("", text).split())
    line = "".join(letter for letter in line if letter.isprintable())
    return line if len(line) <= LONGEST_TEXT else line[: LONGEST_TEXT - 3] + "..."
