"""Who plays: how fast, how stale, how reliably, and who has fallen silent."""

from collections import Counter, deque
from collections.abc import Callable, Mapping
from typing import Literal

from soulsai.training_node.admission import LARGEST_TOTAL, Arrival
from soulsai.types import ClientStatus, Heartbeat

PATIENCE = 10.0  # seconds of silence after which a client counts as lost
MOST_CLIENTS = 1024
MOST_KINDS = 32  # of environments' faults that are told apart once their client is forgotten


class Rate:
    """How fast a total has grown over about the last ``window`` seconds."""

    def __init__(self, window: float = 5.0) -> None:
        self._window = window
        self._seen: deque[tuple[float, float]] = deque()

    def per_second(self, now: float, total: float) -> float:
        """Return the rate, given the total now; call it about once a second."""
        seen = self._seen
        if not seen or now - seen[-1][0] >= self._window / 10:
            seen.append((now, total))
        while len(seen) > 1 and seen[1][0] <= now - self._window:
            seen.popleft()
        then, before = seen[0]
        return (total - before) / (now - then) if now > then else 0.0


class _Player:
    """One client, as far as it is remembered."""

    def __init__(self, now: float) -> None:
        self.seen = now
        self.rate = Rate()
        self.epoch = 0
        self.admitted = 0
        self.taken = 0  # env steps admitted since the newest version
        self.rejected = 0
        self.lost = 0
        self.dropped = 0  # in epochs before this one
        self.restarts = 0  # the same
        self.faults: Counter[str] = Counter()  # the same
        self.version: int | None = None  # of its last fragment
        self.last: Heartbeat | None = None
        self.told = now  # when it last said how it is

    @property
    def all_dropped(self) -> int:
        return min(LARGEST_TOTAL, self.dropped + (self.last.dropped if self.last else 0))

    @property
    def all_restarts(self) -> int:
        return min(LARGEST_TOTAL, self.restarts + (self.last.restarts if self.last else 0))

    @property
    def all_faults(self) -> Counter[str]:
        return add_faults(self.faults, self.last.faults if self.last else {})

    def begin_epoch(self, epoch: int) -> None:
        self.epoch = epoch
        self.dropped, self.restarts = self.all_dropped, self.all_restarts
        self.faults = self.all_faults
        self.last = None


