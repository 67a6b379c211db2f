"""Batches of on-policy experience from any clients, with a bound on its age."""

from collections.abc import Callable, Sequence
from typing import Any

import msgspec
from msgspec import Struct

from soulsai.algorithms.demonstrations import fragment_state
from soulsai.algorithms.pace import InFlight, Order, allowed
from soulsai.algorithms.ppo.settings import BatchPace
from soulsai.types import Fragment, Metrics

ENOUGH = 0.6  # share of a batch that suffices after the deadline (DD-PPO, arXiv:1911.00357)
AHEAD = 2  # batches that clients may play before the learner uses them, with ``hold``
FORGOTTEN = 2**31  # age, in iterations, of versions too old to remember
LEAST_EFFECTIVE = 0.5  # relative effective sample size of a batch
PATIENCE = 5  # consecutive batches below it, after which ``max_lag`` is halved
QUIET = 3  # deadlines without arrivals, after which clients are considered waiting

Key = tuple[str, int, int, int]  # client, epoch, episode, start


class Ages:
    """The age of each version: the number of iterations since its publication.

    Versions and iterations are counted apart, as a version may be published twice. For versions
    published before this process started, fragments give a lower bound: no version is younger than
    the first fragment of it or of any newer one.
    """

    def __init__(self) -> None:
        self.iteration = 0
        self._first_seen: dict[Order, int] = {}  # the iteration in which each version appeared
        self._old: Order = (-1, -1)  # the newest forgotten version

    def record(self, order: Order) -> None:
        """Record that a version was published or played."""
        self._first_seen.setdefault(order, self.iteration)

    def lag(self, order: Order) -> int:
        """Return the age of a version in iterations."""
        if order <= self._old:
            return FORGOTTEN
        since = [iteration for other, iteration in self._first_seen.items() if other >= order]
        return self.iteration - min(since, default=self.iteration)

    def forget(self, max_lag: int) -> None:
        """Forget versions older than ``max_lag`` iterations; their lag is ``FORGOTTEN``."""
        old = [order for order in self._first_seen if self.lag(order) > max_lag]
        self._old = max([self._old, *old])
        self._first_seen = {order: i for order, i in self._first_seen.items() if order > self._old}

    def state_dict(self) -> dict[str, Any]:
        """Return the iteration and the known versions."""
        seen = [[*order, iteration] for order, iteration in self._first_seen.items()]
        return {"iteration": self.iteration, "seen": seen, "old": list(self._old)}

    def load_state_dict(self, state_dict: dict[str, Any], /) -> None:
        """Load iteration and versions."""
        self.iteration = int(state_dict["iteration"])
        self._first_seen = {(g, v): iteration for g, v, iteration in state_dict["seen"]}
        generation, version = state_dict["old"]
        self._old = (generation, version)


class Dropped(Struct):
    """Counters of experience that is not learnt from."""

    stale: int = 0  # env steps under weights older than ``max_lag``
    overflow: int = 0  # env steps that arrived faster than the learner could use them
    greedy: int = 0  # env steps of greedy episodes, which do not explore
    duplicates: int = 0  # repeated fragments

    @property
    def steps(self) -> int:
        """All dropped env steps; greedy ones are none, as they are played to be measured."""
        return self.stale + self.overflow


