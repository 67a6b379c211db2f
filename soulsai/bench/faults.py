"""What goes wrong on purpose, and a client's wire on which it does."""

import heapq
import random
import time
from collections import deque
from collections.abc import Callable, Sequence

from msgspec import Struct

from soulsai.types import Control, Hello, Pointer, Program, RunSpec, Weights
from soulsai.wire import ClientWire, Position

Entry = tuple[Position, bytes]


class Faults(Struct, frozen=True, omit_defaults=True):
    """The misfortunes of a fleet of clients; none of them by default."""

    kill_seconds: float = 0.0  # until a client is killed and another one comes; 0: never
    slow_clients: int = 0  # of the clients, so many sleep before each step
    slow_seconds: float = 0.0  # so long
    late_share: float = 0.0  # of the entries, which overtake nobody any more
    late_seconds: float = 0.0  # so late
    twice_share: float = 0.0  # of the entries, which are sent again, as themselves and as new ones
    weights_seconds: float = 0.0  # all weights are at least so old when they are acted with


class FaultyWire:
    """A ``ClientWire`` between a client and the real one, which delays and repeats.

    Entries that overtake each other get positions in the order in which they leave, so that the
    server takes them all. Except for ``wake`` it is used by one thread.
    """

    def __init__(
        self,
        wire: ClientWire,
        faults: Faults,
        rng: random.Random,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._wire = wire
        self._faults = faults
        self._rng = rng
        self._clock = clock
        self._position = Position(0, 0)
        self._late: list[tuple[float, int, bytes]] = []  # when it is due, its number, the entry
        self._doubt: list[Entry] = []  # pushed, and never heard of
        self._fetched: deque[tuple[float, Weights]] = deque()  # when, and what

    def spec(self) -> RunSpec:
        """Return the published run."""
        return self._wire.spec()

    def program(self, spec: RunSpec) -> Program:
        """Return the run's program."""
        return self._wire.program(spec)

    def hello(self, hello: Hello) -> Position:
        """Begin a new epoch; what was late in the old one never comes."""
        self._position = self._wire.hello(hello)
        for what in (self._late, self._doubt, self._fetched):
            what.clear()
        return self._position

    def push(self, entries: Sequence[Entry], retry: bool = False) -> None:
        """Append entries, but some of them later, and some of them twice."""
        if self._doubt:
            self._wire.push(self._doubt, retry=True)
            self._doubt = []
        if retry:  # these are the ones we have just repeated, or have still to send late
            return
        now = self._clock()
        leaving: list[bytes] = []
        while self._late and self._late[0][0] <= now:
            leaving.append(heapq.heappop(self._late)[2])
        for position, data in entries:
            if self._rng.random() < self._faults.late_share:
                heapq.heappush(self._late, (now + self._faults.late_seconds, position.seq, data))
            else:
                leaving.append(data)
        self._send(leaving)

    def pointer(self) -> Pointer | None:
        """Return what is newest, in time."""
        return self._wire.pointer()

    def weights(self, pointer: Pointer, program: Program) -> Weights:
        """Return the newest weights that are old enough, or the oldest that we have seen."""
        now = self._clock()
        self._fetched.append((now, self._wire.weights(pointer, program)))
        until = now - self._faults.weights_seconds
        while len(self._fetched) > 1 and self._fetched[1][0] <= until:
            self._fetched.popleft()
        return self._fetched[0][1]

    def wait(self, timeout: float) -> list[Control]:
        """Sleep as the wire does."""
        return self._wire.wait(timeout)

    def wake(self) -> None:
        """End a ``wait`` now, from any thread."""
        self._wire.wake()

    def close(self) -> None:
        """Let go of the connection; what is late is lost."""
        self._wire.close()

    def _send(self, leaving: Sequence[bytes]) -> None:
        repeated = [self._rng.random() < self._faults.twice_share for _ in leaving]
        again: list[Entry] = []
        for data, twice in zip(leaving, repeated, strict=True):
            self._doubt.append(self._next(data))
            if twice:
                again.append(self._doubt[-1])
                self._doubt.append(self._next(data))
        if self._doubt:
            self._wire.push(self._doubt)
            self._doubt = []
        if again:
            self._wire.push(again, retry=True)

    def _next(self, data: bytes) -> Entry:
        self._position = Position(self._position.epoch, self._position.seq + 1)
        return self._position, data
