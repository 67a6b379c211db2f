"""Who is kept out, why, and for how long. Pure, given the time."""

from collections.abc import Callable

from msgspec import Struct

BUDGET = 60.0  # messages of one client that may be refused per minute
FIRST_SECONDS = 600.0  # of a first quarantine; each further one takes twice as long
LONGEST_SECONDS = 24 * 3600.0
INNOCENT = frozenset(["run", "protocol", "overlap"])  # an old outbox explains them; they do no harm
MOST = 4096  # clients remembered


class Quarantine(Struct):
    """Why nothing of a client is let in. ``until`` is Unix seconds; ``None``: until pardoned."""

    reason: str
    since: float
    until: float | None
    times: int = 1
    over: bool = False  # served or pardoned; remembered, so that the next one takes longer


class Conduct:
    """Keeps the budget of refusals of every client, and the list of those in quarantine.

    ``held`` is replaced, never changed, so another thread may read it.
    """

    def __init__(self, kept: dict[str, Quarantine], now: Callable[[], float]) -> None:
        """``kept`` is where quarantines are stored; whoever owns it may save it."""
        self.held: frozenset[str] = frozenset()
        self._kept = kept
        self._now = now
        self._left: dict[str, tuple[float, float]] = {}  # what is left of the budget, and when
        self._update()

    def refused(self, client: str, reasons: list[str]) -> Quarantine | None:
        """Count refusals; return a quarantine if they were too many."""
        spent = sum(reason not in INNOCENT for reason in reasons)
        if not spent or client in self.held:
            return None
        now = self._now()
        left, then = self._left.pop(client, (BUDGET, now))
        left = min(BUDGET, left + max(0.0, now - then) * BUDGET / 60.0) - spent
        self._left[client] = left, now  # last in order, so the first is the one longest quiet
        if len(self._left) > MOST:
            del self._left[next(iter(self._left))]
        if left >= 0:
            return None
        return self.hold(client, f"too many refused messages, the last for {reasons[-1]!r}")

    def hold(self, client: str, reason: str, *, for_good: bool = False) -> Quarantine:
        """Keep a client out: for a while, or until it is pardoned."""
        now, before = self._now(), self._kept.pop(client, None)
        times = before.times + 1 if before is not None else 1
        seconds = min(LONGEST_SECONDS, FIRST_SECONDS * 2.0 ** min(times - 1, 20))
        held = Quarantine(reason, now, None if for_good else now + seconds, times)
        self._kept[client] = held
        self._left.pop(client, None)
        while len(self._kept) > MOST:
            del self._kept[next(iter(self._kept))]
        self._update()
        return held

    def pardon(self, client: str) -> bool:
        """Let a client in again; return whether it was kept out."""
        if client not in self.held:
            return False
        self._kept[client].over = True
        self._update()
        return True

    def released(self) -> list[str]:
        """Let those in again whose time is over; return their names."""
        now = self._now()
        free = [
            client
            for client in self.held
            if (until := self._kept[client].until) is not None and until <= now
        ]
        for client in free:
            self.pardon(client)
        return sorted(free)

    def reason(self, client: str) -> str:
        """Return why a client is kept out, or nothing."""
        return self._kept[client].reason if client in self.held else ""

    def _update(self) -> None:
        self.held = frozenset(client for client, held in self._kept.items() if not held.over)
