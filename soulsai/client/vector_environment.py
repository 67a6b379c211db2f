"""A package's own environment that plays many episodes at once (``environment.vector``)."""

import logging
from typing import Any, NamedTuple, Protocol

import numpy as np
from gymnasium import Space, spaces
from gymnasium.vector import AutoresetMode, VectorEnv

from soulsai.client.adapted_spaces import AdaptedSpaces
from soulsai.client.creation import RAISED, kind_of
from soulsai.client.environment import (
    LARGEST_REWARD,
    LARGEST_SEED,
    StepResult,
    raised,
    refused_reward,
)
from soulsai.client.spaces import Rows, as_array
from soulsai.errors import EnvironmentFault
from soulsai.types import Array, zeros

log = logging.getLogger(__name__)


class VectorStep(NamedTuple):
    """The result of a step of E environments, besides the observations."""

    reward: Array  # [E]; 0 where no step was taken
    terminated: Array  # [E] of bool
    truncated: Array  # [E] of bool; never where ``terminated``
    taken: Array  # [E] of bool; the others have begun an episode instead


class PlayableVector(Protocol):
    """The interface of a vector environment for the player."""

    name: str
    count: int

    def ready(self, timeout: float) -> bool:
        """Return whether it can be reset, after at most ``timeout`` seconds of waiting."""
        ...

    def reset(self, rows: Rows, seed: int | None = None) -> None:
        """Begin an episode in each environment; write the first observations into ``rows``."""
        ...

    def step(self, actions: Array, rows: Rows, /) -> VectorStep:
        """Take actions [E, ...]; write the observations after the step into ``rows``."""
        ...

    def begin(self, rows: Rows) -> Array:
        """Write the first observations of episodes that have begun; return where [E]."""
        ...

    def info_of(self, index: int) -> dict[str, Any]:
        """Return the info of one environment's last step."""
        ...

    def check_bounds(self, rows: Rows) -> None:
        """Warn, once per leaf, of values in rows [N, ...] outside the bounds of the space."""
        ...

    def close(self) -> None:
        """Close the environment."""
        ...


