"""When to ask the training node to save its best weights, and what may be claimed of it. Pure."""

from msgspec import Struct

from soulsai.telemetry_node.statistics import Best
from soulsai.types import SaveBest

NAME = "best.json"
REST = 1.0  # seconds between two requests: while it learns, every episode is a new best
PATIENCE = 60.0  # seconds between two requests, at most, while nobody answers


class BestFile(Struct, frozen=True):
    """``best.json``: the best average so far, and whether ``best_model`` holds those weights."""

    score: float
    generation: int
    version: int
    env_steps: int
    episodes: int
    greedy: bool
    time: float
    saved: bool
    answer: str = ""  # what the training node said


class Claim:
    """Follows the best average until its weights are saved or refused.

    Refused weights (the training node no longer holds that version) are given up: asking for newer
    ones in their place would save what did not produce the score. A request without an answer is
    repeated, more and more slowly.
    """

    def __init__(self) -> None:
        self.best: Best | None = None
        self.saved = False
        self.answer = ""
        self._pending = False
        self._next = 0.0
        self._wait = REST

    def offer(self, best: Best) -> None:
        """Take note of a better average; an older one that still waits is forgotten."""
        self.best, self.saved, self.answer = best, False, ""
        self._pending = True

    def restore(self, file: BestFile) -> None:
        """Take up what ``best.json`` says of the best that was offered, if it speaks of that."""
        best = self.best
        if best is None or (file.score, file.generation, file.version, file.episodes) != (
            best.score,
            best.generation,
            best.version,
            best.episodes,
        ):
            return
        self.saved, self.answer = file.saved, file.answer
        self._pending = not (file.saved or file.answer)

    def due(self, now: float) -> SaveBest | None:
        """Return what to ask for at this time, if anything."""
        if not self._pending or self.best is None or now < self._next:
            return None
        return SaveBest(self.best.generation, self.best.version, self.best.score)

    def answered(self, done: bool, message: str, now: float) -> None:
        """Take note of the training node's answer."""
        self.saved, self.answer, self._pending = done, message or str(done), False
        self._next, self._wait = now + REST, REST

    def unanswered(self, now: float) -> None:
        """Take note that no answer came."""
        self._wait = min(2 * self._wait, PATIENCE)
        self._next = now + self._wait

    def file(self) -> BestFile | None:
        """Return what ``best.json`` should say now."""
        best = self.best
        if best is None:
            return None
        return BestFile(
            score=best.score,
            generation=best.generation,
            version=best.version,
            env_steps=best.env_steps,
            episodes=best.episodes,
            greedy=best.greedy,
            time=best.time,
            saved=self.saved,
            answer=self.answer,
        )
