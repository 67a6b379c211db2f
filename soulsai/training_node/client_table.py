"""The clients of a run: their speeds, lags, losses, faults and times of silence."""

from collections import Counter, deque
from collections.abc import Callable, Iterable, Mapping
from typing import Literal

from soulsai.training_node.admission import LARGEST_TOTAL, Arrival
from soulsai.types import ClientStatus, Heartbeat

PATIENCE = 10.0  # seconds of silence after which a client counts as lost
IDLE_SECONDS = 5.0  # without an env step, or of waiting for slower clients, until others go on
MOST_CLIENTS = 1024
MOST_KINDS = 32  # of environments' faults that are counted apart


class Rate:
    """The growth of a total per second over about the last ``window`` seconds."""

    def __init__(self, window: float = 5.0) -> None:
        self._window = window
        self._samples: deque[tuple[float, float]] = deque()

    def per_second(self, now: float, total: float) -> float:
        """Return the rate, given the present total; call it about once a second."""
        samples = self._samples
        if not samples or now - samples[-1][0] >= self._window / 10:
            samples.append((now, total))
        while len(samples) > 1 and samples[1][0] <= now - self._window:
            samples.popleft()
        then, before = samples[0]
        return (total - before) / (now - then) if now > then else 0.0


class _ClientState:
    """The state of one client; sums over its epochs are bounded."""

    def __init__(self, now: float) -> None:
        self.seen = self.joined = now
        self.stepped: float | None = None  # the time of its last env step that was admitted
        self.rate = Rate()
        self.epoch = 0
        self.admitted = 0
        self.taken = 0  # env steps admitted since the newest version
        self.rejected = 0
        self.lost = 0
        self.version: int | None = None  # of its last fragment
        self.heartbeat: Heartbeat | None = None
        self.reported = now  # the time of its last heartbeat
        self.waiting_since = now  # with the same version, according to its heartbeats
        self._dropped = 0  # in earlier epochs
        self._restarts = 0  # in earlier epochs
        self._faults: Counter[str] = Counter()  # in earlier epochs

    @property
    def dropped(self) -> int:
        return bounded(self._dropped + (self.heartbeat.dropped if self.heartbeat else 0))

    @property
    def restarts(self) -> int:
        return bounded(self._restarts + (self.heartbeat.restarts if self.heartbeat else 0))

    @property
    def faults(self) -> Counter[str]:
        return add_faults(self._faults, self.heartbeat.faults if self.heartbeat else {})

    def begin_epoch(self, epoch: int) -> None:
        self.epoch = epoch
        self._dropped, self._restarts, self._faults = self.dropped, self.restarts, self.faults
        self.heartbeat = None

    def report(self, heartbeat: Heartbeat, now: float) -> None:
        before = self.heartbeat
        if before is None or not before.waiting or before.version != heartbeat.version:
            self.waiting_since = now
        self.heartbeat, self.reported = heartbeat, now

    @property
    def is_waiting(self) -> bool:
        return self.heartbeat is not None and self.heartbeat.waiting

    def is_playing(self, now: float) -> bool:
        return self.stepped is not None and now - self.stepped <= IDLE_SECONDS

    def has_share(self, now: float) -> bool:
        waits = self.is_waiting and self.stepped is not None
        return waits or self.is_playing(now) or now - self.joined <= IDLE_SECONDS

    def waits(self, version: int, since: float) -> bool:
        """Whether the client has reported since then that it waits, and has that version.

        A client without the version waits for it. A greedy episode keeps an older version, so the
        version does not matter once the report is ``PATIENCE`` seconds newer.
        """
        if self.heartbeat is None or not self.heartbeat.waiting:
            return False
        has_it = self.heartbeat.version >= version
        return self.reported >= since + (0.0 if has_it else PATIENCE)


