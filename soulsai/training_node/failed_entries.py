"""A dead letter queue: entries of clients' streams that raised an exception in the node.

A node that ends by an exception resumes before the entry that caused it, so without this journal
it would end again at every resume. An entry that failed twice is set aside unread.
"""

import logging
from collections.abc import Iterable
from pathlib import Path

import msgspec
from msgspec import Struct

from soulsai.training_node.saving import atomic_folders
from soulsai.wire.protocols import Entry, Position

JOURNAL = "failed_entries.json"
SET_ASIDE = "quarantined"  # the folder of the entries themselves
MOST_FAILURES = 2  # of one entry, after which it is set aside
MOST_ENTRIES = 4096  # in the journal; the oldest are dropped
MOST_FILES = 256  # set aside with their bytes; further ones are only counted

log = logging.getLogger(__name__)


class FailedEntry(Struct):
    """One entry of the journal."""

    client: str
    epoch: int
    seq: int
    failures: int
    error: str


class FailedEntries:
    """Counts the failures of each entry in a file of the run's folder."""

    def __init__(self, run: Path) -> None:
        self._journal = run / JOURNAL
        self._folder = run / SET_ASIDE
        self._entries: dict[tuple[str, Position], FailedEntry] = {}
        try:
            known = msgspec.json.decode(self._journal.read_bytes(), type=list[FailedEntry])
        except FileNotFoundError:
            known = []
        except (OSError, msgspec.MsgspecError, UnicodeDecodeError) as error:
            log.warning("journal of failed entries ignored path=%s error=%s", self._journal, error)
            known = []
        for entry in known:
            self._entries[entry.client, Position(entry.epoch, entry.seq)] = entry

    def note(self, places: Iterable[tuple[str, Position]], error: BaseException) -> None:
        """Count one failure of each of these entries, and write the journal.

        Args:
            places: The client and position of each entry that was being processed.
            error: The exception that escaped.
        """
        places = list(places)
        if not places:
            return
        message = f"{type(error).__name__}: {error}"[:200]
        for client, position in places:
            known = self._entries.pop((client, position), None)
            failures = known.failures + 1 if known is not None else 1
            log.error(
                "entry failed client=%s position=%d-%d failures=%d error=%r",
                client, *position, failures, message,
            )  # fmt: skip
            self._entries[client, position] = FailedEntry(client, *position, failures, message)
        while len(self._entries) > MOST_ENTRIES:
            del self._entries[next(iter(self._entries))]
        try:
            data = msgspec.json.encode(list(self._entries.values()))
            atomic_folders.write_file(self._journal, data)
        except OSError as failure:
            log.warning("journal of failed entries not written error=%s", failure)

    def is_spent(self, entry: Entry) -> bool:
        """Whether an entry has failed so often that it must not be read again."""
        known = self._entries.get((entry.client, entry.position))
        return known is not None and known.failures >= MOST_FAILURES

    def set_aside(self, entry: Entry) -> str:
        """Keep the bytes of an entry for inspection; return a line about it."""
        known = self._entries[entry.client, entry.position]
        path = self._folder / f"{entry.client}_{entry.position.epoch}-{entry.position.seq}.bin"
        try:
            self._folder.mkdir(exist_ok=True)
            if sum(1 for _ in self._folder.iterdir()) < MOST_FILES:
                atomic_folders.write_file(path, entry.data or b"")
        except OSError as error:
            log.warning("entry not kept path=%s error=%s", path, error)
        return f"set aside in {path} after {known.failures} failures: {known.error}"
