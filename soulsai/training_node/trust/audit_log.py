"""The audit trail of a run: what was learnt from whom, and what was done by whom, line by line."""

import logging
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec

NAME = "audit.jsonl"

log = logging.getLogger(__name__)


class Audit:
    """Appends JSON lines to ``audit.jsonl``; nothing in there is ever changed.

    A line that cannot be written is counted, and said in the next one that can.
    """

    def __init__(self, folder: Path, now: Callable[[], float]) -> None:
        self.unwritten = 0
        self._path = folder / NAME
        self._now = now

    def note(self, what: str, **fields: Any) -> None:
        """Append one line, durably."""
        line: dict[str, Any] = {"time": self._now(), "what": what, **fields}
        if self.unwritten:
            line["unwritten"] = self.unwritten
        try:
            with self._path.open("ab") as file:
                if file.tell() and not self._ends_whole():
                    file.write(b"\n")  # whoever wrote the last line was killed
                file.write(msgspec.json.encode(line) + b"\n")
                file.flush()
                os.fsync(file.fileno())
        except OSError as error:
            if not self.unwritten:
                log.warning("audit trail not written path=%s error=%s", self._path, error)
            self.unwritten += 1
        else:
            self.unwritten = 0

    def _ends_whole(self) -> bool:
        with self._path.open("rb") as file:
            file.seek(-1, os.SEEK_END)
            return file.read(1) == b"\n"
