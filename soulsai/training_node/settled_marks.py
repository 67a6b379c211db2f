"""The positions that clients need not keep any longer."""

from collections import deque
from collections.abc import Mapping

from soulsai.training_node.admission import Mark
from soulsai.wire.protocols import Position

SETTLED_SECONDS = 5.0  # until an entry that was read is on the server's disk, too


class SettledMarks:
    """Finds the marks that are older than ``SETTLED_SECONDS``.

    A server with ``appendfsync everysec`` writes what it has acknowledged up to two seconds later.
    If it loses entries that this node has read, then the node lacks them after a restart: so the
    clients must have them until then.
    """

    def __init__(self) -> None:
        self._noted: dict[str, Position] = {}  # of each client, by the last call
        self._waiting: deque[tuple[float, dict[str, Position]]] = deque()

    def due(self, marks: Mapping[str, Mark], now: float) -> dict[str, Position]:
        """Note the present marks, and return the positions that have settled since the last call.

        Args:
            marks: The end of the part of each stream that was read.
            now: Seconds of a monotonic clock.
        """
        positions = {client: mark.position for client, mark in marks.items()}
        changed = {
            client: position
            for client, position in positions.items()
            if self._noted.get(client) != position
        }
        self._noted = positions
        if changed:
            self._waiting.append((now, changed))
        settled: dict[str, Position] = {}
        while self._waiting and self._waiting[0][0] <= now - SETTLED_SECONDS:
            settled |= self._waiting.popleft()[1]
        return settled
