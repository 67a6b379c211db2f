"""How much learning is owed for the experience that came, and how far clients may run ahead."""

import math
from typing import Any, Literal

PHASE_STEPS = 64  # env steps per version, in lockstep
LEAST_UPDATES = 16  # a quota is worth so many updates at least, or a fleet could wait for ever
LEAST_SHARE = 1 / 8  # of the slack: a quota, while the learner may soon owe nothing
ROUNDING = 1e-9


class Pace:
    """The account between env steps and updates: ``ratio`` updates are owed per step.

    The first ``starts`` steps owe nothing. If clients stop, so does learning. If clients outrun
    the learner, it depends on the kind:

    - ``hold``: they may be ``slack`` steps ahead; nothing that is owed is ever dropped. What they
      were granted and has not come yet counts, too.
    - ``free``: nobody waits; what is owed beyond ``slack`` steps is dropped.
    - ``lockstep``: collecting and learning take turns, so one client's run repeats itself exactly.
    """

    def __init__(
        self, kind: Literal["hold", "free", "lockstep"], *, ratio: float, starts: int, slack: int
    ) -> None:
        self.kind, self.ratio, self.starts = kind, ratio, starts
        self.slack = max(slack, math.ceil(LEAST_UPDATES / ratio))
        self._phase = max(PHASE_STEPS, math.ceil(1.0 / ratio))
        self.steps = 0
        self.updates = 0
        self._dropped = 0.0  # updates owed once, and dropped
        self._turn = starts + self._phase  # in lockstep: collect until so many steps

    @property
    def debt(self) -> float:
        """Updates owed now. Computed from totals, so it does not matter how steps were grouped."""
        return self.ratio * max(0, self.steps - self.starts) - self.updates - self._dropped

    @property
    def warming_up(self) -> bool:
        """Whether the first steps, of random actions, are still being collected."""
        return self.steps < self.starts

    @property
    def due(self) -> bool:
        """Whether an update should be done now."""
        collecting = self.kind == "lockstep" and self.steps < self._turn
        return not collecting and self.debt >= 1.0 - ROUNDING

    def quota(self, coming: int = 0) -> int | None:
        """Return the env steps the fleet may take before the next version; ``None``: any number.

        ``coming`` are steps that were granted with older versions and have not come yet. Some of
        them never come: a newer version takes the place of older ones, and clients leave. So there
        is a little for a fleet in any case, while the learner owes less than half of the slack.
        """
        if self.kind == "free":
            return None
        if self.kind == "lockstep":
            return max(0, self._turn - self.steps)
        backlog = math.ceil(max(0.0, self.debt) / self.ratio)
        least = math.ceil(LEAST_SHARE * self.slack) if 2 * backlog < self.slack else 0
        room = max(least, self.slack - backlog - coming)
        return max(0, self.starts - self.steps) + room

    def refill(self) -> None:
        """Let steps owe nothing until an empty replay holds as many as at the first update."""
        again = min(self.steps, self.starts)
        self._dropped += max(0.0, self.debt) + self.ratio * again
        self._turn = max(self._turn, self.steps + again)

    def arrived(self, steps: int) -> None:
        """Owe for so many new env steps."""
        self.steps += steps
        if self.kind == "free":
            self._dropped += max(0.0, self.debt - self.ratio * self.slack)

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
        """Take over another account; what it owes is valued at our own ratio from here on."""
        self.steps = int(state_dict["steps"])
        self.updates = int(state_dict["updates"])
        self._dropped = float(state_dict["dropped"])
        self._turn = int(state_dict["turn"])
