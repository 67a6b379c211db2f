"""Late steps of environments in real time, by the clock."""

LATE = 1.5  # times the usual interval, beyond which a step is late
_SETTLE = 20  # steps until the usual interval is known
_RATE = 0.02  # by which one interval changes the usual one


class LateSteps:
    """Compares the interval between two steps with the usual one.

    An environment that goes on by itself answers a step that came late with what it had seen
    before the delay, without a word. The usual interval is a running median.
    """

    def __init__(self) -> None:
        self._last: float | None = None
        self._usual = 0.0
        self._steps = 0

    def begin(self) -> None:
        """Begin an episode: its first step has no interval."""
        self._last = None

    def is_late(self, now: float) -> bool:
        """Return whether the step that ended now came late.

        Args:
            now: Monotonic seconds.
        """
        last, self._last = self._last, now
        if last is None:
            return False
        interval = now - last
        self._steps += 1
        if self._steps == 1:
            self._usual = interval
        late = self._steps > _SETTLE and interval > LATE * self._usual
        change = 10 * _RATE if self._steps <= _SETTLE else _RATE
        self._usual *= 1.0 + change if interval > self._usual else 1.0 - change
        return late
