"""A person takes over an environment for some steps, by keyboard or gamepad."""

import logging
import time
from collections.abc import Callable
from typing import Any

import numpy as np

from soulsai.client.environment import AdaptedEnvironment, PlayableEnvironment, StepResult
from soulsai.client.episode_videos import RENDER
from soulsai.client.human_input import HumanInput
from soulsai.client.spaces import Rows
from soulsai.errors import EnvironmentFault
from soulsai.types import ActionSpec, Array

PICTURE_SECONDS = 1 / 30  # from one picture to the next, at least
SHARE = 0.05  # of the time, at most, that pictures take while the policy plays
PACE_SECONDS = 1.0  # after a person's last action, in which steps keep the environment's own pace

log = logging.getLogger(__name__)


def argument_of(action: ActionSpec, row: Array) -> Any:
    """Return the argument of ``AdaptedEnvironment.step`` for the row of an action.

    Args:
        action: The actions.
        row: Choices that count from zero, then numbers in units of the environment.
    """
    flat = np.asarray(row).reshape(-1)
    if action.kind == "discrete":
        return int(flat[0])
    if action.kind == "multidiscrete":
        return flat.astype(np.int64)
    return flat.astype(np.float32).reshape(action.shape)


class TakenOverEnvironment:
    """An environment that a person may steer and sees; without input, the policy's actions pass.

    While the person plays, steps are not faster than the environment's ``render_fps``.

    Args:
        environment: The environment.
        action: Its actions.
        source: The keyboard or gamepad, and the window.
        drawn: Returns what draws the pictures at present; ``None`` if nothing does.
        paced: Whether the environment keeps a pace of its own.
        clock: Monotonic seconds.
        sleep: How to sleep.
    """

    def __init__(
        self,
        environment: PlayableEnvironment,
        action: ActionSpec,
        source: HumanInput,
        drawn: Callable[[], AdaptedEnvironment | None],
        *,
        paced: bool = False,
        clock: Callable[[], float] = time.monotonic,
        sleep: Callable[[float], None] = time.sleep,
    ) -> None:
        self.name = environment.name
        self._environment, self._action, self._source = environment, action, source
        self._drawn, self._paced = drawn, paced
        self._clock, self._sleep = clock, sleep
        self._show_at = -np.inf  # the next picture
        self._person_until = -np.inf  # the end of the person's pace
        self._step_at = -np.inf  # the next step at this pace
        self._shown_person = False

    def __repr__(self) -> str:
        return f"TakenOverEnvironment({self.name})"

    @property
    def info(self) -> dict[str, Any]:
        """The info of the last step."""
        return self._environment.info

    def ready(self, timeout: float) -> bool:
        """Return whether it can be reset; see ``PlayableEnvironment.ready``."""
        return self._environment.ready(timeout)

    def begin_stage(self, begun: int) -> None:
        """Take the arguments of a stage; see ``PlayableEnvironment.begin_stage``."""
        self._environment.begin_stage(begun)

    def reset(self, rows: Rows, seed: int | None = None) -> None:
        """Begin an episode; see ``PlayableEnvironment.reset``."""
        self._environment.reset(rows, seed)
        self._show(person=self._shown_person)

    def step(self, action: Any, rows: Rows) -> StepResult:
        """Take the person's action, if there is one, else the policy's."""
        self._keep_pace()
        row = self._source.poll()
        if row is None:
            result = self._environment.step(action, rows)
        else:
            self._person_until = self._clock() + PACE_SECONDS
            result = self._environment.step(argument_of(self._action, row), rows)
            if result.intervention is None:
                result = result._replace(intervention=row)
        self._show(person=row is not None)
        return result

    def _keep_pace(self) -> None:
        """Wait until the next step is due, if a person plays."""
        now, drawn = self._clock(), self._drawn()
        if self._paced or now >= self._person_until:
            return
        if drawn is None or drawn.render_mode != RENDER:  # it has the pace of its own window
            return
        if (pause := self._step_at - now) > 0:
            self._sleep(pause)
        self._step_at = max(self._step_at, now) + 1 / drawn.render_fps

    def _show(self, *, person: bool) -> None:
        """Draw the present picture, if one is due."""
        began = self._clock()
        drawn = self._drawn()
        if drawn is not None and drawn.render_mode == "human":  # its window is that of pygame
            return
        if began < self._show_at and person == self._shown_person:
            return
        self._shown_person = person
        self._source.show(self._picture(), person=person)
        taken = self._clock() - began
        rest = 0.0 if began < self._person_until else taken / SHARE
        self._show_at = began + max(PICTURE_SECONDS, rest)

    def _picture(self) -> Array | None:
        if (drawn := self._drawn()) is None or drawn.render_mode != RENDER:
            return None
        try:
            frame = np.asarray(drawn.render())
            if frame.ndim == 3 and frame.shape[2] == 3 and frame.dtype == np.uint8:
                return frame
            reason = f"render gives {frame.dtype} {frame.shape}, not bytes [height, width, 3]"
        except EnvironmentFault as fault:
            reason = str(fault)
        log.warning("take-over: no picture any more, the play goes on: %s", reason)
        self._drawn = lambda: None
        return None

    def check_bounds(self, rows: Rows) -> None:
        """Warn of values outside the bounds; see ``AdaptedEnvironment.check_bounds``."""
        self._environment.check_bounds(rows)

    def close(self) -> None:
        """Close the environment and the window."""
        try:
            self._environment.close()
        finally:
            self._source.close()
