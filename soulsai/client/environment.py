"""Gymnasium environments behind an adapter that checks observations and rewards."""

import logging
from collections.abc import Sequence
from typing import Any, NamedTuple, Protocol, runtime_checkable

import gymnasium
import numpy as np
from gymnasium.error import DependencyNotInstalled

from soulsai.client.adapted_spaces import AdaptedSpaces
from soulsai.client.creation import RAISED, error_line, kind_of
from soulsai.client.episode_videos import EpisodeVideos
from soulsai.client.spaces import Rows, read_number
from soulsai.errors import EnvironmentFault
from soulsai.types import (
    LARGEST_NUMBER,
    Array,
)

log = logging.getLogger(__name__)

LARGEST_REWARD = float(np.finfo(np.float32).max)  # rewards are float32 on the wire


USUAL_FPS, MOST_FPS = 30, 120  # pictures per second
LARGEST_SEED = 2**31 - 1  # many environments take an int32
_OLD_API = "(before Gym 0.26 it was otherwise; a wrapper such as those of shimmy helps, too)"


class StepResult(NamedTuple):
    """The result of a step, besides the observation."""

    reward: float
    terminated: bool
    truncated: bool
    # the row of the action that was done instead: choices from zero, numbers of the environment
    intervention: Array | None = None


class RecordedEnvironment(Protocol):
    """The part of an environment that the record of its episodes needs."""

    @property
    def info(self) -> dict[str, Any]:
        """Return the info of the last step."""
        ...

    def check_bounds(self, rows: Rows) -> None:
        """Warn, once per leaf, of values in rows [N, ...] outside the bounds of the space."""
        ...


@runtime_checkable
class Recordable(Protocol):
    """An environment that can make videos of its episodes."""

    def record(self, version: tuple[int, int]) -> None:
        """Record the episode that has just begun, played by this generation and version."""
        ...


class PlayableEnvironment(RecordedEnvironment, Protocol):
    """The interface of an environment for the player."""

    name: str

    def ready(self, timeout: float) -> bool:
        """Return whether it can be reset, after at most ``timeout`` seconds of waiting and work."""
        ...

    def begin_stage(self, begun: int) -> None:
        """Take the arguments of the run's stage before the next reset; ``ready`` says when.

        Args:
            begun: The number of stages of the schedule that have begun.
        """
        ...

    def reset(self, rows: Rows, seed: int | None = None) -> None:
        """Begin an episode and write its first observation into ``rows``."""
        ...

    def step(self, action: Any, rows: Rows, /) -> StepResult:
        """Take an action, which counts from zero, and write the observation into ``rows``."""
        ...

    def close(self) -> None:
        """Close the environment."""
        ...


