"""The network as each role sees it: one Protocol per role, with exactly the rights of that role.

The access rights on the server are generated from the same list of keys (``names.py``) that the
implementations use, so the server permits nothing beyond the Protocol of a role.

All implementations raise ``Unreachable`` without a connection, ``AccessDenied`` where the server
refuses the user, ``ServerFull`` where it cannot store more, and no other error of the network.
"""

from collections.abc import Iterable, Mapping, Sequence
from typing import NamedTuple, Protocol

from soulsai.types import (
    Answer,
    Command,
    Control,
    Episode,
    EvaluationRequest,
    Event,
    Hello,
    Pointer,
    Program,
    RunSpec,
    Status,
    Weights,
)


class Position(NamedTuple):
    """A place in one client's stream; ordered, and never used twice on that stream."""

    epoch: int
    seq: int


START = Position(0, 0)


class Entry(NamedTuple):
    """One entry of a client's stream; ``data`` is ``None`` unless it has exactly one field."""

    client: str
    position: Position
    data: bytes | None


class Request(NamedTuple):
    """A command, with the role and the id to which its answer goes."""

    who: str
    id: str
    command: Command


class ClientWire(Protocol):
    """The network of a client. Only ``wake`` may be called from another thread."""

    def spec(self) -> RunSpec:
        """Return the published run; raise ``NoRun`` if there is none."""

    def program(self, spec: RunSpec) -> Program:
        """Return the run's program, checked against the digest in ``spec``."""

    def hello(self, hello: Hello) -> Position:
        """Begin a new epoch; return the position of the hello in the client's stream."""

    def push(self, entries: Sequence[tuple[Position, bytes]], retry: bool = False) -> None:
        """Append entries to the client's stream at given positions, in one round trip.

        Args:
            entries: Positions in ascending order, with the bytes of each entry.
            retry: An entry that is already there counts as stored.

        Raises:
            Superseded: Without ``retry``, a position is taken: another process uses the name.
            Unreachable: Not all entries are stored. It is also raised once, before anything is
                sent, on a connection that is newer than the last call: a server that was restarted
                may have lost entries that it had stored, and takes none before its last.
        """

    def received(self) -> Position | None:
        """Return the position up to which the training node has confirmed the client's entries."""

    def pointer(self) -> Pointer | None:
        """Return the pointer to the newest weights, or ``None`` before the first version."""

    def weights(self, pointer: Pointer, program: Program) -> Weights:
        """Fetch one version in pieces, checked against its digest and the program's layout.

        Raises:
            WireError: The version has expired or does not match.
        """

    @property
    def weights_bytes(self) -> tuple[int, int]:
        """The bytes of weights from the server, and from other clients of this machine."""

    def requested(self, request: EvaluationRequest) -> Pointer:
        """Return the pointer of a request, checked as the newest one is.

        Raises:
            WireError: The training node has not signed it.
        """
        ...

    def wait(self, timeout: float) -> list[Control]:
        """Sleep until ``timeout`` seconds pass, new weights are published, or ``wake`` is called.

        Returns:
            The controls received meanwhile, oldest first.
        """

    @property
    def hinted(self) -> bool:
        """Whether the server spoke of new weights in the last ``wait``, or connected anew."""

    def notice(self) -> str:
        """Return the reason why nothing of this client is learnt from, or an empty text.

        It changes only just before a control arrives, or while there is no connection.
        """

    def wake(self) -> None:
        """End a ``wait`` now, from any thread."""

    def close(self) -> None:
        """Close the connection."""


