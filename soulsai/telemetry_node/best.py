"""Decide when to request a save of the best weights; the content of ``best.json``. Pure."""

import msgspec

from soulsai.telemetry_node.statistics import Best
from soulsai.types import SaveBest

NAME = "best.json"
REST = 1.0  # seconds between two requests: early in a run, every episode is a new best
PATIENCE = 60.0  # longest wait in seconds between two requests without an answer


class BestFile(Best, frozen=True, kw_only=True):
    """``best.json``: the best average so far, and whether ``best_model`` holds its weights."""

    saved: bool
    answer: str = ""  # the training node's words


class BestTracker:
    """Follow the best average until its weights are saved or refused.

    Refused weights (the training node no longer holds that version) are given up: newer weights
    did not produce the score. A request without an answer is repeated at growing intervals.
    """

    def __init__(self) -> None:
        self.best: Best | None = None
        self.saved = False
        self.answer = ""
        self._pending = False
        self._next = 0.0
        self._wait = REST

    def offer(self, best: Best) -> None:
        """Replace the best average and forget the pending request of the previous one."""
        self.best, self.saved, self.answer = best, False, ""
        self._pending = True

    def restore(self, file: BestFile) -> None:
        """Restore the answer from ``best.json`` if the file describes the current best."""
        keys = ("score", "generation", "version", "episodes", "checkpoint")
        if self.best is None or any(getattr(file, key) != getattr(self.best, key) for key in keys):
            return
        self.saved, self.answer = file.saved, file.answer
        self._pending = not (file.saved or file.answer)

    def due(self, now: float) -> SaveBest | None:
        """Return the request that is due at ``now`` (seconds of any monotonic clock)."""
        if not self._pending or self.best is None or now < self._next:
            return None
        best = self.best
        return SaveBest(best.generation, best.version, best.score, best.checkpoint)

    def answered(self, done: bool, message: str, now: float) -> None:
        """Store the training node's answer to the last request.

        Args:
            done: Whether the weights are saved.
            message: The training node's words.
            now: Time of the answer in seconds.
        """
        self.saved, self.answer, self._pending = done, message or str(done), False
        self._next, self._wait = now + REST, REST

    def unanswered(self, now: float) -> None:
        """Schedule the next request after a request without an answer."""
        self._wait = min(2 * self._wait, PATIENCE)
        self._next = now + self._wait

    def file(self) -> BestFile | None:
        """Return the content of ``best.json``, or ``None`` before the first best."""
        if self.best is None:
            return None
        return BestFile(**msgspec.structs.asdict(self.best), saved=self.saved, answer=self.answer)
