"""What crosses the network: one Protocol per role, and exactly its rights.

The access rights on the server are generated from the same list of keys (``names.py``) that the
implementations use, so what a role's Protocol cannot say, the server does not allow either.

All implementations raise ``Unreachable`` when there is no connection now, ``AccessDenied`` when
the server refuses us, ``ServerFull`` when it cannot store, and nothing else of the network's.
"""

from collections.abc import Iterable, Mapping, Sequence
from typing import NamedTuple, Protocol

from soulsai.types import (
    Answer,
    Command,
    Control,
    Episode,
    Event,
    Hello,
    Pointer,
    Program,
    RunSpec,
    Status,
    Weights,
)


class Position(NamedTuple):
    """A place in one client's stream; ordered, and unique for all time on that stream."""

    epoch: int
    seq: int


START = Position(0, 0)


class Entry(NamedTuple):
    """One entry of a client's stream; ``data`` is ``None`` where it has not exactly one field."""

    client: str
    position: Position
    data: bytes | None


class Request(NamedTuple):
    """A command together with where its answer goes."""

    who: str  # the role that asks
    id: str
    command: Command


class ClientWire(Protocol):
    """The network as a client sees it. Only ``wake`` may be called from another thread."""

    def spec(self) -> RunSpec:
        """Return the published run; raise ``NoRun`` if there is none."""
        ...

    def program(self, spec: RunSpec) -> Program:
        """Return the run's program, checked against the digest in ``spec``."""
        ...

    def hello(self, hello: Hello) -> Position:
        """Begin a new epoch; return the position of the hello in our stream."""
        ...

    def push(self, entries: Sequence[tuple[Position, bytes]], retry: bool = False) -> None:
        """Append entries to our stream under the positions given.

        With ``retry`` an entry that is there already counts as stored; without it that means
        ``Superseded``: another process speaks under our name.
        """
        ...

    def pointer(self) -> Pointer | None:
        """Return what is newest, or ``None`` before the first version."""
        ...

    def weights(self, pointer: Pointer, program: Program) -> Weights:
        """Fetch one version in pieces, checked against its digest and the program's layout.

        Raises ``WireError`` if it has expired or does not match.
        """
        ...

    def wait(self, timeout: float) -> list[Control]:
        """Sleep until ``timeout`` seconds pass, a hint of new weights comes, or ``wake`` is called.

        Returns the controls that came meanwhile, oldest first.
        """
        ...

    def notice(self) -> str:
        """Return why nothing of this client is learnt from, or an empty text.

        It changes only just before a control comes, or while there is no connection.
        """
        ...

    def wake(self) -> None:
        """End a ``wait`` now, from any thread."""
        ...

    def close(self) -> None:
        """Let go of the connection."""
        ...


class TrainingWire(Protocol):
    """The network as the training node sees it; safe to share between two threads."""

    def open(self, spec: RunSpec, program: Program, fresh: bool) -> int:
        """Publish a run and return our generation, greater than that of any node before.

        ``fresh`` removes what an earlier run under the same name left: streams, weights, episodes.
        What another run left is removed in any case.
        """
        ...

    def generation(self) -> int:
        """Return the newest generation; if it is greater than ours, we are superseded."""
        ...

    def clients(self) -> list[str]:
        """Return the names under which streams exist."""
        ...

    def read(self, after: Mapping[str, Position], timeout: float) -> list[Entry]:
        """Return entries later than ``after`` in each stream, waiting up to ``timeout`` seconds.

        Each stream gives a bounded number of entries per call, in order, so that no client can
        keep the others out.
        """
        ...

    def trim(self, upto: Mapping[str, Position]) -> None:
        """Delete entries up to and including those positions: a durable checkpoint covers them."""
        ...

    def forget(self, client: str) -> None:
        """Delete a client's stream."""
        ...

    def discard(self, client: str, after: Position) -> int:
        """Delete all entries of a client's stream; return how many were later than a position."""
        ...

    def bound(self, clients: Sequence[str], entries: int) -> None:
        """Delete the oldest entries of those streams that have more than so many."""
        ...

    def publish(self, weights: Weights) -> Pointer:
        """Store a version, point to it, then hint at it."""
        ...

    def record(self, episodes: Sequence[Episode]) -> None:
        """Append stamped episodes to the record that telemetry reads."""
        ...

    def report(self, status: Status) -> None:
        """Store the status; it vanishes by itself when not renewed for ten seconds."""
        ...

    def requests(self) -> list[Request]:
        """Return the commands that came since the last call; never waits.

        A command that cannot be decoded is answered with what is wrong, and not returned.
        """
        ...

    def answer(self, request: Request, answer: Answer) -> None:
        """Say what became of a command."""
        ...

    def tell(self, control: Control) -> None:
        """Tell all clients."""
        ...

    def notify(self, client: str, notice: str) -> None:
        """Store a notice for one client and wake it; an empty notice removes it.

        ``open`` removes all notices.
        """
        ...

    def announce(self, event: Event) -> None:
        """Tell all who watch."""
        ...

    def close(self) -> None:
        """Let go of the connection."""
        ...


class OperatorWire(Protocol):
    """The network as whoever operates the run sees it."""

    def spec(self) -> RunSpec:
        """Return the published run; raise ``NoRun`` if there is none."""
        ...

    def status(self) -> Status | None:
        """Return the training node's status, or ``None`` if no training node is alive."""
        ...

    def command(self, command: Command, timeout: float) -> Answer:
        """Ask the training node and wait for its answer; raise ``WireError`` if none comes."""
        ...

    def forget(self, client: str) -> None:
        """Delete a client's stream; raise ``AccessDenied`` where the server does not allow it."""
        ...

    def close(self) -> None:
        """Let go of the connection."""
        ...


class TelemetryWire(OperatorWire, Protocol):
    """The network as the telemetry node sees it."""

    def episodes(self, after: str, timeout: float) -> list[tuple[str, Episode]]:
        """Return recorded episodes later than id ``after`` (``"0-0"``: all), with their ids."""
        ...

    def announce(self, event: Event) -> None:
        """Tell all who watch."""
        ...

    def events(self, timeout: float) -> Iterable[Event]:
        """Return the events that came since the last call."""
        ...
