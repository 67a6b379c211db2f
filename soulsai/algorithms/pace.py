"""The account of the steps that the learner and the fleet of clients may take next.

As in Reverb (arXiv:2102.04736), two numbers tie learning to experience. ``samples_per_insert`` is
the number of updates per env step, and ``error_buffer`` the number of env steps by which the fleet
may be ahead. Of the env steps that came (inserts) and the updates that were done (samples) follow

    owed      = samples_per_insert * (inserts - learning_starts) - samples
    update    if owed >= 1
    quota     = error_buffer - owed / samples_per_insert - in_flight

The quota is the number of env steps that the next version of the weights grants to the whole
fleet; steps in flight were granted with earlier versions and have not arrived. An on-policy
learner uses each step once: its ``samples_per_insert`` is 1, its ``error_buffer`` two batches, and
the steps that wait are owed. The publisher divides the quota among the clients by ``divide``.
"""

import math
from collections.abc import Sequence
from typing import Any, Literal

from soulsai.types import Fragment

PHASE_STEPS = 64  # env steps per version, in lockstep
LEAST_UPDATES = 16  # the error buffer is worth so many updates at least, or a fleet could deadlock
LEAST_SHARE = 1 / 8  # of the error buffer: the quota while the learner may soon owe nothing
ROUNDING = 1e-9
SPENT = 0.75  # share of a grant that counts as all of it: the rest may be in flight

Order = tuple[int, int]  # generation and number of a version


def allowed(error_buffer: int, owed: int, in_flight: int, *, least: int = 0) -> int:
    """Return the env steps that may be granted to the fleet.

    Args:
        error_buffer: Env steps by which the fleet may be ahead of the learner.
        owed: Env steps that have arrived and are not learnt from yet.
        in_flight: Env steps that were granted and have not arrived.
        least: Env steps that are granted in any case.
    """
    return max(least, error_buffer - owed - in_flight)


class Pace:
    """Balances updates against env steps, for learners that replay experience.

    The first ``learning_starts`` steps owe nothing. Without clients there is no learning. With
    clients that are faster than the learner, the kind decides:

    - ``hold``: they may be ``error_buffer`` steps ahead, steps in flight included. No update that
      is owed is ever dropped.
    - ``free``: they never wait. Updates owed for more than ``error_buffer`` steps are dropped.
    - ``lockstep``: collecting and learning take turns, so that the run of one client is
      reproducible.

    Args:
        kind: One of these three.
        samples_per_insert: Updates per env step.
        error_buffer: Env steps by which clients may be ahead.
        learning_starts: Env steps before the first update.
    """

    def __init__(
        self,
        kind: Literal["hold", "free", "lockstep"],
        *,
        samples_per_insert: float,
        error_buffer: int,
        learning_starts: int,
    ) -> None:
        self.kind, self.samples_per_insert = kind, samples_per_insert
        self.learning_starts = learning_starts
        self.error_buffer = max(error_buffer, math.ceil(LEAST_UPDATES / samples_per_insert))
        self._phase = max(PHASE_STEPS, math.ceil(1.0 / samples_per_insert))
        self.steps = 0
        self.updates = 0
        self._dropped = 0.0  # updates that were owed and dropped
        self._turn = learning_starts + self._phase  # in lockstep: collect up to this many steps

    @property
    def owed(self) -> float:
        """Updates owed now; computed from totals, so the grouping of arrivals does not matter."""
        inserts = max(0, self.steps - self.learning_starts)
        return self.samples_per_insert * inserts - self.updates - self._dropped

    @property
    def warming_up(self) -> bool:
        """Whether the first steps, of random actions, are still being collected."""
        return self.steps < self.learning_starts

    @property
    def due(self) -> bool:
        """Whether an update should be done now."""
        collecting = self.kind == "lockstep" and self.steps < self._turn
        return not collecting and self.owed >= 1.0 - ROUNDING

    @property
    def whole_updates(self) -> int:
        """The whole updates that are owed."""
        return math.floor(self.owed + ROUNDING)

    def quota(self, in_flight: int = 0) -> int | None:
        """Return the env steps to grant with the next version, or ``None`` for any number.

        Some steps in flight never arrive: a newer version replaces older ones, and clients leave.
        So while the learner owes less than half of the error buffer, a part is granted anyway.

        Args:
            in_flight: Env steps granted with earlier versions that have not arrived.
        """
        if self.kind == "free":
            return None
        if self.kind == "lockstep":
            return max(0, self._turn - self.steps)
        owed = math.ceil(max(0.0, self.owed) / self.samples_per_insert)
        least = math.ceil(LEAST_SHARE * self.error_buffer) if 2 * owed < self.error_buffer else 0
        first = max(0, self.learning_starts - self.steps)
        return first + allowed(self.error_buffer, owed, in_flight, least=least)

    def refill(self) -> None:
        """Let steps owe nothing until an empty replay holds as many as at the first update."""
        again = min(self.steps, self.learning_starts)
        self._dropped += max(0.0, self.owed) + self.samples_per_insert * again
        self._turn = max(self._turn, self.steps + again)

    def arrived(self, steps: int) -> None:
        """Count new env steps."""
        self.steps += steps
        if self.kind == "free":
            most = self.samples_per_insert * self.error_buffer
            self._dropped += max(0.0, self.owed - most)

    def updated(self) -> None:
        """Count one update."""
        self.updates += 1
        if self.kind == "lockstep" and not self.due:
            self._turn = self.steps + self._phase

    def state_dict(self) -> dict[str, Any]:
        """Return the account."""
        return {
            "steps": self.steps,
            "updates": self.updates,
            "dropped": self._dropped,
            "turn": self._turn,
        }

    def load_state_dict(self, state_dict: dict[str, Any], /) -> None:
        """Restore an account; the steps it owes for count at our own ratio from here on."""
        self.steps = int(state_dict["steps"])
        self.updates = int(state_dict["updates"])
        self._dropped = float(state_dict["dropped"])
        self._turn = int(state_dict["turn"])


