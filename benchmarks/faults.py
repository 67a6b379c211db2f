"""What goes wrong on purpose, and a client's wire on which it does."""

import heapq
import random
import time
from collections import deque
from collections.abc import Callable, Sequence

from msgspec import Struct

from soulsai.types import Control, EvaluationRequest, Hello, Pointer, Program, RunSpec, Weights
from soulsai.wire.protocols import ClientWire, Position

Entry = tuple[Position, bytes]


class Faults(Struct, frozen=True, omit_defaults=True):
    """The misfortunes of a fleet of clients; none of them by default."""

    kill_seconds: float = 0.0  # until a client is killed and another one comes; 0: never
    slow_clients: int = 0  # of the clients, so many sleep before each step
    slow_seconds: float = 0.0  # so long
    late_share: float = 0.0  # of the entries, which overtake nobody any more
    late_seconds: float = 0.0  # so late
    twice_share: float = 0.0  # of the entries, which are sent again, as themselves and as new ones
    weights_seconds: float = 0.0  # until any version is heard of and fetched


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
        self._program: Program | None = None
        self._coming: deque[tuple[float, Pointer, Weights]] = deque()  # when it is due, and what
        self._come: tuple[Pointer, Weights] | None = None

    def spec(self) -> RunSpec:
        """Return the published run."""
        return self._wire.spec()

    def program(self, spec: RunSpec) -> Program:
        """Return the run's program."""
        self._program = self._wire.program(spec)
        return self._program

    def hello(self, hello: Hello) -> Position:
        """Begin a new epoch; what was late in the old one never comes."""
        self._position = self._wire.hello(hello)
        for what in (self._late, self._doubt, self._coming):
            what.clear()
        self._come = None
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

    def requested(self, request: EvaluationRequest) -> Pointer:
        """Return the pointer of a request."""
        return self._wire.requested(request)

    def pointer(self) -> Pointer | None:
        """Return the newest version that has come over our slow link, if any has."""
        newest = self._wire.pointer()
        if newest is None or self._program is None or not self._faults.weights_seconds:
            return newest
        now = self._clock()
        come = self._come[0] if self._come else None
        sent = self._coming[-1][1] if self._coming else come
        if sent is None or newest.order > sent.order:
            weights = self._wire.weights(newest, self._program)
            self._coming.append((now + self._faults.weights_seconds, newest, weights))
        while self._coming and self._coming[0][0] <= now:
            _, come, weights = self._coming.popleft()
            self._come = come, weights
        return come

    def weights(self, pointer: Pointer, program: Program) -> Weights:
        """Return the weights that came with the pointer."""
        come = self._come
        return come[1] if come and come[0] == pointer else self._wire.weights(pointer, program)

    @property
    def weights_bytes(self) -> tuple[int, int]:
        """Return the bytes of weights from the server, and from other clients of this machine."""
        return self._wire.weights_bytes

    def wait(self, timeout: float) -> list[Control]:
        """Sleep as the wire does, or until a version comes."""
        if self._coming:
            timeout = min(timeout, max(0.0, self._coming[0][0] - self._clock()))
        return self._wire.wait(timeout)

    @property
    def hinted(self) -> bool:
        """Whether the server spoke of new weights, or a version has come."""
        return self._wire.hinted or bool(self._coming and self._coming[0][0] <= self._clock())

    def received(self) -> Position | None:
        """Return the position that the training node has confirmed."""
        return self._wire.received()

    def notice(self) -> str:
        """Return the training node's notice for this client."""
        return self._wire.notice()

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
