"""The faults of an environment, and the pauses before it is tried again.

The watchdog decides and acts on nothing: its owner reports events and carries out its decisions.
"""

import random
from collections import deque
from collections.abc import Callable
from typing import Literal

from msgspec import Struct

from soulsai.client.player_link import printable
from soulsai.client.uplink import Backoff
from soulsai.config.schema import WatchdogSettings as Limits
from soulsai.errors import EnvironmentFault

Kind = Literal["hang", "crash", "slow", "memory", "reset", "planned"]

HEALTHY_STEPS = 100  # after these steps, the next fault counts as the first
RESETS = 3  # failed resets in a row that cause a restart
FIRST_SECONDS, LAST_SECONDS = 0.5, 60.0  # of the back-off


class Fault(Struct, frozen=True):
    """A fault of an environment; ``sound`` if the steps before it are valid."""

    kind: Kind
    text: str
    sound: bool = False

    @property
    def restarts(self) -> bool:
        """Return whether the environment is started again."""
        return self.kind != "reset"


class EnvironmentBroken(EnvironmentFault):
    """The environment cannot be played now; without a fault if the client stops."""

    def __init__(self, message: str, fault: Fault | None = None) -> None:
        super().__init__(message)
        self.fault = fault


class Watchdog:
    """Counts the faults of one environment over all its restarts."""

    def __init__(self, limits: Limits, *, rng: random.Random, clock: Callable[[], float]) -> None:
        self._limits = limits
        self._rng = rng
        self._clock = clock
        self._backoff = Backoff(rng, FIRST_SECONDS, LAST_SECONDS)
        self._in_a_row = 0
        self._resets = 0  # failed, in a row
        self._started = clock()
        self._steps = self._episodes = 0  # since the last start
        self._bytes = 0
        self._recent: deque[float] = deque()  # seconds of each of the last steps
        self._busy = 0.0  # their sum

    def launched(self) -> None:
        """Record a start."""
        self._started = self._clock()
        self._steps = self._episodes = self._resets = self._bytes = 0
        self._recent.clear()
        self._busy = 0.0

    def stepped(self, seconds: float) -> None:
        """Record a step, and the seconds that it took in the environment."""
        self._steps += 1
        if self._steps == HEALTHY_STEPS:
            self._in_a_row = 0
            self._backoff.reset()
        if self._limits.steps_per_minute:
            self._recent.append(seconds)
            self._busy += seconds
            while self._busy - self._recent[0] >= self._limits.slow_seconds:
                self._busy -= self._recent.popleft()

    def began(self) -> None:
        """Record a successful reset."""
        self._episodes += 1
        self._resets = 0

    def measured(self, size: int) -> None:
        """Record the bytes of memory of all its processes."""
        self._bytes = size

    def due(self, *, between: bool) -> Fault | None:
        """Return a reason to restart it before it breaks; some apply only ``between`` episodes."""
        limits = self._limits
        if limits.memory_mb and self._bytes > 1e6 * limits.memory_mb:
            text = f"{self._bytes / 1e6:.0f} MB of memory, over {limits.memory_mb:.0f}"
            return Fault("memory", text, sound=True)
        if limits.steps_per_minute and self._busy >= limits.slow_seconds:
            rate = 60.0 * len(self._recent) / self._busy
            if rate < limits.steps_per_minute:
                text = f"{rate:.0f} steps per minute, under {limits.steps_per_minute:.0f}"
                return Fault("slow", text, sound=True)
        if between and limits.restart_episodes and self._episodes >= limits.restart_episodes:
            return Fault("planned", f"after {self._episodes} episodes", sound=True)
        hours = (self._clock() - self._started) / 3600
        if between and limits.restart_hours and hours >= limits.restart_hours:
            return Fault("planned", f"after {hours:.1f} hours", sound=True)
        return None

    def reset_failed(self, text: str) -> Fault:
        """Return the fault of a failed reset: to be repeated, or a crash after several in a row."""
        self._resets += 1
        if self._resets < RESETS:
            return Fault("reset", text)
        return Fault("crash", f"{self._resets} resets failed: {text}")

    def after(self, fault: Fault) -> tuple[float, str]:
        """Return the seconds to wait after a fault, and a line about it for the server."""
        if fault.kind == "planned":
            return 0.0, f"planned restart {fault.text}"
        self._in_a_row += 1
        line = f"{fault.kind}: {printable(fault.text)}"
        if self._in_a_row < self._limits.most_faults:
            return self._backoff.next(), line
        rest = self._limits.rest_seconds * self._rng.uniform(0.8, 1.2)
        return rest, f"rests {rest:.0f} s after {self._in_a_row} faults in a row; {line}"
