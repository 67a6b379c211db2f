"""Where every column of a fragment lies in its message: computed once per run and length."""

from collections.abc import Mapping
from typing import NamedTuple

import numpy as np

from soulsai.errors import Rejected, WireError
from soulsai.frame_stacks import FrameStack, stack_of
from soulsai.types import Array, Fragment, Leaf, RunSpec

# What may cross the wire. Object and string dtypes must never: an array over foreign bytes.
DTYPES = frozenset(
    ["|b1", "|u1", "|i1", "<u2", "<i2", "<u4", "<i4", "<u8", "<i8", "<f2", "<f4", "<f8"]
)
MAX_LEAF_BYTES = 64 * 2**20
REWARD = Leaf((), "<f4")


class WireColumn(NamedTuple):
    """One array in a message; ``bits`` marks booleans, eight to a byte.

    With ``rolls``, images are the same stack one frame later each, and travel as their frames.
    """

    name: str
    shape: tuple[int, ...]  # as it travels
    dtype: np.dtype[np.generic]
    bits: bool
    length: int  # in bytes, without padding
    offset: int  # from the beginning of the body; a multiple of 8
    rolls: FrameStack | None = None

    def read(self, data: bytes, body: int) -> Array:
        """Return the column as a read-only view into ``data`` (booleans are copied)."""
        if self.bits:
            packed = np.ndarray(self.length, np.uint8, data, body + self.offset)
            bits = np.unpackbits(packed, count=int(np.prod(self.shape)))
            array: Array = bits.view(np.bool_).reshape(self.shape)
        else:
            array = np.ndarray(self.shape, self.dtype, data, body + self.offset)
        return self.rolls.rolled(array) if self.rolls else array

    def write(self, value: Array) -> bytes:
        """Return the bytes of a column; raise ``WireError`` if its shape or dtype is another."""
        if self.rolls:
            value = self.rolls.unrolled(value)
        if value.shape != self.shape or value.dtype != self.dtype:
            raise WireError(
                f"column {self.name!r} is {value.dtype} {value.shape}, "
                f"not {self.dtype} {self.shape} as the run's spec says"
            )
        return np.packbits(value).tobytes() if self.bits else value.tobytes()


class FragmentColumns(NamedTuple):
    """All columns of a fragment of one length."""

    obs: tuple[WireColumn, ...]
    action: WireColumn
    reward: WireColumn
    extras: tuple[WireColumn, ...]
    memory: tuple[WireColumn, ...]
    size: int  # of the body


class Layout:
    """How the fragments of one run are laid out."""

    def __init__(self, spec: RunSpec) -> None:
        self.crc = spec.crc
        self.max_steps = spec.fragment_steps
        self.stacks = {
            name: stack for name, leaf in spec.spec.obs.items() if (stack := stack_of(leaf))
        }
        self._spec = spec
        self._plans: dict[tuple[int, bool], FragmentColumns] = {}

    def plan(self, steps: int, *, rolls: bool) -> FragmentColumns:
        """Return the columns of a fragment of ``steps`` steps; raise ``Rejected`` if too many.

        With ``rolls``, stacks of frames travel as their frames.
        """
        found = self._plans.get((steps, rolls))
        if found is None:
            if not 1 <= steps <= self.max_steps:
                raise Rejected("steps", f"{steps} steps in a fragment of 1 to {self.max_steps}")
            stacks = self.stacks if rolls else {}
            found = self._plans[steps, rolls] = plan(self._spec, steps, stacks)
        return found

    def rolls(self, fragment: Fragment) -> bool:
        """Say whether a fragment's stacks of frames can travel as their frames."""
        seen = [(fragment.obs[name], stack) for name, stack in self.stacks.items()]
        return bool(seen) and all(
            obs.shape[1:] == stack.shape and stack.rolls(obs) for obs, stack in seen
        )


def plan(spec: RunSpec, steps: int, stacks: Mapping[str, FrameStack]) -> FragmentColumns:
    """Return the columns of a fragment, one after another; ``stacks`` travel as their frames."""
    end = 0

    def column(name: str, leaf: Leaf, *rows: int, rolls: FrameStack | None = None) -> WireColumn:
        nonlocal end
        dtype = dtype_of(name, leaf)
        shape = (*rows, *leaf.shape)
        if rolls:
            shape = (rows[0] + rolls.depth - 1, rolls.height, rolls.width)
        count = int(np.prod(shape, dtype=object))
        bits = dtype == np.bool_
        length = -(-count // 8) if bits else count * dtype.itemsize
        placed = WireColumn(name, shape, dtype, bits, length, end, rolls)
        end += padded(length)
        return placed

    obs = tuple(
        column(name, leaf, steps + 1, rolls=stacks.get(name))
        for name, leaf in spec.spec.obs.items()
    )
    action = column("action", spec.spec.action.leaf, steps)
    reward = column("reward", REWARD, steps)
    extras = tuple(column(name, leaf, steps) for name, leaf in spec.extras.items())
    memory = tuple(column(name, leaf) for name, leaf in spec.memory.items())
    return FragmentColumns(obs, action, reward, extras, memory, end)


def dtype_of(name: str, leaf: Leaf) -> np.dtype[np.generic]:
    """Return the dtype of a foreign leaf; raise ``WireError`` if it is not one we take."""
    if leaf.dtype not in DTYPES:
        raise WireError(f"{name!r} has dtype {leaf.dtype!r}; choose one of {sorted(DTYPES)}")
    if any(size < 0 for size in leaf.shape):
        raise WireError(f"{name!r} has shape {leaf.shape}")
    dtype = np.dtype(leaf.dtype)
    size = int(np.prod(leaf.shape, dtype=object)) * dtype.itemsize
    if size > MAX_LEAF_BYTES:
        raise WireError(
            f"{name!r} of shape {leaf.shape} takes {size >> 20} MiB;"
            f" one array may take {MAX_LEAF_BYTES >> 20} MiB"
        )
    return dtype


def padded(size: int) -> int:
    """Return the next multiple of 8, so that every column can be read where it lies."""
    return (size + 7) & ~7