class Batches:
    """Collects fragments from any clients into batches.

    A batch is ready when it is full, or when the deadline has passed and 60 % has arrived. If
    clients have used up their quota, or if nothing has arrived for three deadlines, the batch is
    ready as it is, so no client waits for ever. Duplicates and fragments older than ``max_lag``
    are dropped. If the effective sample size of five batches in a row is below one half,
    ``max_lag`` is halved, down to 1.

    Args:
        steps: Env steps of a batch.
        max_lag: Age of usable experience, in iterations.
        deadline: Seconds after a batch's first fragment.
        pace: How many env steps the fleet may take. ``free``: any number; experience that would be
            too old is dropped, oldest first. ``hold``: one batch ahead, where steps granted with
            earlier versions count until a client plays a newer one. ``synchronous``: one batch per
            version.
        clock: Monotonic time in seconds.
    """

    def __init__(
        self,
        *,
        steps: int,
        max_lag: int,
        deadline: float,
        pace: BatchPace,
        clock: Callable[[], float],
    ) -> None:
        self.steps, self.max_lag, self.deadline, self.pace = steps, max_lag, deadline, pace
        self._clock = clock
        self.ages = Ages()
        self.dropped = Dropped()
        self.arrived_steps = 0  # env steps, without duplicates
        self._pending: list[Fragment] = []
        self._size = 0  # env steps pending
        self._known: dict[Key, Order] = {}  # version of each recent fragment, against duplicates
        self._first: float | None = None  # arrival of the first pending fragment
        self._latest: float | None = None  # last arrival in this iteration
        self._in_flight = InFlight()
        self._heard: set[str] = set()  # clients of this iteration
        self._ineffective = 0  # consecutive batches with a small effective sample size
        self._halved = 0  # number of times

    def __len__(self) -> int:
        """Return the number of pending env steps."""
        return self._size

    @property
    def quota(self) -> int | None:
        """Env steps the fleet may take before the next version; ``None``: any number."""
        if self.pace == "free":
            return None
        if self.pace == "synchronous":
            return allowed(self.steps, self._size, 0)
        return allowed(AHEAD * self.steps, self._size, self._in_flight.steps)

    def published(self, newest: Order, granted: int | None) -> None:
        """Record the newest version and the env steps it granted, ``None`` for any number."""
        if self._in_flight.published(newest, granted):
            self.ages.record(newest)

    @property
    def ready(self) -> bool:
        """Whether a batch is ready."""
        if self._size >= self.steps:
            return True
        now = self._clock()
        due = self._first is not None and now - self._first >= self.deadline
        if due and self._size >= ENOUGH * self.steps:
            return True
        if self.pace == "free" or self._latest is None:
            return False
        rest = max(0, len(self._heard) - 1)  # the division of the quota loses these
        return self._in_flight.at_most(rest) or now - self._latest >= QUIET * self.deadline

    def arrived(self, fragments: Sequence[Fragment]) -> None:
        """Add fragments."""
        for fragment in fragments:
            self._latest = self._clock()
            key = (fragment.client, fragment.epoch, fragment.episode, fragment.start)
            order = (fragment.generation, fragment.version)
            if key in self._known:
                self.dropped.duplicates += 1
                continue
            self.ages.record(order)
            self.arrived_steps += len(fragment)
            self._known[key] = order
            self._heard.add(fragment.client)
            self._in_flight.arrived(fragment)
            if fragment.greedy:
                self.dropped.greedy += len(fragment)
            else:
                self._pending.append(fragment)
                self._size += len(fragment)
                self._first = self._latest if self._first is None else self._first
        if fragments:
            self._drop()

    def take(self) -> tuple[list[Fragment], list[int]]:
        """Return the fragments of the next batch, possibly none, and their ages in iterations."""
        if self._size < ENOUGH * self.steps:  # the rest of the quota will not arrive
            self._in_flight.clear()
        taken, size = 0, 0
        while taken < len(self._pending) and (size < self.steps or self.pace == "synchronous"):
            size += len(self._pending[taken])
            taken += 1
        batch = self._pending[:taken]
        self._pending = self._pending[taken:]
        self._size -= size
        self._first = self._clock() if self._pending else None
        return batch, [self.ages.lag((f.generation, f.version)) for f in batch]

    def forget(self, client: str) -> int:
        """Drop the pending fragments of one client; return their env steps."""
        before = self._size
        self._pending = [fragment for fragment in self._pending if fragment.client != client]
        self._size = sum(map(len, self._pending))
        self._first = self._first if self._pending else None
        return before - self._size

    def limit_lag(self, effective: float) -> bool:
        """Halve ``max_lag`` after several batches of a small effective sample size.

        Args:
            effective: Effective sample size of a batch, as a share of its size.

        Returns:
            Whether ``max_lag`` was halved now.
        """
        self._ineffective = self._ineffective + 1 if effective < LEAST_EFFECTIVE else 0
        if self._ineffective < PATIENCE or self.max_lag <= 1:
            return False
        self._ineffective, self._halved, self.max_lag = 0, self._halved + 1, self.max_lag // 2
        return True

    def updated(self) -> None:
        """Begin the next iteration."""
        self.ages.iteration += 1
        self._drop()
        self._known = {k: o for k, o in self._known.items() if self.ages.lag(o) <= self.max_lag}
        self.ages.forget(self.max_lag)
        self._heard.clear()
        self._in_flight.updated()
        # Without a quota, earlier grants must arrive or be given up after some time.
        self._latest = self._clock() if self.quota == 0 else None

    @property
    def metrics(self) -> Metrics:
        """The counters and ``max_lag``."""
        dropped = self.dropped
        return {
            "dropped_stale": float(dropped.stale),
            "dropped_overflow": float(dropped.overflow),
            "dropped_duplicates": float(dropped.duplicates),
            "greedy_steps": float(dropped.greedy),
            "max_lag": float(self.max_lag),
        }

    def _drop(self) -> None:
        """Drop experience that is too old, or would be when its batch is taken."""
        orders = {(f.generation, f.version) for f in self._pending}
        old = {order for order in orders if self.ages.lag(order) > self.max_lag}
        if old:
            fresh = [f for f in self._pending if (f.generation, f.version) not in old]
            size = sum(map(len, fresh))
            self.dropped.stale += self._size - size
            self._pending, self._size = fresh, size
        most = (self.max_lag + 1) * self.steps
        while self.pace == "free" and self._size > most and len(self._pending) > 1:
            oldest = self._pending.pop(0)
            self._size -= len(oldest)
            self.dropped.overflow += len(oldest)
        if not self._pending:
            self._first = None

    def state_dict(self) -> dict[str, Any]:
        """Return the pending fragments and the counters."""
        return {
            "ages": self.ages.state_dict(),
            "dropped": msgspec.structs.asdict(self.dropped),
            "arrived_steps": self.arrived_steps,
            "doubts": self._ineffective,
            "halved": self._halved,
            "waiting": [fragment_state(fragment) for fragment in self._pending],
            "known": [[*key, *order] for key, order in self._known.items()],
            "heard": sorted(self._heard),
        }

    def load_state_dict(self, state_dict: dict[str, Any], /) -> None:
        """Load fragments and counters; the deadline restarts, and earlier grants are given up."""
        self.ages.load_state_dict(state_dict["ages"])
        self.dropped = Dropped(**state_dict["dropped"])
        self.arrived_steps = int(state_dict["arrived_steps"])
        self._ineffective, self._halved = int(state_dict["doubts"]), int(state_dict["halved"])
        self.max_lag = max(min(1, self.max_lag), self.max_lag >> self._halved)
        self._pending = [Fragment(**fragment) for fragment in state_dict["waiting"]]
        self._size = sum(map(len, self._pending))
        self._known = {(c, e, i, s): (g, v) for c, e, i, s, g, v in state_dict["known"]}
        self._heard = set(state_dict["heard"])
        self._in_flight.clear()
        self._first = self._clock() if self._pending else None
        self._latest = self._clock() if self._heard else None