class Roster:
    """Remembers at most ``limit`` clients; when more come, the one longest silent is forgotten."""

    def __init__(self, now: float, patience: float = PATIENCE, limit: int = MOST_CLIENTS) -> None:
        self._players: dict[str, _Player] = {}
        self._patience = patience
        self._limit = limit
        self._forgotten_dropped = 0
        self._forgotten_restarts = 0
        self._forgotten_faults: Counter[str] = Counter()
        self._now = now

    def __repr__(self) -> str:
        return f"<Roster [{self.active} active of {len(self._players)}]>"

    def heard(self, arrival: Arrival, now: float) -> None:
        """Note what came from a client, and when."""
        self._now = now
        player = self._player(arrival.client, now)
        player.seen = now
        if arrival.mark.position.epoch != player.epoch:
            player.begin_epoch(arrival.mark.position.epoch)
        if arrival.heartbeat is not None:
            player.last, player.told = arrival.heartbeat, now

    def admitted(self, arrival: Arrival, steps: int) -> None:
        """Count what came of it: so many env steps, and what was refused or lost."""
        player = self._players.get(arrival.client)
        if player is None:  # forgotten meanwhile
            return
        player.admitted += steps
        player.taken += steps
        player.rejected += len(arrival.refusals) + arrival.discarded
        player.lost = min(LARGEST_TOTAL, player.lost + arrival.lost)
        if steps:
            player.version = arrival.fragments[-1].version

    def tick(self, now: float) -> None:
        """Let time pass."""
        self._now = now

    @property
    def active(self) -> int:
        """Clients heard of lately."""
        return sum(not self._is_lost(player) for player in self._players.values())

    def published(self) -> list[int]:
        """Return the env steps of each active client since the last call."""
        taken = [player.taken for player in self._players.values() if not self._is_lost(player)]
        for player in self._players.values():
            player.taken = 0
        return taken

    def all_wait(self, version: int, since: float) -> bool:
        """Return whether there are active clients, and all wait, though they have that version.

        They must have said so since then. Those who have not got it wait for it; but a greedy
        episode keeps an older one, so some time later it does not matter any more.
        """
        active = [player for player in self._players.values() if not self._is_lost(player)]
        return bool(active) and all(_waits(player, version, since) for player in active)

    @property
    def dropped(self) -> int:
        """Env steps that clients say they dropped."""
        known = sum(player.all_dropped for player in self._players.values())
        return min(LARGEST_TOTAL, known + self._forgotten_dropped)

    @property
    def restarts(self) -> int:
        """Restarts of environments, as clients tell them."""
        known = sum(player.all_restarts for player in self._players.values())
        return min(LARGEST_TOTAL, known + self._forgotten_restarts)

    @property
    def faults(self) -> Counter[str]:
        """Faults of environments by kind, as clients tell them."""
        total = self._forgotten_faults
        for player in self._players.values():
            total = add_faults(total, player.all_faults)
        return total

    def silent(self, seconds: float) -> list[str]:
        """Return the clients not heard of for so long."""
        return [name for name, p in self._players.items() if self._now - p.seen > seconds]

    def forget(self, client: str) -> None:
        """Forget a client; its drops and faults stay counted."""
        player = self._players.pop(client, None)
        if player is None:
            return
        dropped = self._forgotten_dropped + player.all_dropped
        restarts = self._forgotten_restarts + player.all_restarts
        self._forgotten_dropped = min(LARGEST_TOTAL, dropped)
        self._forgotten_restarts = min(LARGEST_TOTAL, restarts)
        self._forgotten_faults = add_faults(self._forgotten_faults, player.all_faults)

    def statuses(
        self,
        version: int,
        held: Callable[[str], str] = lambda _: "",
        finding: Callable[[str], str] = lambda _: "",
    ) -> tuple[ClientStatus, ...]:
        """Return all clients in order of their names.

        Args:
            version: The newest version.
            held: Returns the reason of a client's exclusion, or an empty text.
            finding: Returns the finding of the action check, or an empty text.
        """
        return tuple(
            ClientStatus(
                client=name,
                state="quarantine" if held(name) else self._state(player),
                held=held(name),
                finding=finding(name),
                steps_per_second=player.rate.per_second(self._now, player.admitted),
                admitted=player.admitted,
                rejected=player.rejected,
                lost=player.lost,
                dropped=player.all_dropped,
                queued=player.last.queued if player.last else 0,
                lag=0 if player.version is None else max(0, version - player.version),
                seen=self._now - player.seen,
                restarts=player.all_restarts,
                faults=dict(player.all_faults),
                trouble=player.last.trouble if player.last else "",
            )
            for name, player in sorted(self._players.items())
        )

    def _player(self, client: str, now: float) -> _Player:
        player = self._players.get(client)
        if player is None:
            if len(self._players) >= self._limit:
                self.forget(min(self._players, key=lambda name: self._players[name].seen))
            player = self._players[client] = _Player(now)
        return player

    def _is_lost(self, player: _Player) -> bool:
        return self._now - player.seen > self._patience

    def _state(self, player: _Player) -> Literal["active", "waiting", "lost"]:
        if self._is_lost(player):
            return "lost"
        return "waiting" if player.last is not None and player.last.waiting else "active"


def add_faults(known: Counter[str], more: Mapping[str, int]) -> Counter[str]:
    """Return the sum of two counts of faults, with a bounded number of kinds and bounded counts."""
    total = known.copy()
    for kind, count in more.items():
        name = kind if kind in total or len(total) < MOST_KINDS else "other"
        total[name] = min(LARGEST_TOTAL, total[name] + count)
    return total


def _waits(player: _Player, version: int, since: float) -> bool:
    last = player.last
    if last is None or not last.waiting:
        return False
    return player.told >= since + (0.0 if last.version >= version else PATIENCE)
