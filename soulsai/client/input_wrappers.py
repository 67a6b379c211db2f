"""Wrappers behind settings of the environment: leaves left out, pictures, a range of actions."""

from collections import deque
from collections.abc import Callable, Sequence
from functools import lru_cache
from typing import Any

import gymnasium
import numpy as np
from gymnasium import Space, spaces

from soulsai.client.spaces import LeftOut, space_leaves
from soulsai.errors import EnvironmentFault
from soulsai.frame_stacks import image_axes
from soulsai.types import UNBOUNDED, Array, Leaf

Environment = gymnasium.Env[Any, Any]

LARGEST_SIDE = 1024  # of a picture, in pixels
MOST_FRAMES = 16


class LeaveOut(gymnasium.ObservationWrapper[Any, Any, Any]):
    """Leaves parts of nested observations out (``environment.leave_out``).

    An element of a tuple leaves an empty place, so that the others keep their indices.

    Args:
        env: The environment.
        names: Keys of dictionaries and indices of tuples, with dots between those of nested ones.
    """

    def __init__(self, env: Environment, names: Sequence[str]) -> None:
        super().__init__(env)
        known = [".".join(map(str, path)) for path, _ in space_leaves(env.observation_space)]
        for name in names:
            if not any(f"{leaf}.".startswith(f"{name}.") for leaf in known):
                raise EnvironmentFault(
                    f"environment.leave_out: the observation has no {name!r}, only "
                    f"{', '.join(filter(None, known)) or 'one leaf without a name'}"
                )
        self._names = frozenset(names)
        self.observation_space = self._without_space(env.observation_space, "")

    def observation(self, observation: Any) -> Any:
        """Return an observation without these parts."""
        return self._without(observation, self.env.observation_space, "")

    def _without_space(self, space: Space[Any], prefix: str) -> Space[Any]:
        if isinstance(space, spaces.Dict):
            kept = {
                key: self._without_space(inner, f"{prefix}{key}.")
                for key, inner in space.spaces.items()
                if f"{prefix}{key}" not in self._names
            }
            return spaces.Dict(list(kept.items()))
        if isinstance(space, spaces.Tuple):
            return spaces.Tuple(
                [
                    LeftOut()
                    if f"{prefix}{index}" in self._names
                    else self._without_space(inner, f"{prefix}{index}.")
                    for index, inner in enumerate(space.spaces)
                ]
            )
        return space

    def _without(self, value: Any, space: Space[Any], prefix: str) -> Any:
        """Return a part of an observation; what does not fit the space stays as it is."""
        if isinstance(space, spaces.Dict) and isinstance(value, dict):
            return {
                key: self._without(inner, space.spaces.get(key, space), f"{prefix}{key}.")
                for key, inner in value.items()
                if f"{prefix}{key}" not in self._names
            }
        if isinstance(space, spaces.Tuple) and isinstance(value, tuple | list):
            pairs = enumerate(zip(value, space.spaces, strict=False))
            return tuple(
                LeftOut.value
                if f"{prefix}{index}" in self._names
                else self._without(inner, each, f"{prefix}{index}.")
                for index, (inner, each) in pairs
            )
        return value


class Pictures(gymnasium.Wrapper[Any, Any, Any, Any]):
    """Makes all pictures of bytes small, grey and stacked (``environment.image``).

    A stack begins an episode with copies of its first frame, and holds the newest frame last.

    Args:
        env: The environment.
        size: Height and width in pixels; 0 leaves them as they are.
        grey: Turn three channels into one.
        stack: Number of frames; 1 for none. Pictures that are stacks already stay so.
    """

    def __init__(self, env: Environment, size: int = 0, grey: bool = False, stack: int = 1) -> None:
        super().__init__(env)
        if not 0 <= size <= LARGEST_SIDE or not 1 <= stack <= MOST_FRAMES:
            raise EnvironmentFault(
                f"environment.image: size is {size} of 0 to {LARGEST_SIDE}, and stack {stack} of 1 "
                f"to {MOST_FRAMES}"
            )
        self._leaves: dict[tuple[str | int, ...], _Picture] = {}
        for path, leaf in space_leaves(env.observation_space):
            if isinstance(leaf, spaces.Box) and leaf.dtype == np.uint8:
                axes = image_axes(Leaf(leaf.shape, "|u1", low=0.0, high=255.0))
                if axes is not None:
                    picture = _Picture(leaf, axes.last or len(leaf.shape) == 2, size, grey, stack)
                    self._leaves[path] = picture
        if not self._leaves:
            raise EnvironmentFault("environment.image: the observation has no picture of bytes")
        self.observation_space = _mapped_space(
            env.observation_space, lambda path, leaf: self._space(path, leaf)
        )

    def reset(self, *, seed: int | None = None, options: Any = None) -> tuple[Any, dict[str, Any]]:
        """Begin an episode."""
        obs, info = self.env.reset(seed=seed, options=options)
        for picture in self._leaves.values():
            picture.frames.clear()
        return self._observation(obs), info

    def step(self, action: Any) -> tuple[Any, Any, bool, bool, dict[str, Any]]:
        """Take a step."""
        obs, reward, terminated, truncated, info = self.env.step(action)
        return self._observation(obs), reward, terminated, truncated, info

    def _observation(self, obs: Any) -> Any:
        return _mapped(obs, self.env.observation_space, self._shown, ())

    def _shown(self, path: tuple[str | int, ...], value: Any) -> Any:
        picture = self._leaves.get(path)
        return value if picture is None else picture.shown(np.asarray(value))

    def _space(self, path: tuple[str | int, ...], leaf: Space[Any]) -> Space[Any]:
        picture = self._leaves.get(path)
        if picture is None:
            return leaf
        shape = picture.shown(np.zeros(leaf.shape or (), np.uint8)).shape
        picture.frames.clear()
        return spaces.Box(0, 255, shape, np.uint8)