class AdaptedEnvironment:
    """One environment; it checks observations and copies them into rows.

    Every error of the environment is raised as an ``EnvironmentFault`` that names it.
    """

    def __init__(
        self,
        env: gymnasium.Env[Any, Any],
        name: str,
        *,
        mask_key: str,
        masked: bool,
        largest_reward: float = LARGEST_REWARD,
    ) -> None:
        """Check the spaces of an environment.

        Args:
            env: The environment.
            name: For messages.
            mask_key: The name of the action mask, in the info or in the observation.
            masked: Whether the info holds a mask.
            largest_reward: The largest reward of a step that is taken, with either sign.

        Raises:
            EnvironmentFault: A space is not supported.
        """
        self.name = name
        self._largest_reward = largest_reward
        self.info: dict[str, Any] = {}
        self.videos: EpisodeVideos | None = None  # of the episodes that ``record`` names
        self._env = env
        self._mask_key = mask_key
        try:
            self._spaces = (env.observation_space, env.action_space)
        except AttributeError as error:
            raise EnvironmentFault(
                f"{name}: {error}; set self.observation_space and self.action_space in __init__"
            ) from None
        self._checked = False  # whether reset has left the spaces as they were
        self._adapted = AdaptedSpaces(name, *self._spaces, mask_key=mask_key, masked=masked)
        self.spec = self._adapted.spec
        self.left_out = self._adapted.left_out
        self.mask_in_obs = self._adapted.mask_in_obs
        self._limit = _time_limit(env)
        self._ends_twice = False  # whether an end both terminated and truncated was mentioned

    def __repr__(self) -> str:
        return f"AdaptedEnvironment({self.name})"

    def ready(self, timeout: float) -> bool:
        """Return true: it can always be reset."""
        del timeout
        return True

    def begin_stage(self, begun: int) -> None:
        """Refuse: only what can make it anew gives it other arguments."""
        raise EnvironmentFault(f"{self.name}: stage {begun} needs another environment")

    def reset(self, rows: Rows, seed: int | None = None) -> None:
        """Begin an episode and write its first observation into ``rows``."""
        if self.videos is not None:
            self.videos.drop()
        try:
            returned = self._env.reset(seed=seed)
        except RAISED as error:
            raise raised(self.name, "reset", error) from error
        if not self._checked:
            self._check_spaces()
        if not isinstance(returned, tuple) or len(returned) != 2:
            raise EnvironmentFault(
                f"{self.name}: reset returns {kind_of(returned)} instead of (observation, info); "
                f"write `return observation, {{}}` {_OLD_API}"
            )
        self._read(*returned, rows)
        self._adapted.check_mask(rows, "reset")

    def step(self, action: Any, rows: Rows) -> StepResult:
        """Take an action, which counts from zero, and write the observation into ``rows``."""
        try:
            returned = self._env.step(self._adapted.native(action))
        except RAISED as error:
            raise raised(self.name, "step", error) from error
        if not isinstance(returned, tuple) or len(returned) != 5:
            raise EnvironmentFault(
                f"{self.name}: step returns {kind_of(returned)} instead of (observation, reward, "
                f"terminated, truncated, info); split `done` into terminated, for an end of the "
                f"game itself, and truncated, for a time limit {_OLD_API}"
            )
        obs, value, terminated, truncated, info = returned
        try:
            reward = float(value) if isinstance(value, float | int) else read_number(value)
            result = StepResult(reward, bool(terminated), bool(truncated))
        except (ValueError, TypeError, RuntimeError) as error:
            raise EnvironmentFault(
                f"{self.name}: step returns a reward or an end of the episode that {error}"
            ) from None
        if result.terminated and result.truncated:
            result = self._one_end(result)
        self._read(obs, info, rows)
        if not -self._largest_reward <= result.reward <= self._largest_reward:
            raise refused_reward(self.name, result.reward, self._largest_reward)
        if not (result.terminated or result.truncated):
            self._adapted.check_mask(rows, "step")
        if "intervention" in info and info.get("intervened", True):
            result = result._replace(intervention=self._intervention(info["intervention"]))
        if self.videos is not None:
            over = result.terminated or result.truncated
            self.videos.step(result.reward, self.render, ended=over)
        return result

    def action_row(self, element: Any) -> Array:
        """Return an action of the environment as choices from zero and then numbers.

        Raises:
            ValueError: It is no element of the action space.
        """
        return self._adapted.native.row(element)

    def keys_to_action(self) -> dict[Any, Array]:
        """Return the mapping of keys for ``gymnasium.utils.play``, to rows of actions.

        It is empty if the environment has none, or if a wrapper has changed the actions.
        """
        if not self._env.has_wrapper_attr("get_keys_to_action"):
            return {}
        own = self._env.get_wrapper_attr("get_keys_to_action")()
        try:
            return {keys: self.action_row(element) for keys, element in own.items()}
        except ValueError:
            return {}

    def record(self, version: tuple[int, int]) -> None:
        """Record the episode that has just begun; see ``Recordable``."""
        if self.videos is not None:
            self.videos.begin(version, self.render_fps, self.render)

    def _intervention(self, element: Any) -> Array:
        """Return the row of the action that a person has done instead."""
        try:
            return self.action_row(element)
        except ValueError as error:
            raise EnvironmentFault(f"{self.name}: info['intervention'] {error}") from None

    def _one_end(self, result: StepResult) -> StepResult:
        """Return an end that is either terminated or truncated.

        An environment may report the end of its time as terminated, too. The limit of a wrapper
        tells such an end from one of the game.
        """
        limit = self._limit
        if limit is not None and (limit._elapsed_steps or 0) >= limit._max_episode_steps:
            return result._replace(terminated=False)
        if not self._ends_twice:
            self._ends_twice = True
            log.warning(
                "env=%s: a step ends the episode as terminated and as truncated, and counts as "
                "terminated; if that is its time limit, set environment.max_episode_steps to it",
                self.name,
            )
        return result

    def gives_mask(self, seed: int) -> bool:
        """Reset with a seed, and return whether the info holds an action mask."""
        try:
            returned = self._env.reset(seed=seed)
        except RAISED as error:
            raise raised(self.name, "reset", error) from error
        self._check_spaces()
        info = returned[1] if isinstance(returned, tuple) and len(returned) == 2 else None
        return isinstance(info, dict) and self._mask_key in info

    def render(self) -> Any:
        """Return the picture of the present state, as Gymnasium's render mode gives it."""
        try:
            return self._env.render()
        except RAISED as error:
            raise raised(self.name, "render", error) from error

    @property
    def render_mode(self) -> str | None:
        """The environment's render mode; ``human`` is a window of its own."""
        return getattr(self._env, "render_mode", None)

    @property
    def render_fps(self) -> int:
        """The pictures per second of the environment, or a usual number."""
        fps = getattr(self._env, "metadata", {}).get("render_fps")
        return int(min(max(fps, 1), MOST_FPS)) if isinstance(fps, int | float) else USUAL_FPS

    def with_masks(self) -> "AdaptedEnvironment":
        """Return the same environment, whose info holds masks."""
        return AdaptedEnvironment(
            self._env,
            self.name,
            mask_key=self._mask_key,
            masked=True,
            largest_reward=self._largest_reward,
        )

    def check_bounds(self, rows: Rows) -> None:
        """Warn, once per leaf, of values in rows [N, ...] outside the bounds of the space."""
        self._adapted.check_bounds(rows)

    def close(self) -> None:
        """Close the environment; raise ``EnvironmentFault`` if that fails."""
        if self.videos is not None:
            self.videos.drop()
        try:
            self._env.close()
        except RAISED as error:
            raise raised(self.name, "close", error) from error

    def _check_spaces(self) -> None:
        """Refuse an environment that changes its spaces in its first reset."""
        self._checked = True
        after = (self._env.observation_space, self._env.action_space)
        for kind, before, now in zip(("observation", "action"), self._spaces, after, strict=True):
            if before != now:
                raise EnvironmentFault(
                    f"{self.name}: reset changes the {kind} space from {before} to {now}; set it "
                    "in __init__"
                )

    def _read(self, obs: Any, info: Any, rows: Rows) -> None:
        if isinstance(info, dict):
            self.info = info
        self._adapted.read(obs, info, rows)


