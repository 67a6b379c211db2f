"""Gymnasium's spaces as named leaves, and the reading of observations."""

import math
from collections.abc import Iterator
from typing import Any

import numpy as np
from gymnasium import Space, spaces
from msgspec import Struct

from soulsai.errors import EnvironmentFault
from soulsai.types import MASK, ActionSpec, Array, Leaf, LeafSource

_FEW = 16  # numbers
_AGREE = "let observation_space be that of what reset and step return"

Path = tuple[str | int, ...]
Rows = dict[str, Array]  # rows of each leaf, written in place

# Outputs of the policy's graph, and the leaf of masks
_GRAPH_NAMES = frozenset((MASK, "q", "logits", "mean", "log_std"))


class LeftOut(spaces.Box):
    """The place of an element of a tuple that ``environment.leave_out`` names."""

    value = np.zeros(0, np.float32)

    def __init__(self) -> None:
        super().__init__(0.0, 0.0, self.value.shape, np.float32)


class Reader(Struct, frozen=True, eq=False):
    """Copies one leaf of an observation into a row, and checks it against its space.

    Categories count from ``low`` in the environment, and from zero in the row.
    """

    name: str
    path: Path
    leaf: Leaf
    low: Array
    high: Array

    def read(self, obs: Any, row: Array) -> str:
        """Copy the leaf of ``obs`` into ``row``.

        Returns:
            A phrase about categories that do not exist, which become the nearest ones; else "".

        Raises:
            ValueError: The leaf cannot be read.
        """
        for key in self.path:
            try:
                obs = obs[key]
            except Exception as error:  # an observation may be of any type
                raise ValueError(f"is missing; {_AGREE}") from error
        array = as_array(obs)
        if array.shape != self.leaf.shape:
            raise ValueError(f"has shape {array.shape} instead of {self.leaf.shape}; {_AGREE}")
        if self.leaf.categories:
            return self._read_categories(array, row)
        if row.dtype.kind == "f":
            _read_numbers(array, row)
        else:
            _read_integers(array, row)
        return ""

    @property
    def source(self) -> LeafSource:
        """The place of the leaf in the environment's observation."""
        start = np.broadcast_to(self.low, self.leaf.shape).flat if self.leaf.categories else ()
        return LeafSource(self.path, tuple(int(first) for first in start))

    def outside(self, rows: Array) -> str:
        """Return a phrase for a value in rows [N, ...] outside the bounds, or an empty string."""
        if self.leaf.categories or rows.dtype.kind == "b":
            return ""
        wrong = (rows < self.low) | (rows > self.high)
        if not wrong.any():
            return ""
        low, high = np.broadcast_arrays(self.low, self.high, rows)[:2]
        return f"{rows[wrong][0]:g} is outside [{low[wrong][0]:g}, {high[wrong][0]:g}]"

    def _read_categories(self, array: Array, row: Array) -> str:
        if array.dtype.kind not in "iu":
            raise ValueError(f"has dtype {array.dtype} instead of an integer: {_short(array)}")
        outside = bool(((array < self.low) | (array > self.high)).any())
        known = np.clip(array, self.low, self.high) if outside else array
        np.copyto(row, known - self.low, casting="unsafe")
        return f"{_short(array)} is outside {_short(self.low)}..{_short(self.high)}" * outside


def _read_numbers(array: Array, row: Array) -> None:
    if array.dtype.kind not in "fiub":
        raise ValueError(f"has dtype {array.dtype} instead of {row.dtype}")
    if array.dtype.itemsize > row.dtype.itemsize:
        with np.errstate(over="ignore"):  # the result is infinite and refused below
            np.copyto(row, array, casting="unsafe")
    else:
        row[...] = array
    if not _is_finite(row):
        raise ValueError(f"is not finite: {_short(array)}")


def _is_finite(row: Array) -> bool:
    """Return whether all numbers are finite; of a few, a sum of Python's floats tells it sooner."""
    if row.ndim == 1 and row.size <= _FEW and math.isfinite(sum(row.tolist())):
        return True
    return bool(np.logical_and.reduce(np.isfinite(row), axis=None))  # as all(), in half the time


def _read_integers(array: Array, row: Array) -> None:
    if array.dtype != row.dtype:
        if array.dtype.kind not in "iub":
            raise ValueError(f"has dtype {array.dtype} instead of {row.dtype}: {_short(array)}")
        low, high = _range(row.dtype)
        if array.min(initial=0) < low or array.max(initial=0) > high:
            raise ValueError(f"does not fit {row.dtype}: {_short(array)}")
    np.copyto(row, array, casting="unsafe")


def as_array(value: Any) -> Array:
    """Return a value as an array; raise ``ValueError`` if NumPy cannot read it."""
    try:
        return np.asarray(value)
    except Exception as error:  # a tensor of any library may raise any error
        reason = " ".join(str(error).split())
        raise ValueError(
            f"is a {type(value).__name__} that NumPy cannot read ({reason}); return an array"
        ) from error


def read_number(value: Any) -> float:
    """Return a number, also of an array with one element; raise ``ValueError`` otherwise."""
    array = as_array(value)
    if array.size != 1 or array.dtype.kind not in "fiub":
        raise ValueError(f"is {_short(array)} instead of one number")
    return float(array.reshape(()))