class ClientTable:
    """Keeps the clients heard of last; for the others it keeps the sums of their counters."""

    def __init__(self, now: float, patience: float = PATIENCE, limit: int = MOST_CLIENTS) -> None:
        """Begin without clients.

        Args:
            now: Seconds of a monotonic clock.
            patience: Seconds of silence after which a client counts as lost.
            limit: The number of clients that are kept.
        """
        self._clients: dict[str, _ClientState] = {}
        self._patience = patience
        self._limit = limit
        self._now = now
        self._unheard: dict[str, float] = {}  # streams without a message, and their discovery
        self._forgotten_dropped = 0
        self._forgotten_restarts = 0
        self._forgotten_faults: Counter[str] = Counter()

    def heard(self, arrival: Arrival, now: float) -> None:
        """Note the time of an arrival, and its heartbeat."""
        self._now = now
        client = self._clients.get(arrival.client)
        if client is None:
            if len(self._clients) >= self._limit:
                self.forget(min(self._clients, key=lambda name: self._clients[name].seen))
            client = self._clients[arrival.client] = _ClientState(now)
        client.seen = now
        if arrival.mark.position.epoch != client.epoch:
            client.begin_epoch(arrival.mark.position.epoch)
        if arrival.heartbeat is not None:
            client.report(arrival.heartbeat, now)

    def count(self, arrival: Arrival, steps: int) -> None:
        """Count an arrival of which ``steps`` env steps were admitted."""
        client = self._clients.get(arrival.client)
        if client is None:  # forgotten meanwhile
            return
        client.admitted += steps
        client.taken += steps
        client.rejected += len(arrival.refusals) + arrival.discarded
        client.lost = bounded(client.lost + arrival.lost)
        if steps:
            client.stepped = client.seen
            client.version = arrival.fragments[-1].version

    def tick(self, now: float) -> None:
        """Set the time."""
        self._now = now

    @property
    def active(self) -> int:
        """The number of clients that are not lost."""
        return len(self._active())

    @property
    def sharing(self) -> int:
        """The number of clients among which a grant is divided."""
        return len(self._sharing())

    def restart_counts(self) -> list[int]:
        """Return the env steps of each client with a share in the grants since the last call."""
        taken = [client.taken for client in self._sharing()]
        for client in self._clients.values():
            client.taken = 0
        return taken

    def need_grant(self, version: int, since: float) -> bool:
        """Return whether clients have spent their grants and wait too long for the others.

        Either all clients wait that are not idle, or one has waited for ``IDLE_SECONDS`` because
        others are slower. A client that neither waits nor takes steps is idle: its environment
        starts, or hangs.

        Args:
            version: The newest version; a client without it is about to receive it.
            since: The time after which a client must have reported that it waits.
        """
        busy = [c for c in self._active() if c.is_waiting or c.is_playing(self._now)]
        waiting = [client for client in busy if client.waits(version, since)]
        return bool(waiting) and (
            len(waiting) == len(busy)
            or any(client.reported - client.waiting_since >= IDLE_SECONDS for client in waiting)
        )

    @property
    def dropped(self) -> int:
        """Env steps that clients report as dropped."""
        known = sum(client.dropped for client in self._clients.values())
        return bounded(known + self._forgotten_dropped)

    @property
    def restarts(self) -> int:
        """Restarts of environments that clients report."""
        known = sum(client.restarts for client in self._clients.values())
        return bounded(known + self._forgotten_restarts)

    @property
    def faults(self) -> Counter[str]:
        """Faults of environments that clients report, by kind."""
        total = self._forgotten_faults
        for client in self._clients.values():
            total = add_faults(total, client.faults)
        return total

    def idle(self, seconds: float) -> list[str]:
        """Return the active clients that neither wait nor take a step for so many seconds."""
        return [
            name
            for name, client in self._clients.items()
            if not self._is_lost(client)
            and not client.is_waiting
            and self._now - (client.joined if client.stepped is None else client.stepped) > seconds
        ]

    def found(self, names: Iterable[str]) -> None:
        """Note the clients that have a stream on the server, heard of or not."""
        unheard = [name for name in names if name not in self._clients]
        self._unheard = {name: self._unheard.get(name, self._now) for name in unheard}

    def silent(self, seconds: float) -> list[str]:
        """Return the clients without a message for so many seconds."""
        since = self._unheard | {name: client.seen for name, client in self._clients.items()}
        return [name for name, seen in since.items() if self._now - seen > seconds]

    def forget(self, name: str) -> None:
        """Remove a client; its reported counters stay in the sums."""
        self._unheard.pop(name, None)
        client = self._clients.pop(name, None)
        if client is None:
            return
        self._forgotten_dropped = bounded(self._forgotten_dropped + client.dropped)
        self._forgotten_restarts = bounded(self._forgotten_restarts + client.restarts)
        self._forgotten_faults = add_faults(self._forgotten_faults, client.faults)

    def statuses(
        self,
        version: int,
        held: Callable[[str], str] = lambda _: "",
        finding: Callable[[str], str] = lambda _: "",
    ) -> tuple[ClientStatus, ...]:
        """Return the status of each client, in order of their names.

        Args:
            version: The newest version.
            held: Returns the reason of a client's exclusion, or an empty text.
            finding: Returns the finding of the action check, or an empty text.
        """
        return tuple(
            ClientStatus(
                client=name,
                state="quarantine" if held(name) else self._state(client),
                held=held(name),
                finding=finding(name),
                steps_per_second=client.rate.per_second(self._now, client.admitted),
                admitted=client.admitted,
                rejected=client.rejected,
                lost=client.lost,
                dropped=client.dropped,
                queued=client.heartbeat.queued if client.heartbeat else 0,
                lag=0 if client.version is None else max(0, version - client.version),
                seen=self._now - client.seen,
                restarts=client.restarts,
                faults=dict(client.faults),
                trouble=client.heartbeat.trouble if client.heartbeat else "",
                kwargs=client.heartbeat.kwargs if client.heartbeat else {},
            )
            for name, client in sorted(self._clients.items())
        )

    def _active(self) -> list[_ClientState]:
        return [client for client in self._clients.values() if not self._is_lost(client)]

    def _sharing(self) -> list[_ClientState]:
        """Return the active clients without the idle ones, unless all are idle."""
        active = self._active()
        return [client for client in active if client.has_share(self._now)] or active

    def _is_lost(self, client: _ClientState) -> bool:
        return self._now - client.seen > self._patience

    def _state(self, client: _ClientState) -> Literal["active", "waiting", "lost"]:
        if self._is_lost(client):
            return "lost"
        return "waiting" if client.is_waiting else "active"


def bounded(total: int) -> int:
    """Return a sum of reported counts, at most ``LARGEST_TOTAL``."""
    return min(LARGEST_TOTAL, total)


def add_faults(known: Counter[str], more: Mapping[str, int]) -> Counter[str]:
    """Return the sum of two counts of faults, with a bounded number of kinds and bounded counts."""
    if not more:
        return known
    total = known.copy()
    for kind, count in more.items():
        name = kind if kind in total or len(total) < MOST_KINDS else "other"
        total[name] = bounded(total[name] + count)
    return total
