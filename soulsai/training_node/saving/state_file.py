"""Any part's state as one file, exactly: a JSON tree of what is small, and raw bytes of arrays.

The file is an 8-byte little-endian length, the tree, and the arrays, each at a multiple of 64.
A tree is plain JSON except for objects with one key that begins with ``$``:
``{"$tensor": [dtype, shape, offset]}``, ``{"$array": ...}``, ``{"$scalar": ...}``,
``{"$tuple": [...]}``, and ``{"$dict": [[key, value], ...]}`` where keys are not plain strings.
"""

import json
import math
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import torch

from soulsai.errors import CheckpointError
from soulsai.types import Array

ALIGNMENT = 64
DTYPES: dict[str, torch.dtype] = {
    str(dtype): dtype
    for dtype in (
        torch.float64,
        torch.float32,
        torch.float16,
        torch.bfloat16,
        torch.int64,
        torch.int32,
        torch.int16,
        torch.int8,
        torch.uint8,
        torch.uint16,
        torch.uint32,
        torch.uint64,
        torch.bool,
        torch.complex64,
        torch.complex128,
    )
}


def encode(state: Any) -> list[memoryview]:
    """Return the file's content in pieces; arrays are not copied unless they must be."""
    writer = _Writer()
    tree = json.dumps(writer.tree(state), separators=(",", ":")).encode()
    start = 8 + len(tree)
    head = len(tree).to_bytes(8, "little") + tree + bytes(-start % ALIGNMENT)
    return [memoryview(head), *writer.pieces]


def decode(data: bytes | bytearray | memoryview) -> Any:
    """Return what ``encode`` was given; arrays are fresh and writeable."""
    view = memoryview(data)
    try:
        length = int.from_bytes(view[:8], "little")
        tree = json.loads(bytes(view[8 : 8 + length]))
        start = 8 + length
        return _read(tree, view[start + (-start % ALIGNMENT) :])
    except (ValueError, KeyError, TypeError, IndexError, RecursionError) as error:
        raise CheckpointError(f"a state file cannot be read: {error}") from error


class _Writer:
    """Turns values into JSON, and sets arrays aside."""

    def __init__(self) -> None:
        self.pieces: list[memoryview] = []
        self.offset = 0

    def tree(self, value: Any) -> Any:
        """Return ``value`` as JSON; raise ``CheckpointError`` for what cannot be saved."""
        if value is None or isinstance(value, str) or type(value) in (bool, int, float):
            return value
        if isinstance(value, torch.Tensor):
            return {"$tensor": self._tensor(value)}
        if isinstance(value, np.ndarray):
            return {"$array": self._array(value)}
        if isinstance(value, np.generic):
            return {"$scalar": self._array(np.asarray(value))}
        if isinstance(value, tuple):
            return {"$tuple": [self.tree(item) for item in value]}
        if isinstance(value, list):
            return [self.tree(item) for item in value]
        if isinstance(value, Mapping):
            return self._mapping(value)
        raise CheckpointError(f"a {type(value).__name__} cannot be saved in a checkpoint")

    def _mapping(self, value: Mapping[Any, Any]) -> Any:
        if all(isinstance(key, str) and not key.startswith("$") for key in value):
            return {key: self.tree(item) for key, item in value.items()}
        return {"$dict": [[self.tree(key), self.tree(item)] for key, item in value.items()]}

    def _tensor(self, value: torch.Tensor) -> list[Any]:
        name = str(value.dtype)
        if name not in DTYPES:
            raise CheckpointError(f"a tensor of {name} cannot be saved in a checkpoint")
        flat = value.detach().cpu().contiguous().reshape(-1)
        if not len(flat):  # whose stride may be anything, even none that can be viewed
            flat = flat.new_empty(0)
        return [name, list(value.shape), self._set_aside(flat.view(torch.uint8).numpy())]

    def _array(self, value: Array) -> list[Any]:
        if value.dtype.hasobject or value.dtype.names is not None:
            raise CheckpointError(f"an array of {value.dtype} cannot be saved in a checkpoint")
        flat = np.ascontiguousarray(value).reshape(-1).view(np.uint8)
        return [value.dtype.str, list(value.shape), self._set_aside(flat)]

    def _set_aside(self, flat: Array) -> int:
        offset = self.offset
        padding = -len(flat) % ALIGNMENT
        self.pieces += [flat.data, memoryview(bytes(padding))]
        self.offset += len(flat) + padding
        return offset


def _read(tree: Any, data: memoryview) -> Any:
    if isinstance(tree, list):
        return [_read(item, data) for item in tree]
    if not isinstance(tree, dict):
        return tree
    if len(tree) == 1:
        ((key, value),) = tree.items()
        if key in _READERS:
            return _READERS[key](value, data)
    return {key: _read(item, data) for key, item in tree.items()}


def _piece(dtype: np.dtype[Any], shape: list[int], offset: int, data: memoryview) -> Array:
    size = math.prod(shape) * dtype.itemsize
    if offset < 0 or offset + size > len(data):
        raise ValueError("an array reaches beyond the end of the file")
    return np.frombuffer(bytearray(data[offset : offset + size]), dtype).reshape(shape)


def _read_array(value: list[Any], data: memoryview) -> Array:
    dtype, shape, offset = value
    return _piece(np.dtype(dtype), shape, offset, data)


def _read_scalar(value: list[Any], data: memoryview) -> Any:
    return _read_array(value, data)[()]


def _read_tensor(value: list[Any], data: memoryview) -> torch.Tensor:
    name, shape, offset = value
    dtype = DTYPES[name]
    flat = _piece(np.dtype(np.uint8), [math.prod(shape) * dtype.itemsize], offset, data)
    return torch.from_numpy(flat).view(dtype).reshape(shape)


def _read_tuple(value: list[Any], data: memoryview) -> tuple[Any, ...]:
    return tuple(_read(item, data) for item in value)


def _read_dict(value: list[Any], data: memoryview) -> dict[Any, Any]:
    return {_read(key, data): _read(item, data) for key, item in value}


_READERS: dict[str, Callable[[Any, memoryview], Any]] = {
    "$tensor": _read_tensor,
    "$array": _read_array,
    "$scalar": _read_scalar,
    "$tuple": _read_tuple,
    "$dict": _read_dict,
}
