"""Greedy episodes of clients with one version, where the server cannot make the environment."""

import time
from collections.abc import Callable
from pathlib import Path

import msgspec

from soulsai.evaluator.saved_models import SavedModel
from soulsai.types import Episode
from soulsai.web.journal import RESULTS, Follower

PATIENCE = 3600.0  # seconds; then the episodes that have come must do


class ClientEpisodes:
    """Collect the episodes of one version from the record of the telemetry node."""

    def __init__(
        self,
        folder: Path,
        model: SavedModel,
        count: int,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """Begin to collect.

        Args:
            folder: The run's folder.
            model: The model that is to be played.
            count: Episodes that are wanted.
            clock: Monotonic seconds.
        """
        self.model = model
        self.count = count
        self._episodes: list[Episode] = []
        self._deadline = clock() + PATIENCE
        self._file = Follower(folder / RESULTS)
        self._decoder = msgspec.json.Decoder(Episode)

    def read(self) -> list[Episode]:
        """Return the episodes so far: greedy ones of this version whose steps were all admitted."""
        lines, anew = self._file.fresh()
        del anew  # the record goes on in another file, where newer episodes are
        for line in lines:
            try:
                episode = self._decoder.decode(line)
            except (msgspec.MsgspecError, UnicodeDecodeError):
                continue
            version = episode.generation, episode.version
            wanted = self.model.generation, self.model.version
            if episode.greedy and episode.verified and version == wanted:
                self._episodes.append(episode)
        return self._episodes[: self.count]

    def is_late(self, now: float) -> bool:
        """Return whether the patience is over; ``now`` is in monotonic seconds."""
        return now >= self._deadline