class AdaptedVector:
    """A vector environment in any autoreset mode; it checks what it returns, and copies it.

    After ``step`` the rows hold the last observations of episodes that ended, and ``begin``
    replaces them by the first ones of the next episodes. With ``AutoresetMode.NEXT_STEP`` these
    come one step later, in a step that the environment does not take.
    """

    def __init__(
        self,
        env: VectorEnv[Any, Any, Any],
        name: str,
        *,
        mask_key: str,
        masked: bool,
        largest_reward: float = LARGEST_REWARD,
        most_steps: int = 0,
    ) -> None:
        """Check the spaces of an environment.

        Args:
            env: The environment.
            name: For messages.
            mask_key: The name of the action mask, in the info or in the observation.
            masked: Whether the info holds a mask.
            largest_reward: The largest reward of a step that is taken, with either sign.
            most_steps: Steps after which the environment truncates an episode; 0: unknown.

        Raises:
            EnvironmentFault: A space is not supported, or it does not say when it resets.
        """
        self.name = name
        self.count = env.num_envs
        self._env = env
        self._mode = _autoreset_mode(env, name)
        self._space = env.single_observation_space
        self._adapted = AdaptedSpaces(
            name,
            self._space,
            env.single_action_space,
            mask_key=mask_key,
            masked=masked,
            batch=(self.count,),
        )
        self._mask_key = mask_key
        self.spec = self._adapted.spec
        self.left_out = self._adapted.left_out
        self.mask_in_obs = self._adapted.mask_in_obs
        self._largest_reward = largest_reward
        self._most_steps = most_steps or _limit(env)
        self._steps = np.zeros(self.count, np.int64)  # of the episodes
        self._ended = np.zeros(self.count, np.bool_)  # in the last step
        self._begun = np.zeros(self.count, np.bool_)
        self._first = {leaf: zeros(each, self.count) for leaf, each in self.spec.obs.items()}
        self._infos: dict[str, Any] = {}
        self._ends_twice = False  # whether an end both terminated and truncated was mentioned

    def __repr__(self) -> str:
        return f"AdaptedVector({self.name}, {self.count}, {self._mode.value})"

    def ready(self, timeout: float) -> bool:
        """Return true: it can always be reset."""
        del timeout
        return True

    def reset(self, rows: Rows, seed: int | None = None) -> None:
        """Begin an episode in each environment; write the first observations into ``rows``."""
        obs, info = self._call_reset(seed=self._first_seed(seed))
        self._ended = np.zeros(self.count, np.bool_)
        self._steps[:] = 0
        self._adapted.read(obs, info, rows)
        self._adapted.check_mask(rows, "reset")

    def step(self, actions: Array, rows: Rows) -> VectorStep:
        """Take a step in each environment.

        Args:
            actions: Actions [E, ...] that count from zero, in units of the environment.
            rows: Where to write the observations; those of episodes that ended are their last.
        """
        obs, *columns, infos = self._call_step(actions)
        reward = self._column(columns[0], "rewards", "fiub").astype(np.float64)
        terminated = self._column(columns[1], "terminated", "b").copy()
        truncated = self._column(columns[2], "truncated", "b").copy()
        taken = ~self._ended if self._mode is AutoresetMode.NEXT_STEP else np.ones_like(self._ended)
        for column in (reward, terminated, truncated):
            column[~taken] = 0
        self._adapted.read(obs, infos, rows)
        self._infos = infos
        self._steps = np.where(taken, self._steps + 1, 0)
        self._one_end(terminated, truncated)
        self._ended = terminated | truncated
        bounded = np.abs(reward) <= self._largest_reward
        if not bounded.all():
            raise refused_reward(self.name, float(reward[~bounded][0]), self._largest_reward)
        self._begun = ~taken
        if self._mode is not AutoresetMode.NEXT_STEP and self._ended.any():
            self._begin_others(infos, rows)
        self._adapted.check_mask(rows, "step", ~self._ended)
        return VectorStep(reward, terminated, truncated, taken)

    def begin(self, rows: Rows) -> Array:
        """Write the first observations of episodes that have begun; return where [E]."""
        if self._mode is not AutoresetMode.NEXT_STEP and self._begun.any():
            for name, first in self._first.items():
                rows[name][self._begun] = first[self._begun]
            self._steps[self._begun] = 0
        return self._begun

    def info_of(self, index: int) -> dict[str, Any]:
        """Return the info of one environment's last step."""
        if self._mode is AutoresetMode.SAME_STEP and self._ended[index]:
            return _final_info(self._infos, index)
        return _info_of(self._infos, index)

    def gives_mask(self, seed: int) -> bool:
        """Reset with a seed, and return whether the info holds an action mask."""
        _, info = self._call_reset(seed=self._first_seed(seed))
        return isinstance(info, dict) and self._mask_key in info

    def check_bounds(self, rows: Rows) -> None:
        """Warn, once per leaf, of values in rows [N, ...] outside the bounds of the space."""
        self._adapted.check_bounds(rows)

    def close(self) -> None:
        """Close the environment; raise ``EnvironmentFault`` if that fails."""
        try:
            self._env.close()
        except RAISED as error:
            raise raised(self.name, "close", error) from error

    def _first_seed(self, seed: int | None) -> int | None:
        """Return a seed that each environment can count on from within an int32."""
        return None if seed is None else min(seed, LARGEST_SEED - self.count + 1)

    def _call_reset(self, **arguments: Any) -> tuple[Any, Any]:
        try:
            returned = self._env.reset(**arguments)
        except RAISED as error:
            raise raised(self.name, "reset", error) from error
        if not isinstance(returned, tuple) or len(returned) != 2:
            raise EnvironmentFault(
                f"{self.name}: reset returns {kind_of(returned)} instead of (observations, infos)"
            )
        return returned

    def _call_step(self, actions: Array) -> tuple[Any, ...]:
        try:
            returned = self._env.step(self._adapted.native(actions))
        except RAISED as error:
            raise raised(self.name, "step", error) from error
        if not isinstance(returned, tuple) or len(returned) != 5:
            raise EnvironmentFault(
                f"{self.name}: step returns {kind_of(returned)} instead of (observations, rewards, "
                "terminated, truncated, infos)"
            )
        return returned

    def _column(self, value: Any, what: str, kinds: str) -> Array:
        """Return the numbers of all environments [E]."""
        try:
            array = as_array(value)
        except ValueError as error:
            raise EnvironmentFault(f"{self.name}: step returns {what}: {error}") from None
        if array.shape != (self.count,) or array.dtype.kind not in kinds:
            raise EnvironmentFault(
                f"{self.name}: step returns {what} as {array.dtype} {array.shape} instead of one "
                f"for each of {self.count} environments"
            )
        return array

    def _one_end(self, terminated: Array, truncated: Array) -> None:
        """Make each end either terminated or truncated; see ``AdaptedEnvironment``."""
        both = terminated & truncated
        if not both.any():
            return
        if self._most_steps:
            timed_out = both & (self._steps >= self._most_steps)
            terminated[timed_out] = False
            both &= ~timed_out
        truncated[both] = False
        if both.any() and not self._ends_twice:
            self._ends_twice = True
            log.warning(
                "env=%s: a step ends an episode as terminated and as truncated, and counts as "
                "terminated; if that is its time limit, set environment.max_episode_steps to it",
                self.name,
            )

    def _begin_others(self, infos: dict[str, Any], rows: Rows) -> None:
        """Keep the first observations of the episodes that follow those that ended."""
        self._begun = self._ended
        if self._mode is AutoresetMode.SAME_STEP:
            self._read_last(infos, rows)
        else:
            reset = self._call_reset(options={"reset_mask": self._ended.copy()})
            self._adapted.read(*reset, self._first)
        self._adapted.check_mask(self._first, "reset", self._ended)

    def _read_last(self, infos: dict[str, Any], rows: Rows) -> None:
        """Keep the first observations in rows, and replace them by the last ones."""
        last = infos.get("final_obs")
        if last is None:
            raise EnvironmentFault(
                f"{self.name}: resets in the step that ends an episode, and infos have no "
                "'final_obs'"
            )
        for name, first in self._first.items():
            first[self._ended] = rows[name][self._ended]
        for index in np.flatnonzero(self._ended).tolist():
            own = {name: leaf[index, ...] for name, leaf in rows.items()}
            info = _final_info(infos, index)
            self._adapted.read_one(_one_of(last, self._space, index), info, own)