def refused_reward(name: str, reward: float, largest: float) -> EnvironmentFault:
    """Return the fault of a reward that is not finite, or beyond the largest.

    Args:
        name: The environment.
        reward: The reward.
        largest: The largest reward that is taken, with either sign.
    """
    if not -LARGEST_REWARD <= reward <= LARGEST_REWARD:
        return EnvironmentFault(f"{name}: the reward is not finite: {reward}")
    return EnvironmentFault(
        f"{name}: the reward {reward:g} is beyond environment.largest_reward "
        f"({largest:g}); raise it, or scale the rewards down"
    )


def raised(name: str, where: str, error: BaseException) -> EnvironmentFault:
    """Return the fault of an environment that raised an error in a call.

    Args:
        name: The environment.
        where: The method.
        error: The error.
    """
    if where == "reset" and isinstance(error, TypeError) and "reset() got an un" in str(error):
        return EnvironmentFault(
            f"{name}: {error}; define it as def reset(self, *, seed=None, options=None)"
        )
    if isinstance(error, EnvironmentFault):  # of a wrapper of ours, which says it all
        return EnvironmentFault(str(error))
    if isinstance(error, DependencyNotInstalled) and "pygame" in str(error):
        return EnvironmentFault(f'{name}: its pictures need pygame; pip install "soulsai[play]"')
    return EnvironmentFault(f"{name}: {where} raised {error_line(error)}")


def numbers(info: dict[str, object], keys: Sequence[str]) -> dict[str, float]:
    """Return the numbers among those keys of an info, without those too large to send."""
    finite = {}
    for key in keys:
        value = info.get(key)
        if isinstance(value, np.generic):
            value = value.item()
        if isinstance(value, int | float) and abs(value) <= LARGEST_NUMBER:
            finite[key] = float(value)
    return finite


def _time_limit(env: gymnasium.Env[Any, Any]) -> gymnasium.wrappers.TimeLimit[Any, Any] | None:
    """Return the outermost wrapper that limits the steps of an episode."""
    inner: Any = env
    while isinstance(inner, gymnasium.Wrapper):
        if isinstance(inner, gymnasium.wrappers.TimeLimit):
            return inner
        inner = inner.env
    return None
