"""The env steps that each client was granted, and those that it sent beyond that.

A learner owes updates for env steps, and clients wait while it owes too many. A client that ignores
its grants would so make all others wait. So no update is owed for what it sends beyond them.
"""

from collections import deque
from collections.abc import Iterable

import msgspec

from soulsai.types import Fragment

KEPT = 4  # the newest grants of which a client may still send steps: it may have been away
EARLIER_STEPS = 5_000  # of earlier generations, which granted them, from a client to a resumed run
MOST_CLIENTS = 4096  # remembered


class Grants:
    """Counts the granted and the received env steps of each client."""

    def __init__(self, generation: int, *, resumed: bool) -> None:
        """Begin without grants of this generation; those of an earlier one are not known."""
        self._earliest = generation if resumed else 0
        self._recent: deque[int] = deque(maxlen=KEPT)
        self._is_bounded = False
        self._left: dict[str, int] = {}
        self._earlier: dict[str, int] = {}

    def published(self, granted: int | None) -> None:
        """Add what a version grants to each client; ``None`` grants any number of env steps."""
        self._is_bounded = granted is not None
        self._recent.append(granted or 0)
        most = sum(self._recent)
        for client, left in self._left.items():
            self._left[client] = max(left, min(left + (granted or 0), most))

    def marked(self, fragments: Iterable[Fragment]) -> list[Fragment]:
        """Return fragments, those beyond the grants of their client with ``granted=False``."""
        if not self._is_bounded:
            return list(fragments)
        return [
            fragment if self._take(fragment) else msgspec.structs.replace(fragment, granted=False)
            for fragment in fragments
        ]

    def _take(self, fragment: Fragment) -> bool:
        if fragment.generation < self._earliest:
            return _spend(self._earlier, fragment, EARLIER_STEPS)
        return _spend(self._left, fragment, self._recent[-1])


def _spend(accounts: dict[str, int], fragment: Fragment, first: int) -> bool:
    """Subtract a fragment's steps from its client's account; return whether any were left."""
    left = accounts.pop(fragment.client, first)
    accounts[fragment.client] = left - len(fragment) if left > 0 else left
    if len(accounts) > MOST_CLIENTS:
        del accounts[next(iter(accounts))]
    return left > 0
