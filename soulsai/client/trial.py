"""Whether an environment is to live in a process of its own, found out while it plays."""

import logging
import statistics
import time
from collections.abc import Callable
from typing import Any, Protocol

from soulsai.client.environment import Environment, Outcome, Rows
from soulsai.client.isolation.environment import Isolated
from soulsai.client.isolation.watchdog import Broken, Fault
from soulsai.errors import EnvironmentFault

log = logging.getLogger(__name__)

TRIAL_STEPS = 32
SLOW_SECONDS = 0.02  # per step; a process of its own costs a hundredth of that


class Playable(Protocol):
    """An environment as the player sees it."""

    @property
    def info(self) -> dict[str, Any]:
        """What was said with the last step."""
        ...

    def ready(self, timeout: float) -> bool:
        """Return whether it can be reset, after waiting and working for that up to ``timeout``."""
        ...

    def reset(self, rows: Rows, seed: int | None = None) -> None:
        """Begin an episode and copy its first observation into ``rows``."""
        ...

    def step(self, action: Any, rows: Rows, /) -> Outcome:
        """Take an action that counts from zero, and copy what is seen into ``rows``."""
        ...

    def check_bounds(self, rows: Rows) -> None:
        """Warn, once per leaf, if any of many rows are beyond the bounds of their space."""
        ...

    def close(self) -> None:
        """Let go of the environment."""
        ...


class OnTrial:
    """An environment in our own process, until its first steps show that it is slow.

    Then it is closed, and goes on in a process of its own.
    """

    def __init__(
        self,
        inner: Environment,
        isolated: Isolated,
        clock: Callable[[], float] = time.perf_counter,
    ) -> None:
        self.name = inner.name
        self.step: Callable[[Any, Rows], Outcome] = self._timed
        self._inner: Environment | Isolated = inner
        self._isolated = isolated
        self._clock = clock
        self._seconds: list[float] = []

    def __repr__(self) -> str:
        return f"OnTrial({self._inner!r})"

    @property
    def info(self) -> dict[str, Any]:
        """What was said with the last step."""
        return self._inner.info

    def ready(self, timeout: float) -> bool:
        """Return whether it can be reset."""
        return self._inner.ready(timeout)

    def reset(self, rows: Rows, seed: int | None = None) -> None:
        """Begin an episode."""
        self._inner.reset(rows, seed)

    def check_bounds(self, rows: Rows) -> None:
        """Warn of what is beyond the bounds."""
        self._inner.check_bounds(rows)

    def close(self) -> None:
        """Let go of it."""
        self._inner.close()

    def _timed(self, action: Any, rows: Rows) -> Outcome:
        if len(self._seconds) == TRIAL_STEPS:
            self._judge()
        began = self._clock()
        outcome = self._inner.step(action, rows)
        self._seconds.append(self._clock() - began)
        return outcome

    def _judge(self) -> None:
        median = statistics.median(self._seconds)
        self.step = self._inner.step
        if median < SLOW_SECONDS:
            return
        text = f"{1000 * median:.0f} ms per step: goes on in a process of its own"
        log.info("env=%s %s", self.name, text)
        try:
            self._inner.close()
        except EnvironmentFault as fault:
            log.warning("close: %s", fault)
        self._inner = self._isolated
        self.step = self._isolated.step
        raise Broken(text, Fault("planned", text, sound=True))
