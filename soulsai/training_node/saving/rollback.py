"""The return to the last good checkpoint, after updates that have spoilt the weights."""

import logging

from soulsai.errors import CheckpointError, SoulsAIError
from soulsai.training_node.saving import atomic_folders, snapshot
from soulsai.training_node.start import TrainingRun

PATIENCE = 3  # returns to one checkpoint

log = logging.getLogger(__name__)


class Diverged(SoulsAIError):
    """The learner spoils its weights again and again."""


class Rollback:
    """Restores the newest checkpoint in place, as a restart would.

    Later experience still waits on the server, and is learnt from again.
    """

    def __init__(self, run: TrainingRun) -> None:
        self._run = run
        self._last = ""
        self._times = 0

    def __repr__(self) -> str:
        return f"<Rollback [{self._run.progress.rollbacks} so far]>"

    def refusal(self, checkpoint: str) -> str:
        """Return why a return to a checkpoint is of no use, or an empty text."""
        source = self._run.folder.saved(checkpoint)
        fault = "there is none of that name" if source is None else atomic_folders.damage(source)
        if fault:
            return f"checkpoint {checkpoint[:64]!r}: {fault}"
        if checkpoint == self._last and self._times >= PATIENCE:
            return f"{PATIENCE} returns to {checkpoint} have not helped; lower the learning rate"
        return ""

    def go_back(self, reason: str, checkpoint: str = "") -> str:
        """Restore all parts and counters, and return a line about it.

        Args:
            reason: Why the present weights are given up.
            checkpoint: One that is undamaged; empty: the newest.

        Raises:
            Diverged: There is no checkpoint, or going back to it has not helped before.
        """
        progress = self._run.progress
        try:
            named = self._run.folder.saved(checkpoint) if checkpoint else None
            folder, skipped = (named, "") if named else self._run.folder.newest()
        except CheckpointError as error:
            raise Diverged(f"{reason}, and there is nothing to go back to: {error}") from error
        then = snapshot.restore(folder, self._run.algorithm.parts)
        self._times = self._times + 1 if folder.name == self._last else 1
        self._last = folder.name
        if self._times > PATIENCE:
            raise Diverged(
                f"{self._run.folder.path}: {reason}, {PATIENCE} times after going back to "
                f"{folder.name}; lower the learning rate, and resume"
            )
        self._run.algorithm.policy.fault = ""
        progress.go_back(then)
        progress.rollbacks += 1
        log.warning("went back to=%s reason=%r env_steps=%d", folder.name, reason, then.env_steps)
        return skipped or f"went back to checkpoint {folder.name}: {reason}"
