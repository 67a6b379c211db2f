"""Gymnasium's spaces as named leaves, and the reading of observations."""

from collections.abc import Iterator
from typing import Any

import numpy as np
from gymnasium import Space, spaces
from msgspec import Struct

from soulsai.errors import EnvironmentFault
from soulsai.types import MASK, ActionSpec, Array, Leaf

Path = tuple[str | int, ...]


class Reader(Struct, frozen=True, eq=False):
    """Copies one leaf of an observation into a row, and checks it against its space.

    Categories count from ``low`` in the environment, and from zero in the row.
    """

    name: str
    path: Path
    leaf: Leaf
    low: Array
    high: Array

    def read(self, obs: Any, row: Array) -> None:
        """Copy the leaf of ``obs`` into ``row``; raise ``ValueError`` if it is not in the space."""
        for key in self.path:
            try:
                obs = obs[key]
            except (KeyError, IndexError, TypeError):
                raise ValueError("is missing") from None
        array = np.asarray(obs)
        if array.shape != self.leaf.shape:
            raise ValueError(f"has shape {array.shape} instead of {self.leaf.shape}")
        if self.leaf.categories:
            self._read_categories(array, row)
        elif row.dtype.kind == "f":
            _read_numbers(array, row)
        else:
            _read_integers(array, row)

    def outside(self, rows: Array) -> str:
        """Return a phrase for a value in rows [N, ...] outside the bounds, or an empty string."""
        if self.leaf.categories or rows.dtype.kind == "b":
            return ""
        wrong = (rows < self.low) | (rows > self.high)
        if not wrong.any():
            return ""
        low, high = np.broadcast_arrays(self.low, self.high, rows)[:2]
        return f"{rows[wrong][0]:g} is outside [{low[wrong][0]:g}, {high[wrong][0]:g}]"

    def _read_categories(self, array: Array, row: Array) -> None:
        if array.dtype.kind not in "iu":
            raise ValueError(f"has dtype {array.dtype} instead of an integer: {_short(array)}")
        if ((array < self.low) | (array > self.high)).any():
            raise ValueError(f"is {_short(array)}, outside {_short(self.low)}..{_short(self.high)}")
        np.copyto(row, array - self.low, casting="unsafe")


def _read_numbers(array: Array, row: Array) -> None:
    if array.dtype.kind not in "fiub":
        raise ValueError(f"has dtype {array.dtype} instead of {row.dtype}")
    if array.dtype.itemsize > row.dtype.itemsize:
        with np.errstate(over="ignore"):  # the result is infinite and refused below
            np.copyto(row, array, casting="unsafe")
    else:
        np.copyto(row, array, casting="unsafe")
    if not np.logical_and.reduce(np.isfinite(row), axis=None):  # as all(), in half the time
        raise ValueError(f"is not finite: {_short(array)}")


def _read_integers(array: Array, row: Array) -> None:
    if array.dtype != row.dtype:
        if array.dtype.kind not in "iub":
            raise ValueError(f"has dtype {array.dtype} instead of {row.dtype}: {_short(array)}")
        low, high = _range(row.dtype)
        if array.min(initial=0) < low or array.max(initial=0) > high:
            raise ValueError(f"does not fit {row.dtype}: {_short(array)}")
    np.copyto(row, array, casting="unsafe")


def readers(space: Space[Any]) -> dict[str, Reader]:
    """Flatten an observation space into named leaves, in the space's own order.

    ``Dict`` and ``Tuple`` give names like ``player.pose`` and ``enemies.0``; anything else is one
    leaf named ``obs``.
    """
    result: dict[str, Reader] = {}
    for path, leaf in _leaves(space, ()):
        name = ".".join(map(str, path)) or "obs"
        if name in result or name == MASK:
            raise EnvironmentFault(f"observation leaf {name!r}: the name is taken; rename the leaf")
        result[name] = _reader(name, path, leaf)
    if not result:
        raise EnvironmentFault(f"the observation space {space} has no leaves")
    return result


