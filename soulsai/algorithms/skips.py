"""Updates that were left out because something in them was not finite."""

from soulsai.algorithms.base import Policy

PATIENCE = 32  # of them in a row, after which the learner gives up


class Skips:
    """Counts them; when there were too many in a row, ``policy.fault`` says so.

    The training node then goes back to the last good checkpoint.
    """

    def __init__(self, policy: Policy) -> None:
        self.total = 0
        self._policy = policy
        self._in_a_row = 0

    def count(self, *, skipped: bool) -> None:
        """Take note of one update."""
        self.total += skipped
        self._in_a_row = self._in_a_row + 1 if skipped else 0
        if self._in_a_row >= PATIENCE:
            self._policy.fault = f"{PATIENCE} updates in a row were not finite"

    def begin_again(self, total: int) -> None:
        """Go on from another count."""
        self.total, self._in_a_row = total, 0
        self._policy.fault = ""
