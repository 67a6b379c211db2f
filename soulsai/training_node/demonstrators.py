"""Clients whose whole play is a demonstration."""

from collections.abc import Callable
from pathlib import Path

import msgspec
import numpy as np

from soulsai.training_node.admission import Arrival
from soulsai.types import INTERVENED, Episode, Fragment
from soulsai.wire.secrets import DEMONSTRATORS

READ_SECONDS = 5.0  # between two readings of the file


class Demonstrators:
    """Marks all steps of demonstrators as those that a person chose.

    Args:
        folder: The folder of secrets, in which ``soulsai enroll`` lists them.
        taken: Whether the run takes interventions.
        clock: Monotonic seconds.
    """

    def __init__(self, folder: Path, *, taken: bool, clock: Callable[[], float]) -> None:
        self._file, self._taken, self._clock = folder / DEMONSTRATORS, taken, clock
        self._names: frozenset[str] = frozenset()
        self._due = -float("inf")

    def __repr__(self) -> str:
        return f"<Demonstrators [{len(self._names)}]>"

    def marked(self, arrival: Arrival) -> Arrival:
        """Return an arrival with all steps marked, if its client is a demonstrator."""
        if not self._taken or not (arrival.fragments or arrival.episodes):
            return arrival
        if (now := self._clock()) >= self._due:
            self._due = now + READ_SECONDS
            self._names = read_names(self._file)
        if arrival.client not in self._names:
            return arrival
        return msgspec.structs.replace(
            arrival,
            fragments=tuple(map(_marked_fragment, arrival.fragments)),
            episodes=tuple(map(_marked_episode, arrival.episodes)),
        )


def read_names(file: Path) -> frozenset[str]:
    """Return the names in a file, one a line; none if it is not there."""
    try:
        return frozenset(file.read_text("ascii").split())
    except (OSError, UnicodeDecodeError):
        return frozenset()


def _marked_fragment(fragment: Fragment) -> Fragment:
    return msgspec.structs.replace(fragment, intervened=np.ones(len(fragment), np.bool_))


def _marked_episode(episode: Episode) -> Episode:
    info = episode.info | {INTERVENED: float(episode.steps)}
    return msgspec.structs.replace(episode, info=info)