_LUMINANCE = np.array([19595, 38470, 7471], np.float32)  # of 65536


class _Picture:
    """One picture leaf and its last frames."""

    def __init__(self, space: spaces.Box, last: bool, size: int, grey: bool, stack: int) -> None:
        self._shape, self._last, self._size, self._grey = space.shape, last, size, grey
        self._stack = stack if len(space.shape) < 4 else 1
        self.frames: deque[Array] = deque(maxlen=self._stack)

    def shown(self, picture: Array) -> Array:
        """Return the stack of frames that ends with a picture."""
        if picture.shape != self._shape:
            return picture  # its reader refuses it by name
        if len(picture.shape) == 4:
            return np.stack([self._small(frame) for frame in picture])
        self.frames.append(self._small(picture))
        while len(self.frames) < self._stack:
            self.frames.append(self.frames[-1])
        if self._stack == 1:
            return self.frames[0]
        stacked = np.stack(list(self.frames))
        return stacked[..., 0] if stacked.shape[-1] == 1 else stacked

    def _small(self, picture: Array) -> Array:
        """Return a picture as rows, columns and channels, resized by the mean over areas."""
        if picture.ndim == 2:
            picture = picture[..., None]
        elif not self._last:
            picture = picture.transpose(1, 2, 0)
        if self._grey and picture.shape[2] == 3:
            picture = _luminance(picture)
        if self._size and picture.shape[:2] != (self._size, self._size):
            picture = _resized(picture, self._size)
        return np.ascontiguousarray(picture)


def _luminance(picture: Array) -> Array:
    """Return the luminance [H, W, 1] of red, green and blue [H, W, 3] (ITU-R BT.601)."""
    # Whole numbers below 2**24, which float32 holds exactly
    light = picture.astype(np.float32) @ _LUMINANCE
    return ((light.astype(np.int32) + 2**15) >> 16).astype(np.uint8)[..., None]


def _resized(picture: Array, size: int) -> Array:
    """Return a picture [H, W, C] as [size, size, C]; each pixel is a mean of whole pixels."""
    rows, columns = (_shares(pixels, size) for pixels in picture.shape[:2])
    channels = picture.transpose(2, 0, 1).astype(np.float32)
    small: Array = (rows @ channels @ columns.T + 0.5).astype(np.uint8)
    return small.transpose(1, 2, 0)


@lru_cache(maxsize=64)
def _shares(pixels: int, size: int) -> Array:
    """Return the share [size, pixels] of each pixel in each of ``size`` areas of equal length."""
    distance = (2 * np.arange(pixels) + 1) * size - (2 * np.arange(size)[:, None] + 1) * pixels
    longest = max(pixels, size)
    inside = (distance > -longest) & (distance <= longest)
    shares: Array = inside / inside.sum(1, keepdims=True)
    return shares.astype(np.float32)


class ActionRange(gymnasium.Wrapper[Any, Any, Any, Any]):
    """Gives numbers of actions that have no bounds a range (``environment.action_range``).

    Args:
        env: The environment.
        low: The least number.
        high: The largest number.
    """

    def __init__(self, env: Environment, low: float, high: float) -> None:
        super().__init__(env)
        if not -UNBOUNDED < low < high < UNBOUNDED:
            raise EnvironmentFault(f"environment.action_range: {low:g} to {high:g} is no range")
        self.action_space = _mapped_space(
            env.action_space, lambda _, leaf: _bounded(leaf, low, high)
        )


def _bounded(space: Space[Any], low: float, high: float) -> Space[Any]:
    if not isinstance(space, spaces.Box) or space.dtype is None:
        return space
    lows = np.where(space.low.astype(np.float64) > -UNBOUNDED, space.low, low)
    highs = np.where(space.high.astype(np.float64) < UNBOUNDED, space.high, high)
    dtype: Any = space.dtype.type
    return spaces.Box(lows.astype(dtype), np.maximum(lows, highs).astype(dtype), dtype=dtype)


def _mapped_space(
    space: Space[Any],
    change: Callable[[tuple[str | int, ...], Space[Any]], Space[Any]],
    path: tuple[str | int, ...] = (),
) -> Space[Any]:
    """Return a space with each leaf replaced, by its path and itself."""
    if isinstance(space, spaces.Dict):
        inner = space.spaces.items()
        return spaces.Dict([(key, _mapped_space(s, change, (*path, key))) for key, s in inner])
    if isinstance(space, spaces.Tuple):
        parts = enumerate(space.spaces)
        return spaces.Tuple([_mapped_space(s, change, (*path, index)) for index, s in parts])
    return change(path, space)


def _mapped(
    value: Any,
    space: Space[Any],
    change: Callable[[tuple[str | int, ...], Any], Any],
    path: tuple[str | int, ...],
) -> Any:
    """Return an observation with each leaf replaced; what does not fit the space stays as it is."""
    if isinstance(space, spaces.Dict) and isinstance(value, dict):
        known = space.spaces
        return {
            key: _mapped(inner, known[key], change, (*path, key)) if key in known else inner
            for key, inner in value.items()
        }
    if isinstance(space, spaces.Tuple) and isinstance(value, tuple | list):
        pairs = zip(value, space.spaces, strict=False)
        return tuple(_mapped(v, s, change, (*path, i)) for i, (v, s) in enumerate(pairs))
    return value if isinstance(space, spaces.Dict | spaces.Tuple) else change(path, value)
