"""The audit log of a run: experience by client, exclusions, and commands, one JSON line each."""

import logging
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec
from msgspec import Struct

from soulsai.training_node.admission import LARGEST_TOTAL, Arrival

NAME = "audit.jsonl"

log = logging.getLogger(__name__)


class Contribution(Struct):
    """The messages of one client since the last checkpoint."""

    env_steps: int = 0
    fragments: int = 0
    episodes: int = 0
    rejected: int = 0
    lost: int = 0
    epoch: int = 0
    seq: int = 0  # of the last entry


class AuditLog:
    """Appends lines to ``audit.jsonl`` and never changes one.

    Lines that cannot be written are counted, and the next line that can be has their number.
    """

    def __init__(self, folder: Path, now: Callable[[], float]) -> None:
        self.unwritten = 0
        self._path = folder / NAME
        self._now = now
        self._contributions: dict[str, Contribution] = {}

    def write(self, what: str, **fields: Any) -> None:
        """Append one line, durably."""
        line: dict[str, Any] = {"time": self._now(), "what": what, **fields}
        if self.unwritten:
            line["unwritten"] = self.unwritten
        try:
            with self._path.open("ab") as file:
                if file.tell() and not self._ends_whole():
                    file.write(b"\n")  # the process that wrote the last line was killed
                file.write(msgspec.json.encode(line) + b"\n")
                file.flush()
                os.fsync(file.fileno())
        except OSError as error:
            if not self.unwritten:
                log.warning("audit log not written path=%s error=%s", self._path, error)
            self.unwritten += 1
        else:
            self.unwritten = 0

    def count(self, arrival: Arrival, env_steps: int) -> None:
        """Add an arrival, of which ``env_steps`` env steps went to the learner."""
        total = self._contributions.setdefault(arrival.client, Contribution())
        total.env_steps += env_steps
        total.fragments += len(arrival.fragments)
        total.episodes += len(arrival.episodes)
        total.rejected += len(arrival.refusals) + arrival.discarded
        total.lost = min(LARGEST_TOTAL, total.lost + arrival.lost)
        total.epoch, total.seq = arrival.mark.position

    def saved(self, checkpoint: str, env_steps: int) -> None:
        """Write the contributions since the last checkpoint, if there are any."""
        if not self._contributions:
            return
        clients = {name: msgspec.to_builtins(one) for name, one in self._contributions.items()}
        self.write("learnt", checkpoint=checkpoint, env_steps=env_steps, clients=clients)
        self._contributions.clear()

    def _ends_whole(self) -> bool:
        with self._path.open("rb") as file:
            file.seek(-1, os.SEEK_END)
            return file.read(1) == b"\n"
