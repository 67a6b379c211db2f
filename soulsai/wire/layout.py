"""Offsets of a fragment's columns in its message, computed once per run and length."""

from collections.abc import Mapping
from typing import NamedTuple

import numpy as np

from soulsai.errors import Rejected, WireError
from soulsai.frame_stacks import FrameStack, stack_of
from soulsai.types import Array, Fragment, Leaf, RunSpec

# Permitted dtypes. Object and string dtypes are unsafe on bytes of another machine.
DTYPES = frozenset(
    ["|b1", "|u1", "|i1", "<u2", "<i2", "<u4", "<i4", "<u8", "<i8", "<f2", "<f4", "<f8"]
)
MAX_LEAF_BYTES = 64 * 2**20
REWARD = Leaf((), "<f4")
INTERVENED = Leaf((), "|b1")


class WireColumn(NamedTuple):
    """One array in a message; ``bits`` marks booleans, eight to a byte.

    With ``rolls``, each stack is the one before shifted by a frame, and only frames are sent.
    """

    name: str
    shape: tuple[int, ...]  # as it is sent
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
        """Return the bytes of a column; raise ``WireError`` if shape or dtype differ."""
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
    intervened: WireColumn | None
    size: int  # of the body


class Layout:
    """The layout of one run's fragments."""

    def __init__(self, spec: RunSpec) -> None:
        self.crc = spec.crc
        self.max_steps = spec.fragment_steps
        self.stacks = {
            name: stack for name, leaf in spec.spec.obs.items() if (stack := stack_of(leaf))
        }
        self._spec = spec
        self.interventions = spec.interventions
        self._plans: dict[tuple[int, bool, bool], FragmentColumns] = {}

    def plan(self, steps: int, *, rolls: bool, intervened: bool = False) -> FragmentColumns:
        """Return the columns of a fragment; raise ``Rejected`` if it has too many steps.

        Args:
            steps: Number of steps.
            rolls: Whether the frames of stacks are sent instead of the stacks.
            intervened: Whether the steps that a person chose are marked.
        """
        found = self._plans.get((steps, rolls, intervened))
        if found is None:
            if not 1 <= steps <= self.max_steps:
                raise Rejected("steps", f"{steps} steps in a fragment of 1 to {self.max_steps}")
            stacks = self.stacks if rolls else {}
            found = plan(self._spec, steps, stacks, intervened=intervened)
            self._plans[steps, rolls, intervened] = found
        return found

    def rolls(self, fragment: Fragment) -> bool:
        """Return whether the frames of a fragment's stacks can be sent instead of the stacks."""
        stacked = [(fragment.obs[name], stack) for name, stack in self.stacks.items()]
        return bool(stacked) and all(
            obs.shape[1:] == stack.shape and stack.rolls(obs) for obs, stack in stacked
        )


def plan(
    spec: RunSpec, steps: int, stacks: Mapping[str, FrameStack], *, intervened: bool = False
) -> FragmentColumns:
    """Return the columns of a fragment, one after another.

    Args:
        spec: The run.
        steps: Number of steps.
        stacks: Observations of which the frames are sent, by name.
        intervened: Whether a last column marks the steps that a person chose.
    """
    end = 0

    def _column(name: str, leaf: Leaf, *rows: int, rolls: FrameStack | None = None) -> WireColumn:
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
        _column(name, leaf, steps + 1, rolls=stacks.get(name))
        for name, leaf in spec.spec.obs.items()
    )
    action = _column("action", spec.spec.action.leaf, steps)
    reward = _column("reward", REWARD, steps)
    extras = tuple(_column(name, leaf, steps) for name, leaf in spec.extras.items())
    memory = tuple(_column(name, leaf) for name, leaf in spec.memory.items())
    marks = _column("intervened", INTERVENED, steps) if intervened else None
    return FragmentColumns(obs, action, reward, extras, memory, marks, end)


def dtype_of(name: str, leaf: Leaf) -> np.dtype[np.generic]:
    """Return the dtype of a received leaf; raise ``WireError`` if it is not permitted."""
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
    """Return the next multiple of 8, the alignment of every column."""
    return (size + 7) & ~7
