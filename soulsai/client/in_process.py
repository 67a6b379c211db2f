"""Environments in the client's own process, which are made again after a fault."""

import logging
import random
import time
from collections.abc import Callable
from typing import Any, Generic, NoReturn, Protocol, TypeVar

import msgspec

from soulsai.client.environment import AdaptedEnvironment, Recordable, StepResult
from soulsai.client.isolation.watchdog import (
    HEALTHY_STEPS,
    RESETS,
    EnvironmentBroken,
    Fault,
    Watchdog,
)
from soulsai.client.probe import SingleEnvironment
from soulsai.client.spaces import Rows
from soulsai.client.vector_environment import AdaptedVector, VectorStep
from soulsai.config.schema import WatchdogSettings
from soulsai.errors import EnvironmentFault
from soulsai.types import Array

log = logging.getLogger(__name__)


class Closable(Protocol):
    """The part of an environment that every way of playing it needs."""

    name: str

    def close(self) -> None:
        """Close the environment."""
        ...


Made = TypeVar("Made", bound=Closable)


class InProcessEnvironment:
    """Plays like an ``AdaptedEnvironment``; a fault is raised as ``EnvironmentBroken``.

    After that, ``ready`` makes the environment again. An environment that has never taken
    ``HEALTHY_STEPS`` steps in a row has a mistake: its third fault is raised as it is.
    """

    def __init__(
        self,
        make: Callable[[int], SingleEnvironment],
        limits: WatchdogSettings,
        *,
        rng: random.Random,
        clock: Callable[[], float] = time.monotonic,
        sleep: Callable[[float], None] = time.sleep,
    ) -> None:
        """Make the environment for the first time.

        Args:
            make: Makes it for a stage of the schedule, or raises ``EnvironmentFault``.
            limits: The pauses after faults.
            rng: Of these pauses.
            clock: Monotonic seconds.
            sleep: How to sleep.
        """
        self._make = make
        self._remade = _Remade(lambda: make(0), limits, rng, clock, sleep)
        self.name = self._remade.name
        self.info: dict[str, Any] = {}

    def __repr__(self) -> str:
        return f"InProcessEnvironment({self.name})"

    @property
    def adapted(self) -> AdaptedEnvironment | None:
        """The environment, while it is there and no first one of a vector."""
        made = self._remade.made
        return made if isinstance(made, AdaptedEnvironment) else None

    def ready(self, timeout: float) -> bool:
        """Return whether it can be reset, after at most ``timeout`` seconds of waiting."""
        return self._remade.ready(timeout)

    def begin_stage(self, begun: int) -> None:
        """Close it, so that ``ready`` makes it with the arguments of a stage."""
        self._remade.replace(lambda: self._make(begun))

    def reset(self, rows: Rows, seed: int | None = None) -> None:
        """Begin an episode; see ``AdaptedEnvironment.reset``."""
        environment = self._remade.playing()
        try:
            environment.reset(rows, seed)
        except EnvironmentFault as error:
            self._remade.reset_failed(error)
        self._remade.began()

    def step(self, action: Any, rows: Rows) -> StepResult:
        """Take a step; see ``AdaptedEnvironment.step``."""
        environment = self._remade.playing()
        try:
            result = environment.step(action, rows)
        except EnvironmentFault as error:
            self._remade.step_failed(error)
        self.info = environment.info
        self._remade.stepped()
        return result

    def record(self, version: tuple[int, int]) -> None:
        """Record the episode that has just begun; see ``Recordable``."""
        made = self._remade.made
        if isinstance(made, Recordable):
            made.record(version)

    def check_bounds(self, rows: Rows) -> None:
        """Warn of values outside the bounds; see ``AdaptedEnvironment.check_bounds``."""
        if self._remade.made is not None:
            self._remade.made.check_bounds(rows)

    def close(self) -> None:
        """Close the environment."""
        self._remade.close()


