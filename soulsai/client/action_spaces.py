"""Gymnasium's action spaces as choices and numbers, and the way back into a space."""

import math
from collections.abc import Iterator
from typing import Any, NamedTuple

import numpy as np
from gymnasium import Space, spaces

from soulsai.client.spaces import Path, as_array, space_leaves
from soulsai.errors import EnvironmentFault
from soulsai.types import ActionPart, ActionSpec, Array

_MOST = float(np.finfo(np.float32).max)  # stands for no bound: JSON cannot carry infinity
_WIDE = 2**31 - 1  # bounds of integers from here on are those of a type
_LONGEST = 2**62  # an integer of 8 bytes, which a float cannot overflow


class _Place(NamedTuple):
    """One leaf of an action space, and its place among all choices or all numbers."""

    space: Space[Any]
    is_choice: bool
    first: int
    size: int


class NativeActions:
    """Converts actions that count from zero to elements of an action space.

    Args:
        space: ``Discrete``, ``MultiDiscrete``, ``MultiBinary``, ``Box``, or any nesting of these
            in ``Dict`` and ``Tuple``.

    Raises:
        EnvironmentFault: The space has other leaves, or no numbers and choices.
    """

    def __init__(self, space: Space[Any]) -> None:
        self._space = space
        self._parts: list[_Place] = []
        sizes: list[int] = []
        low: list[float] = []
        high: list[float] = []
        for path, leaf in space_leaves(space):
            choices = _sizes(leaf)
            if choices is not None:
                self._parts.append(_Place(leaf, True, len(sizes), len(choices)))
                sizes += choices
            elif isinstance(leaf, spaces.Box) and _kind(leaf) in "fiu":
                bounds = _bounds(leaf)
                self._parts.append(_Place(leaf, False, len(low), len(bounds[0])))
                low += bounds[0]
                high += bounds[1]
            else:
                where = f"leaf {'.'.join(map(str, path))!r} of the " if path else "the "
                raise EnvironmentFault(
                    f"{where}action space {leaf} is not supported; it can be Discrete, "
                    "MultiDiscrete, MultiBinary, or Box of numbers"
                )
        if not sizes and not low:
            raise EnvironmentFault(f"the action space {space} has no elements")
        self.spec = _spec(space, tuple(sizes), tuple(low), tuple(high))
        self._start = space.start if isinstance(space, spaces.Discrete) else None

    def __call__(self, action: Any) -> Any:
        """Return an action as an element of the space, or a batch of them of the batched space.

        Args:
            action: Indices [...], or arrays [..., n] of all choices and then all numbers in units
                of the environment; numbers are rounded in spaces of integers.
        """
        if self._start is not None:
            return np.int64(action + self._start)
        row = np.asarray(action)
        batch = row.shape[: row.ndim - len(self.spec.shape)]
        row = row.reshape((*batch, -1))
        split = len(self.spec.sizes)
        given = [row[..., split:], row[..., :split]]
        values = (
            _element(part.space, given[part.is_choice][..., part.first : part.first + part.size])
            for part in self._parts
        )
        return _nested(self._space, values)

    def row(self, element: Any) -> Array:
        """Return an element of the space as choices from zero and then numbers; inverts a call.

        Raises:
            ValueError: It has another shape, an unknown choice, or a number that is not finite.
        """
        values: list[float] = []
        for is_choice in (True, False):
            for (path, leaf), part in zip(space_leaves(self._space), self._parts, strict=True):
                if part.is_choice is is_choice:
                    values += _row(leaf, element, path)
        row = np.array(values)
        split = len(self.spec.sizes)
        choices, numbers = row[:split], row[split:]
        if not ((choices >= 0) & (choices < self.spec.sizes) & (choices % 1 == 0)).all():
            raise ValueError(f"is {element}, no element of {self._space}")
        if not np.isfinite(numbers).all():
            raise ValueError(f"is not finite: {element}")
        return np.concatenate((choices, numbers.clip(self.spec.low, self.spec.high)))


