"""How much of what is learnt may come from one client. Pure, given the time.

Who floods would fill the replay, and with it the quotas that the others wait for. How fast the
honest are cannot be known beforehand: but hardly one, however many environments it plays, is
fifty times as fast as all others. The slowest say nothing, since anybody could send little under
many names.
"""

import math
from collections.abc import Callable

from msgspec import Struct

MEMORY_SECONDS = 3600.0  # of play that a pace is the mean of, older ones fading
ABSENT_SECONDS = 60.0  # of silence: what is longer is no time of play
ADVANCE_SECONDS = 600.0  # that a client may have played before we knew it: it has a spool
KNOWN_SECONDS = 10.0  # of play, after which a pace is a measure for others
ENOUGH_OTHERS = 2  # of two clients nobody knows which one is odd
MOST = 4096  # clients remembered


class Pace(Struct):
    """The env steps of one client, and the seconds of play that they are of; both fade."""

    seen: float
    steps: float = 0.0
    seconds: float = 0.0

    def advance(self, now: float) -> None:
        """Let time pass."""
        played = min(max(0.0, now - self.seen), ABSENT_SECONDS)
        kept = math.exp(-played / MEMORY_SECONDS)
        self.steps *= kept
        self.seconds = self.seconds * kept + MEMORY_SECONDS * (1.0 - kept)
        self.seen = now


class FairShare:
    """Compares every client with the fastest of the others that play now."""

    def __init__(self, times: float, clock: Callable[[], float]) -> None:
        """Let clients be so many ``times`` as fast; 0 is any number of times."""
        self._times = times
        self._clock = clock
        self._paces: dict[str, Pace] = {}

    def takes(self, client: str, steps: int) -> bool:
        """Return whether so many env steps more are no more than a client may have."""
        now = self._clock()
        pace = self._paces.pop(client, None) or Pace(now)
        self._paces[client] = pace  # last in order: the first is the one longest quiet
        if len(self._paces) > MOST:
            del self._paces[next(iter(self._paces))]
        pace.advance(now)
        if self._times and not self._allows(client, pace, steps, now):
            return False
        pace.steps += steps
        return True

    def _allows(self, client: str, pace: Pace, steps: int, now: float) -> bool:
        """Look for another that is fast enough; mostly the one heard of last is."""
        span = max(pace.seconds, ADVANCE_SECONDS)
        others = 0
        for name, other in reversed(self._paces.items()):
            if now - other.seen > ABSENT_SECONDS:
                break  # whoever is left was heard of even earlier
            if name == client or other.seconds < KNOWN_SECONDS:
                continue
            if self._times * (other.steps / other.seconds) * span >= pace.steps + steps:
                return True
            others += 1
        return others < ENOUGH_OTHERS