class InFlight:
    """Counts the env steps that were granted to a fleet and have not arrived.

    A version replaces older ones on the clients that receive it. Receipt shows only in the
    fragments they send: after the first fragment of a version, all clients are taken to have it.
    Until then, the steps that older versions granted may still be played.
    """

    def __init__(self) -> None:
        self._newest: Order = (0, 0)
        self._open: dict[Order, int] = {}  # steps that each version granted and that may arrive
        self._current: Order | None = None  # the version that was published in this iteration

    @property
    def steps(self) -> int:
        """Env steps in flight that were granted before this iteration."""
        return sum(steps for order, steps in self._open.items() if order != self._current)

    def published(self, newest: Order, granted: int | None) -> bool:
        """Note the grant of the newest version; return whether the version is new.

        A second version in the same iteration replaces the first.

        Args:
            newest: Generation and number of the version.
            granted: Env steps it grants to the fleet; ``None`` for any number.
        """
        if newest == self._newest:
            return False
        self._newest = newest
        if granted is not None:
            if self._current is not None:
                self._open.pop(self._current, None)
            self._current = newest
            self._open[newest] = granted
        return True

    def arrived(self, fragment: Fragment) -> None:
        """Subtract the steps of a fragment from the grant of its version.

        A greedy episode keeps the version it began with, while its client receives newer grants;
        so its steps count against the oldest open grant.
        """
        order = (fragment.generation, fragment.version)
        if not fragment.greedy:
            self._open = {other: left for other, left in self._open.items() if other >= order}
        elif self._open:
            order = min(self._open)
        if order in self._open:
            self._open[order] = max(0, self._open[order] - len(fragment))

    def at_most(self, steps: int) -> bool:
        """Whether this iteration's version is published and at most ``steps`` may still arrive."""
        return self._current is not None and sum(self._open.values()) <= steps

    def updated(self) -> None:
        """Begin the next iteration."""
        self._current = None

    def clear(self) -> None:
        """Expect no more steps of earlier grants."""
        self._open, self._current = {}, None


def divide(quota: int | None, taken: Sequence[int], granted: int | None) -> int | None:
    """Return the env steps that each client may take, so that together they use up the quota.

    A client that spent its last grant can use any number; another one, up to twice its steps. So
    a fast client never waits for steps that slow ones leave. Each client gets at least one step of
    a quota above zero.

    Args:
        quota: Env steps for the whole fleet; ``None`` for any number.
        taken: Env steps of each client since the version before.
        granted: Env steps that version granted to each client.
    """
    if quota is None or quota == 0:
        return quota
    wants = sorted(
        math.inf if granted is None or steps >= SPENT * granted else 2.0 * steps for steps in taken
    )
    left = quota
    for served, want in enumerate(wants):
        level = left // (len(wants) - served)
        if want >= level:
            return max(1, level)
        left -= int(want)
    return max(1, int(wants[-1]) + left // len(wants))
