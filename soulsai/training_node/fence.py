"""Whether the run is still ours: two nodes on one run would undo each other's work."""

import logging
from collections.abc import Callable

from soulsai.errors import Superseded
from soulsai.training_node import start
from soulsai.training_node.retrying_wire import Line
from soulsai.training_node.start import Run
from soulsai.wire.protocols import TrainingWire

log = logging.getLogger(__name__)


class Fence:
    """Compares our generation with the server's; ``publish`` is called if that has lost the run."""

    def __init__(
        self, run: Run, wire: TrainingWire, line: Line, publish: Callable[[], None]
    ) -> None:
        self._run, self._wire, self._line, self._publish = run, wire, line, publish

    def __call__(self) -> bool:
        """Stop if a newer node has taken over; publish the run again if the server lost it.

        Return whether that is known: the server may not answer.
        """
        ours = self._run.progress.generation
        seen: list[int] = []
        if not self._line.attempt(lambda: seen.append(self._wire.generation())):
            return False
        if seen[0] > ours:
            raise Superseded(
                f"{self._run.spec.run}: a newer training node has taken over (generation {seen[0]})"
            )
        if seen[0] < ours and self._line.attempt(self._reopen):
            log.warning("server had lost the run, published again generation=%d", ours)
            self._publish()
        return True

    def _reopen(self) -> None:
        run, ours = self._run, self._run.progress.generation
        run.progress.generation = start.reopen(self._wire, run.spec, run.program, ours)
