"""Entries that the server has stored, kept in memory until the training node has them."""

from collections import deque
from collections.abc import Iterator, Sequence

from soulsai.wire.protocols import ClientWire, Position

KEPT_BYTES = 16_000_000  # beyond which the oldest are given up
PUSH_BYTES = 256_000  # sent in one round trip

Entry = tuple[Position, bytes]


class UnconfirmedEntries:
    """A bounded queue of stored entries, oldest first.

    A server that is killed may lose the last entries that it has acknowledged: it writes them to
    its disk up to two seconds later. They are sent again after each break of the connection, under
    the same positions, so that the server ignores those that it has.
    """

    def __init__(self, limit: int = KEPT_BYTES) -> None:
        """Start empty; ``limit`` is in bytes."""
        self._limit = limit
        self._entries: deque[Entry] = deque()
        self._bytes = 0

    def __len__(self) -> int:
        """Return the number of entries."""
        return len(self._entries)

    def add(self, entries: Sequence[Entry]) -> None:
        """Append entries that the server has stored, each later than all before."""
        self._entries += entries
        self._bytes += sum(len(data) for _, data in entries)
        while self._bytes > self._limit:
            self._drop()

    def confirm(self, upto: Position) -> None:
        """Remove the entries up to a position."""
        while self._entries and self._entries[0][0] <= upto:
            self._drop()

    def take(self) -> list[Entry]:
        """Remove and return all entries."""
        taken = list(self._entries)
        self._entries.clear()
        self._bytes = 0
        return taken

    def send(self, wire: ClientWire) -> None:
        """Send all entries again; they stay here."""
        for piece in self._pieces():
            wire.push(piece, retry=True)

    def _pieces(self) -> Iterator[list[Entry]]:
        piece: list[Entry] = []
        size = 0
        for entry in self._entries:
            if piece and size + len(entry[1]) > PUSH_BYTES:
                yield piece
                piece, size = [], 0
            piece.append(entry)
            size += len(entry[1])
        if piece:
            yield piece

    def _drop(self) -> None:
        self._bytes -= len(self._entries.popleft()[1])