class InProcessVector:
    """Plays like an ``AdaptedVector``, and is made again after a fault, which ends all episodes."""

    def __init__(
        self,
        make: Callable[[], AdaptedVector],
        limits: WatchdogSettings,
        *,
        rng: random.Random,
        clock: Callable[[], float] = time.monotonic,
        sleep: Callable[[float], None] = time.sleep,
    ) -> None:
        """Make the environment for the first time; see ``InProcessEnvironment``."""
        self._remade = _Remade(make, limits, rng, clock, sleep)
        self.name = self._remade.name
        self.count = self._remade.playing().count

    def __repr__(self) -> str:
        return f"InProcessVector({self.name}, {self.count})"

    def ready(self, timeout: float) -> bool:
        """Return whether it can be reset, after at most ``timeout`` seconds of waiting."""
        return self._remade.ready(timeout)

    def reset(self, rows: Rows, seed: int | None = None) -> None:
        """Begin an episode in each environment; see ``AdaptedVector.reset``."""
        vector = self._remade.playing()
        try:
            vector.reset(rows, seed)
        except EnvironmentFault as error:
            self._remade.reset_failed(error)
        self._remade.began()

    def step(self, actions: Array, rows: Rows) -> VectorStep:
        """Take a step in each environment; see ``AdaptedVector.step``."""
        vector = self._remade.playing()
        try:
            result = vector.step(actions, rows)
        except EnvironmentFault as error:
            self._remade.step_failed(error)
        self._remade.stepped()
        return result

    def begin(self, rows: Rows) -> Array:
        """Write first observations; see ``AdaptedVector.begin``."""
        return self._remade.playing().begin(rows)

    def info_of(self, index: int) -> dict[str, Any]:
        """Return the info of one environment's last step."""
        return self._remade.playing().info_of(index)

    def check_bounds(self, rows: Rows) -> None:
        """Warn of values outside the bounds; see ``AdaptedVector.check_bounds``."""
        if self._remade.made is not None:
            self._remade.made.check_bounds(rows)

    def close(self) -> None:
        """Close the environment."""
        self._remade.close()


class _Remade(Generic[Made]):
    """An environment and its faults, after which it is made again."""

    def __init__(
        self,
        make: Callable[[], Made],
        limits: WatchdogSettings,
        rng: random.Random,
        clock: Callable[[], float],
        sleep: Callable[[float], None],
    ) -> None:
        self._make = make
        self._clock = clock
        self._sleep = sleep
        self._watchdog = Watchdog(limits, rng=rng, clock=clock)
        made = make()
        self.made: Made | None = made
        self.name = made.name
        self._steps = 0  # since the last fault
        self._healthy = False  # HEALTHY_STEPS have been reached
        self._faults = 0  # before that
        self._not_before = 0.0

    def ready(self, timeout: float) -> bool:
        """Return whether it can be reset, after at most ``timeout`` seconds of waiting."""
        if (pause := self._not_before - self._clock()) > 0:
            self._sleep(min(timeout, pause))
        if self._clock() < self._not_before:
            return False
        if self.made is None:
            try:
                self.made = self._make()
            except EnvironmentFault as error:
                self._fail(Fault("crash", str(error)), error)
            self._watchdog.launched()
        return True

    def replace(self, make: Callable[[], Made]) -> None:
        """Close the environment; ``ready`` makes another one."""
        self._make = make
        try:
            self.close()
        except EnvironmentFault as closing:
            log.warning("close: %s", closing)

    def playing(self) -> Made:
        """Return the environment."""
        if self.made is None:
            raise EnvironmentFault(f"{self.name}: is closed")
        return self.made

    def began(self) -> None:
        """Record a successful reset."""
        self._watchdog.began()

    def stepped(self) -> None:
        """Record a step."""
        self._steps += 1
        if self._steps == HEALTHY_STEPS:
            self._healthy = True
        self._watchdog.stepped(0.0)

    def reset_failed(self, error: EnvironmentFault) -> NoReturn:
        """Raise the fault of a reset."""
        self._fail(self._watchdog.reset_failed(str(error)), error)

    def step_failed(self, error: EnvironmentFault) -> NoReturn:
        """Raise the fault of a step."""
        self._fail(Fault("crash", str(error)), error)

    def close(self) -> None:
        """Close the environment."""
        made, self.made = self.made, None
        if made is not None:
            made.close()

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