def action_spec(space: Space[Any]) -> ActionSpec:
    """Describe an action space; raise ``EnvironmentFault`` if it is not supported."""
    if isinstance(space, spaces.Discrete):
        return ActionSpec("discrete", (), (int(space.n),))
    if isinstance(space, spaces.MultiDiscrete):
        sizes = tuple(int(size) for size in space.nvec.flat)
        return ActionSpec("multidiscrete", (len(sizes),), sizes)
    if isinstance(space, spaces.Box) and space.dtype is not None and space.dtype.kind == "f":
        if not (np.isfinite(space.low).all() and np.isfinite(space.high).all()):
            raise EnvironmentFault(
                f"the action space {space} has no finite bounds; rescale it, for example with "
                "gymnasium.wrappers.RescaleAction"
            )
        low, high = (tuple(float(x) for x in bound.flat) for bound in (space.low, space.high))
        return ActionSpec("box", space.shape, (), low, high)
    raise EnvironmentFault(
        f"the action space {space} is not supported; it can be Discrete, MultiDiscrete, or Box "
        "of floats"
    )


def action_start(space: Space[Any]) -> Array:
    """Return the offset of an action space, added to actions that count from zero."""
    if isinstance(space, spaces.Discrete | spaces.MultiDiscrete):
        return np.asarray(space.start, np.int64)
    return np.zeros((), np.int64)


def read_mask(value: Any, choices: int, row: Array) -> None:
    """Copy an action mask into a row.

    Args:
        value: Numbers or booleans [choices], or a tuple of masks, which are concatenated.
        choices: The number of choices.
        row: The row [choices] to write, of bool.

    Raises:
        ValueError: The mask has another shape or dtype.
    """
    parts = value if isinstance(value, tuple | list) else (value,)
    array = np.concatenate([np.atleast_1d(np.asarray(part)) for part in parts])
    if array.shape != (choices,) or array.dtype.kind not in "biu":
        raise ValueError(f"has {array.dtype} {array.shape} instead of bool {(choices,)}")
    np.not_equal(array, 0, out=row)


def _leaves(space: Space[Any], path: Path) -> Iterator[tuple[Path, Space[Any]]]:
    if isinstance(space, spaces.Dict):
        for key, inner in space.spaces.items():
            yield from _leaves(inner, (*path, key))
    elif isinstance(space, spaces.Tuple):
        for index, inner in enumerate(space.spaces):
            yield from _leaves(inner, (*path, index))
    else:
        yield path, space


def _reader(name: str, path: Path, space: Space[Any]) -> Reader:
    if isinstance(space, spaces.Discrete):
        size, low = int(space.n), np.asarray(space.start, np.int64)
        return Reader(name, path, Leaf((), _smallest(size), size), low, low + size - 1)
    if isinstance(space, spaces.MultiDiscrete):
        size, low = int(space.nvec.max()), np.asarray(space.start, np.int64)
        leaf = Leaf(space.nvec.shape, _smallest(size), size)
        return Reader(name, path, leaf, low, low + space.nvec.astype(np.int64) - 1)
    if isinstance(space, spaces.MultiBinary):
        return Reader(name, path, Leaf(space.shape, "|b1"), np.zeros(()), np.ones(()))
    if isinstance(space, spaces.Box) and space.dtype is not None and space.dtype.kind in "fiub":
        dtype = np.dtype(np.float32) if space.dtype.kind == "f" else np.dtype(space.dtype)
        bounded = np.isfinite(space.low).all() and np.isfinite(space.high).all()
        leaf = Leaf(
            space.shape,
            dtype.newbyteorder("<").str,
            low=float(space.low.min()) if bounded else None,
            high=float(space.high.max()) if bounded else None,
        )
        with np.errstate(over="ignore"):
            return Reader(name, path, leaf, space.low.astype(dtype), space.high.astype(dtype))
    raise EnvironmentFault(
        f"observation leaf {name!r}: {space} is not supported; it can be Box, Discrete, "
        "MultiDiscrete or MultiBinary, in Dict and Tuple"
    )


def _smallest(size: int) -> str:
    return "|u1" if size <= 2**8 else "<u2" if size <= 2**16 else "<u4"


def _range(dtype: np.dtype[Any]) -> tuple[int, int]:
    if dtype.kind == "b":
        return 0, 1
    info = np.iinfo(dtype)
    return int(info.min), int(info.max)


def _short(array: Array) -> str:
    text = np.array2string(array, threshold=6, precision=4).replace("\n", "")
    return text if len(text) <= 60 else text[:57] + "..."
