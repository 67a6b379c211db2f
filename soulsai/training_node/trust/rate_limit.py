"""A bound on the env steps that one client may add, relative to the other clients.

A flood would fill the replay and spend the quotas of all clients. The honest rate is not known
beforehand, but hardly any honest client, however many environments it plays, is fifty times as
fast as all others. The slowest clients give no bound, because anyone can send little under many
names.
"""

import math
from collections.abc import Callable

from msgspec import Struct

MEMORY_SECONDS = 3600.0  # of play over which a rate is averaged; older play fades
ABSENT_SECONDS = 60.0  # of silence; longer silence is no time of play
ADVANCE_SECONDS = 600.0  # that a client may have played before its first message: it has a spool
KNOWN_SECONDS = 10.0  # of play, after which a rate is a bound for others
ENOUGH_OTHERS = 2  # between two clients the odd one cannot be told
MOST_CLIENTS = 4096  # remembered


class ClientRate(Struct):
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


class RateLimit:
    """Compares every client with the fastest of the others that are playing."""

    def __init__(self, times: float, clock: Callable[[], float]) -> None:
        """Allow a client ``times`` the rate of the fastest other; 0 allows any rate."""
        self._times = times
        self._clock = clock
        self._rates: dict[str, ClientRate] = {}  # the longest quiet is first, here and
        self._known: dict[str, ClientRate] = {}  # of those that are a bound for others

    def allows(self, client: str, steps: int) -> bool:
        """Return whether a client may add ``steps`` env steps now, and count them if it may."""
        now = self._clock()
        rate = self._rates.pop(client, None) or ClientRate(now)
        self._rates[client] = rate  # the last in order: the first is the longest quiet
        if len(self._rates) > MOST_CLIENTS:
            quietest = next(iter(self._rates))
            del self._rates[quietest]
            self._known.pop(quietest, None)
        rate.advance(now)
        self._known.pop(client, None)
        if rate.seconds >= KNOWN_SECONDS:
            self._known[client] = rate
        if self._times and not self._within(client, rate, steps, now):
            return False
        rate.steps += steps
        return True

    def _within(self, client: str, rate: ClientRate, steps: int, now: float) -> bool:
        """Search for a fast enough client; mostly the most recent one is."""
        span = max(rate.seconds, ADVANCE_SECONDS)
        others = 0
        for name, other in reversed(self._known.items()):
            if now - other.seen > ABSENT_SECONDS:
                break  # all that remain have been silent for longer
            if name == client:
                continue
            if self._times * (other.steps / other.seconds) * span >= rate.steps + steps:
                return True
            others += 1
        return others < ENOUGH_OTHERS
