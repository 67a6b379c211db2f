"""An environment in the client's own process, which is made again after a fault."""

import logging
import random
import time
from collections.abc import Callable
from typing import Any, NoReturn

import msgspec

from soulsai.client.environment import AdaptedEnvironment, Rows, StepResult
from soulsai.client.isolation.watchdog import (
    HEALTHY_STEPS,
    RESETS,
    EnvironmentBroken,
    Fault,
    Watchdog,
)
from soulsai.config.schema import WatchdogSettings
from soulsai.errors import EnvironmentFault

log = logging.getLogger(__name__)


class InProcessEnvironment:
    """Plays like an ``AdaptedEnvironment``; a fault is raised as ``EnvironmentBroken``.

    After that, ``ready`` makes the environment again. An environment that has never taken
    ``HEALTHY_STEPS`` steps in a row has a mistake: its third fault is raised as it is.
    """

    def __init__(
        self,
        make: Callable[[], AdaptedEnvironment],
        limits: WatchdogSettings,
        *,
        rng: random.Random,
        clock: Callable[[], float] = time.monotonic,
        sleep: Callable[[float], None] = time.sleep,
    ) -> None:
        """Make the environment for the first time.

        Args:
            make: Makes it, or raises ``EnvironmentFault``.
            limits: The pauses after faults.
            rng: Of these pauses.
            clock: Monotonic seconds.
            sleep: How to sleep.
        """
        self._make = make
        self._clock = clock
        self._sleep = sleep
        self._watchdog = Watchdog(limits, rng=rng, clock=clock)
        self._environment: AdaptedEnvironment | None = make()
        self.name = self._environment.name
        self.info: dict[str, Any] = {}
        self._steps = 0  # since the last fault
        self._healthy = False  # HEALTHY_STEPS have been reached
        self._faults = 0  # before that
        self._not_before = 0.0

    def __repr__(self) -> str:
        return f"InProcessEnvironment({self.name})"

    def ready(self, timeout: float) -> bool:
        """Return whether it can be reset, after at most ``timeout`` seconds of waiting."""
        if (pause := self._not_before - self._clock()) > 0:
            self._sleep(min(timeout, pause))
        if self._clock() < self._not_before:
            return False
        if self._environment is None:
            try:
                self._environment = self._make()
            except EnvironmentFault as error:
                self._fail(Fault("crash", str(error)), error)
            self._watchdog.launched()
        return True

    def reset(self, rows: Rows, seed: int | None = None) -> None:
        """Begin an episode; see ``AdaptedEnvironment.reset``."""
        environment = self._playing()
        try:
            environment.reset(rows, seed)
        except EnvironmentFault as error:
            self._fail(self._watchdog.reset_failed(str(error)), error)
        self._watchdog.began()

    def step(self, action: Any, rows: Rows) -> StepResult:
        """Take a step; see ``AdaptedEnvironment.step``."""
        environment = self._playing()
        try:
            result = environment.step(action, rows)
        except EnvironmentFault as error:
            self._fail(Fault("crash", str(error)), error)
        self.info = environment.info
        self._steps += 1
        if self._steps == HEALTHY_STEPS:
            self._healthy = True
        self._watchdog.stepped(0.0)
        return result

    def check_bounds(self, rows: Rows) -> None:
        """Warn of values outside the bounds; see ``AdaptedEnvironment.check_bounds``."""
        if self._environment is not None:
            self._environment.check_bounds(rows)

    def close(self) -> None:
        """Close the environment."""
        environment, self._environment = self._environment, None
        if environment is not None:
            environment.close()

    def _playing(self) -> AdaptedEnvironment:
        if self._environment is None:
            raise EnvironmentFault(f"{self.name}: is closed")
        return self._environment

    def _fail(self, fault: Fault, error: EnvironmentFault) -> NoReturn:
        self._steps = 0
        self._faults += not self._healthy
        if self._faults >= RESETS and not self._healthy:
            raise error
        if fault.restarts:
            try:
                self.close()
            except EnvironmentFault as closing:
                log.warning("close: %s", closing)
        seconds, text = self._watchdog.after(fault)
        self._not_before = self._clock() + seconds
        log.warning("env=%s %s: %s", self.name, fault.kind, fault.text)
        raise EnvironmentBroken(fault.text, msgspec.structs.replace(fault, text=text)) from error