def read_space(space: Space[Any], without: str = "") -> tuple[dict[str, Reader], dict[str, str]]:
    """Flatten an observation space into named leaves, in the space's own order.

    ``Dict`` and ``Tuple`` give names like ``player.pose`` and ``enemies.0``; anything else is one
    leaf named ``obs``. A name that the policy's graph uses itself gets the prefix ``obs.``.

    Returns:
        The readers of the leaves, except for the key ``without``; and the leaves that cannot be
        read, such as texts and leaves without elements, each with a reason.
    """
    result: dict[str, Reader] = {}
    left_out: dict[str, str] = {}
    for path, leaf in space_leaves(space):
        if (without and path == (without,)) or isinstance(leaf, LeftOut):
            continue
        name = ".".join(map(str, path)) or "obs"
        if name in _GRAPH_NAMES or name.startswith(("memory_", "next_memory_")):
            name = f"obs.{name}"
        if name in result:
            raise EnvironmentFault(f"observation leaf {name!r}: the name is taken; rename the leaf")
        if leaf.shape is not None and 0 in leaf.shape:
            left_out[name] = f"it has no elements: {leaf}"
        elif (reader := _reader(name, path, leaf)) is None:
            left_out[name] = (
                f"it is {type(leaf).__name__} and not Box, Discrete, MultiDiscrete, MultiBinary"
            )
        else:
            result[name] = reader
    if not result:
        reasons = "; ".join(f"{name!r}: {reason}" for name, reason in left_out.items())
        raise EnvironmentFault(f"no leaf of the observation space can be read: {reasons or space}")
    return result, left_out


def holds_mask(space: Space[Any], key: str, choices: int) -> bool:
    """Return whether an observation space holds an action mask.

    Args:
        space: The observation space.
        key: The name of the mask, at the top of a ``Dict``.
        choices: The numbers that a mask has; 0 if the actions have no choices.
    """
    if not choices or not isinstance(space, spaces.Dict) or key not in space.spaces:
        return False
    parts = [leaf for _, leaf in space_leaves(space.spaces[key])]
    if not all(isinstance(part, spaces.Box | spaces.MultiBinary) for part in parts):
        return False
    return sum(math.prod(part.shape or ()) for part in parts) == choices


def read_mask(value: Any, action: ActionSpec, row: Array) -> None:
    """Copy an action mask, or a batch of masks, into a row.

    Args:
        value: Numbers or booleans [..., choices]; a tuple of masks, which are concatenated; or
            masks nested like the action space. A component that nested masks leave out, or give
            as ``None``, has no invalid choices.
        action: The actions.
        row: The row [..., choices] to write, of bool.

    Raises:
        ValueError: The mask has another size or dtype.
    """
    batch = row.shape[:-1]
    nested = action.parts and isinstance(value, dict | tuple | list)
    parts = _mask_parts(value, action, batch) if nested else _flat(value, batch)
    array = np.concatenate(parts or [np.empty((*batch, 0))], axis=-1)
    if array.dtype.kind not in "biu":
        raise ValueError(f"is of {array.dtype}; give booleans, or whole numbers of which 0 is no")
    if array.shape != row.shape:
        raise ValueError(f"has shape {array.shape} instead of {row.shape}: one for each choice")
    np.not_equal(array, 0, out=row)


def _mask_parts(mask: Any, action: ActionSpec, batch: tuple[int, ...]) -> list[Array]:
    """Return the masks of all choices in their order, from masks nested like the space."""
    parts: list[Array] = []
    sizes = iter(action.sizes)
    for leaf in action.parts:
        if leaf.numbers:
            continue
        choices = sum(next(sizes) for _ in range(leaf.size))
        part = mask
        for key in leaf.path:
            part = _item(part, key)
        parts += [np.ones((*batch, choices), np.bool_)] if part is None else _flat(part, batch)
    return parts


def _item(mask: Any, key: str | int) -> Any:
    """Return a part of a nested mask, or ``None`` if it is left out."""
    if isinstance(mask, dict):
        return mask.get(key)
    if isinstance(mask, tuple | list) and isinstance(key, int) and key < len(mask):
        return mask[key]
    return None


def _flat(mask: Any, batch: tuple[int, ...]) -> list[Array]:
    if isinstance(mask, tuple | list):
        return [part for inner in mask for part in _flat(inner, batch)]
    array = as_array(mask)
    if array.shape[: len(batch)] != batch:
        raise ValueError(f"has {array.dtype} {array.shape} instead of one mask for each of {batch}")
    return [array.reshape((*batch, -1))]


def space_leaves(space: Space[Any], path: Path = ()) -> Iterator[tuple[Path, Space[Any]]]:
    """Yield the leaves of nested ``Dict`` and ``Tuple`` spaces, each with its path."""
    if isinstance(space, spaces.Dict):
        for key, inner in space.spaces.items():
            yield from space_leaves(inner, (*path, key))
    elif isinstance(space, spaces.Tuple):
        for index, inner in enumerate(space.spaces):
            yield from space_leaves(inner, (*path, index))
    else:
        yield path, space


def _reader(name: str, path: Path, space: Space[Any]) -> Reader | None:
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
    return None


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