class FirstOfVector:
    """The first of the environments of a vector, played as an ``AdaptedEnvironment`` is.

    The others take the same actions, and nobody sees them.
    """

    def __init__(self, vector: AdaptedVector) -> None:
        self.name = vector.name
        self.spec = vector.spec
        self.left_out = vector.left_out
        self.mask_in_obs = vector.mask_in_obs
        self.info: dict[str, Any] = {}
        self.count = vector.count
        self._vector = vector
        self._rows = {name: zeros(leaf, vector.count) for name, leaf in self.spec.obs.items()}

    def __repr__(self) -> str:
        return f"FirstOfVector({self._vector!r})"

    def ready(self, timeout: float) -> bool:
        """Return true: it can always be reset."""
        return self._vector.ready(timeout)

    def reset(self, rows: Rows, seed: int | None = None) -> None:
        """Begin an episode and write its first observation into ``rows``."""
        self._vector.reset(self._rows, seed)
        self._copy(rows)

    def step(self, action: Any, rows: Rows) -> StepResult:
        """Take an action, which counts from zero, and write the observation into ``rows``."""
        actions = np.repeat(np.asarray(action)[None], self.count, axis=0)
        result = self._vector.step(actions, self._rows)
        self.info = self._vector.info_of(0)
        self._copy(rows)
        self._vector.begin(self._rows)
        return StepResult(
            float(result.reward[0]), bool(result.terminated[0]), bool(result.truncated[0])
        )

    def gives_mask(self, seed: int) -> bool:
        """Reset with a seed, and return whether the info holds an action mask."""
        return self._vector.gives_mask(seed)

    def check_bounds(self, rows: Rows) -> None:
        """Warn, once per leaf, of values in rows [N, ...] outside the bounds of the space."""
        self._vector.check_bounds(rows)

    def close(self) -> None:
        """Close the environment; raise ``EnvironmentFault`` if that fails."""
        self._vector.close()

    def _copy(self, rows: Rows) -> None:
        for name, row in rows.items():
            row[...] = self._rows[name][0]


def _autoreset_mode(env: VectorEnv[Any, Any, Any], name: str) -> AutoresetMode:
    value = env.metadata.get("autoreset_mode")
    try:
        return AutoresetMode(value)
    except ValueError:
        raise EnvironmentFault(
            f"{name}: does not say when it resets: metadata['autoreset_mode'] is {value!r} instead "
            "of a gymnasium.vector.AutoresetMode"
        ) from None


def _limit(env: VectorEnv[Any, Any, Any]) -> int:
    """Return the steps after which it truncates an episode, if its registration names them."""
    return (env.spec.max_episode_steps or 0) if env.spec is not None else 0


def _info_of(infos: dict[str, Any], index: int) -> dict[str, Any]:
    """Return the infos of one environment."""
    found = {}
    for key, values in infos.items():
        given = infos.get(f"_{key}")
        is_flag = str(key).startswith("_") and str(key)[1:] in infos
        if is_flag or (given is not None and not given[index]):
            continue
        if isinstance(values, dict):
            found[key] = _info_of(values, index)
        elif isinstance(values, np.ndarray | list | tuple) and len(values) > index:
            found[key] = values[index]
    return found


def _final_info(infos: dict[str, Any], index: int) -> dict[str, Any]:
    """Return the info of the last step of one environment, which has been reset since."""
    found = _info_of({"info": infos.get("final_info", {})}, index).get("info")
    return found if isinstance(found, dict) else {}


def _one_of(batch: Any, space: Space[Any], index: int) -> Any:
    """Return the observation of one environment of a batch."""
    if isinstance(batch, dict) and isinstance(space, spaces.Dict):
        return {key: _one_of(batch[key], space.spaces[key], index) for key in space.spaces}
    if isinstance(batch, tuple) and isinstance(space, spaces.Tuple):
        parts = zip(batch, space.spaces, strict=True)
        return tuple(_one_of(part, inner, index) for part, inner in parts)
    return batch[index]
