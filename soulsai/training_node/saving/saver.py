"""Checkpoints by time and by updates, quicksaves, and the best model."""

import logging
import threading
from collections.abc import Callable
from pathlib import Path

import msgspec

from soulsai.algorithms.base import Stateful
from soulsai.config.schema import CheckpointSettings
from soulsai.errors import CheckpointError
from soulsai.prometheus import Stopwatch
from soulsai.training_node.saving import atomic_folders, snapshot
from soulsai.training_node.saving.atomic_folders import Buffer
from soulsai.training_node.saving.run_folder import ABOUT, RunFolder
from soulsai.training_node.saving.snapshot import Progress
from soulsai.types import Answer, Promote, Quicksave, SaveBest
from soulsai.wire.protocols import Position

RETRY_SECONDS = 10.0  # after a checkpoint could not be written
COPIED_BYTES = 2**30  # of a snapshot, at most

log = logging.getLogger(__name__)


class Saver:
    """Writes the run's folder; only ``final`` raises an error."""

    def __init__(
        self,
        folder: RunFolder,
        config: CheckpointSettings,
        progress: Progress,
        parts: dict[str, Stateful],
        policy: Callable[[], bytes],
        *,
        clock: Callable[[], float],
        took: Callable[[float], object] = lambda _: None,
    ) -> None:
        """Save nothing yet.

        Args:
            folder: The run's folder.
            config: When to save, and how many checkpoints to keep.
            progress: The run's counters.
            parts: The algorithm's parts by name.
            policy: Returns a whole ``policy.onnx`` of the present weights.
            clock: Monotonic seconds.
            took: Receives the seconds that each checkpoint took to write.
        """
        self._took = took
        self.notice = ""
        self.newest = ""  # the name of the newest checkpoint
        self.durable: dict[str, Position] = {}  # the end of each stream in our newest checkpoint
        self._folder = folder
        self._config = config
        self._progress = progress
        self._parts = parts
        self._policy = policy
        self._clock = clock
        self._saved_at: float | None = None
        self._began = clock()
        self._is_first = not folder.has_checkpoint  # the run has nothing to go on from
        self._saved_updates, self._saved_steps = progress.updates, progress.env_steps
        self._retry_at = -float("inf")
        self._writing: _Writing | None = None

    @property
    def age(self) -> float | None:
        """Seconds since the newest checkpoint of ours."""
        return None if self._saved_at is None else self._clock() - self._saved_at

    @property
    def due(self) -> bool:
        """Whether it is time for the next checkpoint: the first one, or the next one."""
        progress, config = self._progress, self._config
        if not self.ready:
            return False
        if self._is_first:  # before anything is published or learnt
            return True
        if progress.updates - self._saved_updates >= config.every:
            return True
        seconds = self._clock() - (self._began if self._saved_at is None else self._saved_at)
        changed = (progress.updates, progress.env_steps) != (self._saved_updates, self._saved_steps)
        return changed and 0.0 < 60.0 * config.minutes <= seconds

    @property
    def ready(self) -> bool:
        """Whether a checkpoint may be begun now."""
        return self._writing is None and self._clock() >= self._retry_at

    def begin(self) -> None:
        """Take a snapshot, and begin to write it as a checkpoint beside the learning.

        A snapshot is a copy, so one that is very large is written before this returns.
        """
        try:
            writing = self._snapshot()
        except CheckpointError as error:
            self._failed(error)
            return
        writing.first = 0 if self._is_first else 1
        if writing.bytes <= COPIED_BYTES:
            writing.copy()
            writing.start()
        else:
            writing.run()
        self._writing = writing

    def collect(self) -> bool:
        """Return whether a checkpoint was finished since the last call; it is durable now."""
        writing = self._writing
        if writing is None or writing.is_alive():
            return False
        self._writing = None
        try:
            self._written(writing)
        except CheckpointError as error:
            self._failed(error)
            return False
        return True

    def final(self) -> None:
        """Write a checkpoint; raise ``CheckpointError`` if that is impossible."""
        self.close()
        writing = self._snapshot()
        writing.run()
        self._written(writing)

    def close(self) -> None:
        """Wait for a checkpoint that is being written."""
        if self._writing is not None and self._writing.is_alive():
            self._writing.join()
        self.collect()

    def _snapshot(self) -> "_Writing":
        positions = {client: mark.position for client, mark in self._progress.marks.items()}
        files = self._files(self._config.replay)
        return _Writing(self._folder, files, self._config.keep, positions, self._progress)

    def _failed(self, error: CheckpointError) -> None:
        if str(error) != self.notice:
            log.warning("checkpoint not written error=%s", error)
        self.notice = str(error)
        self._retry_at = self._clock() + RETRY_SECONDS

    def _written(self, writing: "_Writing") -> None:
        path, error = writing.path, writing.error
        if path is None:
            raise CheckpointError(f"{self._folder.path}: checkpoint not saved: {error}") from error
        self.notice, self.newest = "", path.name
        self.durable = writing.positions
        self._saved_at = self._clock()
        self._took(writing.seconds)
        self._is_first = False
        self._saved_updates, self._saved_steps = writing.updates, writing.env_steps
        log.info("checkpoint written path=%s updates=%d", path, writing.updates)

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
            self._folder.replace(target, {snapshot.POLICY: [policy], ABOUT: [about]})
        except OSError as error:
            return Answer(done=False, message=f"{target}: not saved: {error}")
        return Answer(
            done=True,
            message=f"saved version {command.generation}-{command.version}, "
            f"score {command.score:g}, in {target}",
        )

    def promote(self, command: Promote) -> Answer:
        """Make the policy of a checkpoint the best model, and say so."""
        source, target = self._folder.saved(command.model), self._folder.best_model
        fault = "there is none of that name" if source is None else atomic_folders.damage(source)
        if source is None or fault:
            return Answer(done=False, message=f"checkpoint {command.model[:64]!r}: {fault}")
        try:
            policy = atomic_folders.read(source, snapshot.POLICY)
            about = atomic_folders.read(source, snapshot.PROGRESS)
            self._folder.replace(target, {snapshot.POLICY: [policy], ABOUT: [about]})
        except (OSError, CheckpointError) as error:
            return Answer(done=False, message=f"{target}: not saved: {error}")
        return Answer(done=True, message=f"{command.model} is the best model now, in {target}")

    def _files(self, replay: bool) -> dict[str, list[Buffer]]:
        return snapshot.files(self._progress, self._parts, self._policy(), replay=replay)