class TrainingWire(Protocol):
    """The network of the training node; safe to share between two threads."""

    def open(self, spec: RunSpec, program: Program, fresh: bool) -> int:
        """Publish a run and remove all notices.

        Args:
            spec: The run; it replaces a run of another id, with its streams and weights.
            program: The policy's graph; its digest is in ``spec``.
            fresh: Also remove streams, weights and episodes of the same run.

        Returns:
            The generation of this node, greater than that of every node before.
        """

    def generation(self) -> int:
        """Return the newest generation; a greater one than ours means that we are superseded."""

    def time(self) -> float:
        """Return the Unix seconds of the server's clock."""
        ...

    def clients(self) -> list[str]:
        """Return the names of all clients with a stream."""

    def read(self, after: Mapping[str, Position], timeout: float) -> list[Entry]:
        """Return new entries in order, a bounded number of each stream.

        Args:
            after: The last known position by client.
            timeout: Seconds to wait for the first entry.
        """

    def trim(self, upto: Mapping[str, Position]) -> dict[str, int]:
        """Delete entries up to and including positions that a durable checkpoint covers.

        Returns:
            The number of deleted entries of each client.
        """

    def limit_connections(self) -> None:
        """Close connections of clients that leave too few places for the nodes."""

    def confirm(self, upto: Mapping[str, Position]) -> None:
        """Tell each client the position up to which it need not keep its entries any longer."""

    def forget(self, client: str) -> None:
        """Delete a client's stream."""

    def discard(self, client: str, after: Position) -> int:
        """Delete all entries of a client's stream; return how many were later than a position."""

    def bound(self, clients: Sequence[str], entries: int) -> bool:
        """Delete the oldest entries of each stream that has more than ``entries``, or 128 MB.

        Call it in the thread that reads. Returns whether a client has more than half of the bytes.
        """

    def publish(self, weights: Weights) -> Pointer:
        """Store a version, point to it, then announce it on the channel."""

    def keep(self, weights: Weights) -> bytes:
        """Store an older version for an hour, and return its signed pointer."""
        ...

    def is_published(self) -> bool:
        """Return whether the server still points to the version that was published last.

        A server that was killed may have lost its last second, and so the pointer.
        """
        ...

    def record(self, episodes: Sequence[Episode]) -> None:
        """Append stamped episodes to the record that telemetry reads."""

    def report(self, status: Status) -> None:
        """Store the status; it expires unless renewed within ten seconds.

        Raises:
            ValueError: It is too large for the server.
        """

    def requests(self) -> list[Request]:
        """Return the commands received since the last call, without waiting.

        A command that cannot be decoded is answered with the reason, and not returned.
        """

    def answer(self, request: Request, answer: Answer) -> None:
        """Send the outcome of a command."""

    def tell(self, control: Control) -> None:
        """Send a control to all clients, also to those that connect later."""

    def notify(self, client: str, notice: str) -> None:
        """Store a notice for one client and wake it; an empty notice removes it."""

    def announce(self, event: Event) -> None:
        """Publish an event."""

    def close(self) -> None:
        """Close the connection; a ``read`` that waits ends."""


class OperatorWire(Protocol):
    """The network of an operator."""

    def spec(self) -> RunSpec:
        """Return the published run; raise ``NoRun`` if there is none."""

    def status(self) -> Status | None:
        """Return the training node's status, or ``None`` if no training node is alive."""

    def command(self, command: Command, timeout: float) -> Answer:
        """Send a command to the training node and return its answer.

        Args:
            command: The command.
            timeout: Seconds to wait for the answer.

        Raises:
            WireError: No answer comes in time.
        """

    def forget(self, client: str) -> None:
        """Delete a client's stream; raise ``AccessDenied`` where the server does not allow it."""
        ...

    def close(self) -> None:
        """Close the connection."""


class TelemetryWire(OperatorWire, Protocol):
    """The network of the telemetry node."""

    def episodes(self, after: str, timeout: float) -> list[tuple[str, Episode]]:
        """Return recorded episodes with their ids, about a thousand at most.

        Args:
            after: The last known id; ``"0-0"`` for all.
            timeout: Seconds to wait for the first episode.
        """

    def announce(self, event: Event) -> None:
        """Publish an event."""

    def events(self, timeout: float) -> Iterable[Event]:
        """Return the events since the last call, waiting up to ``timeout`` seconds for the first.

        The first call subscribes.
        """
