"""Going back to the last good version, after updates that have spoilt the weights."""

import logging

from soulsai.errors import CheckpointError, SoulsAIError
from soulsai.training_node.saving import snapshot
from soulsai.training_node.start import TrainingRun

PATIENCE = 3  # times that one checkpoint is gone back to

log = logging.getLogger(__name__)


class Diverged(SoulsAIError):
    """The learner spoils its weights again and again."""


class Rollback:
    """Restores the newest checkpoint in place, as a restart would; before the first, the start.

    What came since then still waits on the server, and is learnt from again.
    """

    def __init__(self, run: TrainingRun) -> None:
        self._run = run
        fresh = not run.progress.marks
        self._origin = snapshot.Origin(run.progress, run.algorithm.parts) if fresh else None
        self._last = ""
        self._times = 0

    def __repr__(self) -> str:
        return f"<Rollback [{self._run.progress.rollbacks} so far]>"

    def saved(self) -> None:
        """Forget the start: there is a checkpoint now."""
        self._origin = None

    def go_back(self, reason: str) -> None:
        """Restore all parts and counters; raise ``Diverged`` if that has not helped before."""
        progress, parts = self._run.progress, self._run.algorithm.parts
        if self._origin is not None:
            where, then = "the start", self._origin.restore(parts)
        else:
            try:
                folder = self._run.folder.newest()
            except CheckpointError as error:
                raise Diverged(f"{reason}, and there is nothing to go back to: {error}") from error
            where, then = folder.name, snapshot.restore(folder, parts)
        self._times = self._times + 1 if where == self._last else 1
        self._last = where
        if self._times > PATIENCE:
            raise Diverged(
                f"{self._run.folder.path}: {reason}, {PATIENCE} times after going back to {where}; "
                "lower the learning rate, and resume"
            )
        self._run.algorithm.policy.fault = ""
        progress.go_back(then)
        progress.rollbacks += 1
        log.warning("went back to=%s reason=%r env_steps=%d", where, reason, progress.env_steps)