class _Writing(threading.Thread):
    """One checkpoint on its way to the disk."""

    def __init__(
        self,
        folder: RunFolder,
        files: dict[str, list[Buffer]],
        keep: int,
        positions: dict[str, Position],
        progress: Progress,
    ) -> None:
        super().__init__(name="checkpoint", daemon=False)
        self.first = 1  # the number of a first checkpoint
        self.positions = positions
        self.updates, self.env_steps = progress.updates, progress.env_steps
        self.path: Path | None = None
        self.error: OSError | None = None
        self.seconds = 0.0
        self._folder, self._files, self._keep = folder, files, keep

    @property
    def bytes(self) -> int:
        """The size of all files."""
        return sum(memoryview(piece).nbytes for file in self._files.values() for piece in file)

    def copy(self) -> None:
        """Let go of the arrays that learning goes on to change."""
        self._files = {name: [bytes(piece) for piece in file] for name, file in self._files.items()}

    def run(self) -> None:
        """Write."""
        stopwatch = Stopwatch()
        try:
            self.path = atomic_folders.append(
                self._folder.checkpoints, self._files, self._keep, self.first,
                pinned=(self._folder.best_checkpoint,),
            )  # fmt: skip
        except OSError as error:
            self.error = error
        self.seconds = stopwatch.lap()
        self._files = {}
