"""A person takes over an environment for some steps, by keyboard or gamepad."""

from typing import Any

import numpy as np

from soulsai.client.environment import PlayableEnvironment, StepResult
from soulsai.client.human_input import HumanInput
from soulsai.client.spaces import Rows
from soulsai.types import ActionSpec, Array


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
    """An environment that a person may steer; without input, the policy's actions pass.

    Args:
        environment: The environment.
        action: Its actions.
        source: The keyboard or gamepad.
    """

    def __init__(
        self, environment: PlayableEnvironment, action: ActionSpec, source: HumanInput
    ) -> None:
        self.name = environment.name
        self._environment, self._action, self._source = environment, action, source

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

    def step(self, action: Any, rows: Rows) -> StepResult:
        """Take the person's action, if there is one, else the policy's."""
        row = self._source.poll()
        if row is None:
            return self._environment.step(action, rows)
        result = self._environment.step(argument_of(self._action, row), rows)
        return result if result.intervention is not None else result._replace(intervention=row)

    def check_bounds(self, rows: Rows) -> None:
        """Warn of values outside the bounds; see ``AdaptedEnvironment.check_bounds``."""
        self._environment.check_bounds(rows)

    def close(self) -> None:
        """Close the environment and the window."""
        try:
            self._environment.close()
        finally:
            self._source.close()
