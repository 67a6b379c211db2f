"""Which experience an on-policy learner learns from next, whoever sent it, and when it begins."""

from collections.abc import Callable, Sequence
from typing import Any, Literal

import msgspec
from msgspec import Struct

from soulsai.algorithms.pace import InFlight, Order, allowed
from soulsai.types import Fragment, Metrics

ENOUGH = 0.6  # of a batch: after the deadline we go on with so much (DD-PPO, arXiv:1911.00357)
AHEAD = 2  # batches that clients may have taken and we not yet learnt from, if they are held
FORGOTTEN = 2**31  # iterations: what is said to be the age of whatever is too old to remember
DOUBTFUL = 0.5  # of a batch's steps count, if its importance weights differ too much
DOUBTS = 5  # doubtful batches in a row after which experience must be younger
QUIET = 3  # deadlines after which those who take nothing more are thought to wait for us

Key = tuple[str, int, int, int]  # client, epoch, episode, start
Pace = Literal["free", "hold", "synchronous"]


class Ages:
    """How many iterations old each version is: as many as have been done since it came out.

    The number of versions per iteration is not known: a version may be published twice. Of those
    that came out before we were there, fragments tell how old they are at least: no version is
    younger than the first fragment that came of it or of any newer one.
    """

    def __init__(self) -> None:
        self.iteration = 0
        self._seen: dict[Order, int] = {}  # the iteration in which each version appeared
        self._old: Order = (-1, -1)  # the newest version that is forgotten for its age

    def see(self, order: Order) -> None:
        """Take note that a version came out, or that somebody has played with it."""
        self._seen.setdefault(order, self.iteration)

    def lag(self, order: Order) -> int:
        """Return how many iterations behind a version is."""
        if order <= self._old:
            return FORGOTTEN
        since = [iteration for other, iteration in self._seen.items() if other >= order]
        return self.iteration - min(since, default=self.iteration)

    def forget(self, max_lag: int) -> None:
        """Forget the versions that are older than that, but not that they are."""
        old = [order for order in self._seen if self.lag(order) > max_lag]
        self._old = max([self._old, *old])
        self._seen = {order: i for order, i in self._seen.items() if order > self._old}

    def state_dict(self) -> dict[str, Any]:
        """Return what is known."""
        seen = [[*order, iteration] for order, iteration in self._seen.items()]
        return {"iteration": self.iteration, "seen": seen, "old": list(self._old)}

    def load_state_dict(self, state_dict: dict[str, Any], /) -> None:
        """Take over what another knows."""
        self.iteration = int(state_dict["iteration"])
        self._seen = {(g, v): iteration for g, v, iteration in state_dict["seen"]}
        generation, version = state_dict["old"]
        self._old = (generation, version)


class Dropped(Struct):
    """Counters of what is not learnt from."""

    stale: int = 0  # env steps under weights that are too old
    overflow: int = 0  # env steps that came faster than they could be learnt from
    greedy: int = 0  # env steps of evaluation episodes: they explore nothing
    duplicates: int = 0  # fragments that came once more