def _spec(
    space: Space[Any], sizes: tuple[int, ...], low: tuple[float, ...], high: tuple[float, ...]
) -> ActionSpec:
    """Describe a space with given choices and bounds of numbers."""
    nested = isinstance(space, spaces.Dict | spaces.Tuple)
    parts = tuple(map(_part, space_leaves(space))) if nested else ()
    start = tuple(first for _, leaf in space_leaves(space) for first in _starts(leaf))
    if isinstance(space, spaces.Discrete):
        return ActionSpec("discrete", (), sizes, start=start)
    if not low:
        own = () if nested else tuple(space.shape or ())
        count = (len(sizes),)
        return ActionSpec("multidiscrete", count, sizes, start=start, native_shape=own, parts=parts)
    if sizes:
        count = (len(sizes) + len(low),)
        return ActionSpec("hybrid", count, sizes, low, high, start=start, parts=parts)
    shape = space.shape if isinstance(space, spaces.Box) else (len(low),)
    return ActionSpec("box", shape, (), low, high, parts=parts)


def _part(place: tuple[Path, Space[Any]]) -> ActionPart:
    path, leaf = place
    shape = tuple(leaf.shape or ())
    dtype = "<i8" if leaf.dtype is None else leaf.dtype.newbyteorder("<").str
    return ActionPart(path, math.prod(shape), isinstance(leaf, spaces.Box), shape, dtype)


def _starts(space: Space[Any]) -> list[int]:
    """Return the environment's value of the first choice of each component."""
    if isinstance(space, spaces.Discrete):
        return [int(space.start)]
    if isinstance(space, spaces.MultiDiscrete):
        return [int(first) for first in space.start.flat]
    return [0] * len(_sizes(space) or ())


def _sizes(space: Space[Any]) -> list[int] | None:
    """Return the number of choices of each component, or ``None`` of another space."""
    if isinstance(space, spaces.Discrete):
        return [int(space.n)]
    if isinstance(space, spaces.MultiDiscrete):
        return [int(size) for size in space.nvec.flat]
    if isinstance(space, spaces.MultiBinary):
        return [2] * math.prod(space.shape)
    return None


def _bounds(space: spaces.Box) -> tuple[list[float], list[float]]:
    """Return the flat bounds; those of an integer type are none."""
    low, high = (bound.astype(np.float64).reshape(-1) for bound in (space.low, space.high))
    if _kind(space) != "f":
        low = np.where(low <= -_WIDE, -_MOST, low)
        high = np.where(high >= _WIDE, _MOST, high)
    return np.clip(low, -_MOST, _MOST).tolist(), np.clip(high, -_MOST, _MOST).tolist()


def _kind(space: Space[Any]) -> str:
    return "" if space.dtype is None else space.dtype.kind


def _element(space: Any, row: Array) -> Any:
    """Return the choices or numbers [..., n] of one leaf as elements of its space."""
    if isinstance(space, spaces.Discrete):
        return np.int64(row[..., 0] + space.start)
    batch = row.shape[:-1]
    if isinstance(space, spaces.MultiDiscrete):
        chosen = row.astype(np.int64).reshape((*batch, *space.nvec.shape)) + space.start
        return chosen.astype(space.dtype)
    row = row.reshape((*batch, *space.shape))
    if isinstance(space, spaces.MultiBinary):
        return row.astype(space.dtype)
    if space.dtype.kind == "f":
        most = np.finfo(space.dtype).max
        row = row.clip(-most, most)
    else:
        info = np.iinfo(space.dtype)
        row = np.rint(row.astype(np.float64)).clip(
            max(info.min, -_LONGEST), min(info.max, _LONGEST)
        )
    # The bounds of a space of other floats may not contain their rounding to single precision.
    return np.asarray(row.astype(space.dtype).clip(space.low, space.high))


def _row(space: Space[Any], element: Any, path: Path) -> list[float]:
    """Return the choices, counted from zero, or numbers of one leaf of an element."""
    try:
        for key in path:
            element = element[key]
        array = as_array(element).astype(np.float64).reshape(-1)
        if isinstance(space, spaces.Discrete | spaces.MultiDiscrete):
            array = array - np.asarray(space.start, np.float64).reshape(-1)
        numbers: list[float] = array.tolist()
    except (KeyError, IndexError, TypeError, ValueError) as error:
        raise ValueError(f"is no element of {space}: {error}") from None
    if len(numbers) != math.prod(space.shape or ()):
        raise ValueError(f"is no element of {space}: {element}")
    return numbers


def _nested(space: Space[Any], values: Iterator[Any]) -> Any:
    if isinstance(space, spaces.Dict):
        return {key: _nested(inner, values) for key, inner in space.spaces.items()}
    if isinstance(space, spaces.Tuple):
        return tuple(_nested(inner, values) for inner in space.spaces)
    return next(values)
