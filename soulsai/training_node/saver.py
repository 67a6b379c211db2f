"""When everything is saved, and what is said of it: checkpoints, quicksaves and the best model."""

import logging
from collections.abc import Callable

import msgspec

from soulsai.algorithms.base import Stateful
from soulsai.config import Checkpoint
from soulsai.errors import CheckpointError
from soulsai.training_node import snapshot
from soulsai.training_node.checkpoints import Buffer
from soulsai.training_node.run_folder import RunFolder
from soulsai.training_node.snapshot import Progress
from soulsai.types import Answer, Quicksave, SaveBest
from soulsai.wire import Position

RETRY_SECONDS = 10.0  # after a checkpoint could not be written

log = logging.getLogger(__name__)


class Saver:
    """Writes the run's folder; only its final save may fail with an error.

    ``policy`` makes a whole ``policy.onnx`` of the weights as they are now.
    """

    def __init__(
        self,
        folder: RunFolder,
        config: Checkpoint,
        progress: Progress,
        parts: dict[str, Stateful],
        policy: Callable[[], bytes],
        *,
        clock: Callable[[], float],
    ) -> None:
        self.notice = ""
        self.newest = ""  # the name of the newest checkpoint
        self.durable: dict[str, Position] = {}  # what the newest checkpoint of ours covers
        self._folder = folder
        self._config = config
        self._progress = progress
        self._parts = parts
        self._policy = policy
        self._clock = clock
        self._saved_at: float | None = None
        self._saved_updates = progress.updates
        self._retry_at = -float("inf")

    @property
    def age(self) -> float | None:
        """Seconds since the newest checkpoint of ours."""
        return None if self._saved_at is None else self._clock() - self._saved_at

    @property
    def due(self) -> bool:
        """Whether it is time for the next checkpoint."""
        new = self._progress.updates - self._saved_updates
        return new >= self._config.every and self._clock() >= self._retry_at

    def save(self) -> bool:
        """Write a checkpoint; return whether that worked. Try again later if it did not."""
        try:
            self.final()
        except CheckpointError as error:
            if not self.notice:
                log.warning("checkpoint not written error=%s", error)
            self.notice = str(error)
            self._retry_at = self._clock() + RETRY_SECONDS
            return False
        return True

    def final(self) -> None:
        """Write a checkpoint; raise ``CheckpointError`` if that is impossible."""
        positions = {client: mark.position for client, mark in self._progress.marks.items()}
        try:
            path = self._folder.append(self._files(self._config.replay), self._config.keep)
        except OSError as error:
            raise CheckpointError(f"{self._folder.path}: checkpoint not saved: {error}") from error
        self.notice, self.newest = "", path.name
        self.durable = positions
        self._saved_at = self._clock()
        self._saved_updates = self._progress.updates
        log.info("checkpoint written path=%s updates=%d", path, self._progress.updates)

    def quicksave(self, command: Quicksave) -> Answer:
        """Save everything under ``manual_save``, and say so."""
        target = self._folder.manual_save
        try:
            self._folder.replace(target, self._files(command.replay))
        except OSError as error:
            return Answer(done=False, message=f"{target}: not saved: {error}")
        return Answer(
            done=True,
            message=f"saved {self._progress.updates} updates, {self._progress.env_steps} env steps "
            f"in {target}",
        )

    def best(self, command: SaveBest, policy: bytes) -> Answer:
        """Save a whole policy as the best model, and say so."""
        target = self._folder.best_model
        about = msgspec.json.encode(command)
        try:
            self._folder.replace(target, {snapshot.POLICY: [policy], "about.json": [about]})
        except OSError as error:
            return Answer(done=False, message=f"{target}: not saved: {error}")
        return Answer(
            done=True,
            message=f"saved version {command.generation}-{command.version}, "
            f"score {command.score:g}, in {target}",
        )

    def _files(self, replay: bool) -> dict[str, list[Buffer]]:
        return snapshot.files(self._progress, self._parts, self._policy(), replay=replay)