class Batches:
    """Collects fragments until there are ``steps`` env steps, from anyone, to learn from.

    Nobody in particular is waited for. A batch is ready when it is full; or when the deadline, in
    seconds after its first fragment, has passed and most of it is there. Fragments of versions
    older than ``max_lag`` iterations are dropped, and so is whatever comes twice.

    ``pace`` says how far clients may go, all together:

    - ``free``: as far as they like. What waits longer than it may be old is dropped, oldest first.
    - ``hold``: one batch ahead, so that little is older than an iteration. What was granted with
      versions that are still on their way to clients counts, as it will be played before the next;
      once one client has a version, the others are thought to have it, too.
    - ``synchronous``: one batch under each version; then they wait for the new weights.

    Where the importance weights of several batches in a row leave less than half of the steps to
    count, experience is too old for this task: ``max_lag`` is halved, down to 1.

    Clients that wait are never left to wait: when they have taken all that they may, or when
    nothing more has come for several deadlines, we go on with what there is.
    """

    def __init__(
        self,
        *,
        steps: int,
        max_lag: int,
        deadline: float,
        pace: Pace,
        clock: Callable[[], float],
    ) -> None:
        self.steps, self.max_lag, self.deadline, self.pace = steps, max_lag, deadline, pace
        self._clock = clock
        self.ages = Ages()
        self.dropped = Dropped()
        self.arrived_steps = 0  # without duplicates
        self._waiting: list[Fragment] = []
        self._size = 0  # steps waiting
        self._known: dict[Key, Order] = {}  # what came once and is not too old to come again
        self._first: float | None = None  # when the first that waits came
        self._latest: float | None = None  # when anything came last, in this iteration
        self._in_flight = InFlight()
        self._heard: set[str] = set()  # clients, in this iteration
        self._doubts = 0  # doubtful batches in a row
        self._halved = 0  # how often

    def __len__(self) -> int:
        """Return the number of env steps that wait."""
        return self._size

    @property
    def quota(self) -> int | None:
        """Env steps the fleet may take before the next version; ``None``: as many as it likes.

        Another version in the same iteration takes the place of the one before it.
        """
        if self.pace == "free":
            return None
        if self.pace == "synchronous":
            return allowed(self.steps, self._size, 0)
        return allowed(AHEAD * self.steps, self._size, self._in_flight.steps)

    def published(self, newest: Order, granted: int | None) -> None:
        """Take note of the newest version, if it is another, and of what it granted the fleet."""
        if self._in_flight.published(newest, granted):
            self.ages.see(newest)

    @property
    def ready(self) -> bool:
        """Whether a batch should be taken now."""
        if self._size >= self.steps:
            return True
        now = self._clock()
        due = self._first is not None and now - self._first >= self.deadline
        if due and self._size >= ENOUGH * self.steps:
            return True
        if self.pace == "free" or self._latest is None:
            return False
        rest = max(0, len(self._heard) - 1)  # what is lost when the quota is divided among them
        return self._in_flight.at_most(rest) or now - self._latest >= QUIET * self.deadline

    def arrived(self, fragments: Sequence[Fragment]) -> None:
        """Take in what came."""
        for fragment in fragments:
            self._latest = self._clock()
            key = (fragment.client, fragment.epoch, fragment.episode, fragment.start)
            order = (fragment.generation, fragment.version)
            if key in self._known:
                self.dropped.duplicates += 1
                continue
            self.ages.see(order)
            self.arrived_steps += len(fragment)
            self._known[key] = order
            self._heard.add(fragment.client)
            self._in_flight.arrived(fragment)
            if fragment.greedy:
                self.dropped.greedy += len(fragment)
            else:
                self._wait(fragment)
        if fragments:
            self._drop()

    def take(self) -> tuple[list[Fragment], list[int]]:
        """Return the next batch, possibly empty, and how old the version of each fragment is."""
        if self._size < ENOUGH * self.steps:  # nothing more was to come
            self._in_flight.clear()
        taken, size = 0, 0
        while taken < len(self._waiting) and (size < self.steps or self.pace == "synchronous"):
            size += len(self._waiting[taken])
            taken += 1
        batch = self._waiting[:taken]
        self._waiting = self._waiting[taken:]
        self._size -= size
        self._first = self._clock() if self._waiting else None
        return batch, [self.ages.lag((f.generation, f.version)) for f in batch]

    def forget(self, client: str) -> int:
        """Drop what waits of one client; return how many env steps they were."""
        before = self._size
        self._waiting = [fragment for fragment in self._waiting if fragment.client != client]
        self._size = sum(map(len, self._waiting))
        self._first = self._first if self._waiting else None
        return before - self._size

    def judge(self, effective: float) -> bool:
        """Halve ``max_lag`` if batch after batch was too old; say whether that was done now.

        ``effective`` is which fraction of a batch counts: its effective sample size over its size.
        """
        self._doubts = self._doubts + 1 if effective < DOUBTFUL else 0
        if self._doubts < DOUBTS or self.max_lag <= 1:
            return False
        self._doubts, self._halved, self.max_lag = 0, self._halved + 1, self.max_lag // 2
        return True

    def updated(self) -> None:
        """Begin the next iteration: there is a new version, and clients may go on."""
        self.ages.iteration += 1
        self._drop()
        self._known = {k: o for k, o in self._known.items() if self.ages.lag(o) <= self.max_lag}
        self.ages.forget(self.max_lag)
        self._heard.clear()
        self._in_flight.updated()
        # If nothing can be granted, what was granted must come, or be given up some time
        self._latest = self._clock() if self.quota == 0 else None

    @property
    def metrics(self) -> Metrics:
        """Return the counters, and how old experience may be."""
        dropped = msgspec.structs.asdict(self.dropped)
        counters = {f"dropped_{name}": float(n) for name, n in dropped.items()}
        return counters | {"max_lag": float(self.max_lag)}

    def _wait(self, fragment: Fragment) -> None:
        self._waiting.append(fragment)
        self._size += len(fragment)
        if self._first is None:
            self._first = self._clock()

    def _drop(self) -> None:
        """Drop what is too old, and what would be before its turn comes."""
        orders = {(f.generation, f.version) for f in self._waiting}
        old = {order for order in orders if self.ages.lag(order) > self.max_lag}
        if old:
            fresh = [f for f in self._waiting if (f.generation, f.version) not in old]
            size = sum(map(len, fresh))
            self.dropped.stale += self._size - size
            self._waiting, self._size = fresh, size
        most = (self.max_lag + 1) * self.steps
        while self.pace == "free" and self._size > most and len(self._waiting) > 1:
            oldest = self._waiting.pop(0)
            self._size -= len(oldest)
            self.dropped.overflow += len(oldest)
        if not self._waiting:
            self._first = None

    def state_dict(self) -> dict[str, Any]:
        """Return all that waits, and the counters."""
        return {
            "ages": self.ages.state_dict(),
            "dropped": msgspec.structs.asdict(self.dropped),
            "arrived_steps": self.arrived_steps,
            "doubts": self._doubts,
            "halved": self._halved,
            "waiting": [msgspec.structs.asdict(fragment) for fragment in self._waiting],
            "known": [[*key, *order] for key, order in self._known.items()],
            "heard": sorted(self._heard),
        }

    def load_state_dict(self, state_dict: dict[str, Any], /) -> None:
        """Take over what waits; the deadline counts from now, and nothing is granted any more."""
        self.ages.load_state_dict(state_dict["ages"])
        self.dropped = Dropped(**state_dict["dropped"])
        self.arrived_steps = int(state_dict["arrived_steps"])
        self._doubts, self._halved = int(state_dict["doubts"]), int(state_dict["halved"])
        self.max_lag = max(min(1, self.max_lag), self.max_lag >> self._halved)
        self._waiting = [Fragment(**fragment) for fragment in state_dict["waiting"]]
        self._size = sum(map(len, self._waiting))
        self._known = {(c, e, i, s): (g, v) for c, e, i, s, g, v in state_dict["known"]}
        self._heard = set(state_dict["heard"])
        self._in_flight.clear()
        self._first = self._clock() if self._waiting else None
        self._latest = self._clock() if self._heard else None
