"""One part's state as a file of the safetensors format, restored bit by bit.

Arrays are the file's tensors, named after their place in the state. The ``tree`` in the file's
metadata is JSON with all other values; an array in it is ``{"$array": [dtype, shape, name]}`` or
``{"$tensor": ...}``, a NumPy scalar ``{"$scalar": ...}``, a tuple ``{"$tuple": [...]}``, and a
dict with other keys than plain strings ``{"$dict": [[key, value], ...]}``. Values of a dtype that
the format lacks are tensors of bytes.

See https://huggingface.co/docs/safetensors for the format. Files of earlier releases, which have
an offset in place of the name, can be read.
"""

import json
import math
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import safetensors
import torch

from soulsai.errors import CheckpointError
from soulsai.types import Array

OLD_ALIGNMENT = 64  # of arrays in files of earlier releases
NATIVE = {  # dtypes of the format, by NumPy's names
    "<f8": "F64", "<f4": "F32", "<f2": "F16", "<i8": "I64", "<i4": "I32", "<i2": "I16",
    "|i1": "I8", "|u1": "U8", "<u2": "U16", "<u4": "U32", "<u8": "U64", "|b1": "BOOL",
}  # fmt: skip
DTYPES: dict[str, tuple[torch.dtype, str]] = {  # of torch, by name, and those of the format
    str(dtype): (dtype, name)
    for dtype, name in (
        (torch.float64, "F64"),
        (torch.float32, "F32"),
        (torch.float16, "F16"),
        (torch.bfloat16, "BF16"),
        (torch.int64, "I64"),
        (torch.int32, "I32"),
        (torch.int16, "I16"),
        (torch.int8, "I8"),
        (torch.uint8, "U8"),
        (torch.uint16, "U16"),
        (torch.uint32, "U32"),
        (torch.uint64, "U64"),
        (torch.bool, "BOOL"),
        (torch.complex64, ""),
        (torch.complex128, ""),
    )
}


def encode(state: Any) -> list[memoryview]:
    """Return the file's content in pieces; arrays are not copied unless they must be.

    Args:
        state: Nested dicts, lists and tuples of tensors, arrays, numbers and strings.

    Raises:
        CheckpointError: A value cannot be saved.
    """
    writer = _Writer()
    header: dict[str, Any] = {"__metadata__": {"tree": json.dumps(writer.tree(state, ()))}}
    end, pieces = 0, []
    # The format has no gaps, so only the larger elements first are all aligned.
    by_size = sorted(writer.arrays.items(), key=lambda item: -item[1].itemsize)
    for name, array in by_size:
        start, end = end, end + array.data.nbytes
        header[name] = {"dtype": array.dtype, "shape": array.shape, "data_offsets": [start, end]}
        pieces.append(array.data)
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    return [memoryview(len(text).to_bytes(8, "little") + text), *pieces]


def decode(data: bytes) -> Any:
    """Return the state that ``encode`` was given; arrays are fresh and writeable.

    Raises:
        CheckpointError: The data are not of this format.
    """
    try:
        end = 8 + int.from_bytes(data[:8], "little")
        tree = json.loads(data[8:end])
        if isinstance(tree, dict) and "__metadata__" in tree:
            found = safetensors.deserialize(data)  # type: ignore[no-untyped-call]
            arrays = {name: view["data"] for name, view in found}
            return _read(json.loads(tree["__metadata__"]["tree"]), lambda name, _: arrays[name])
        old = memoryview(data)[end + (-end % OLD_ALIGNMENT) :]
        return _read(tree, lambda start, size: bytearray(old[start : start + size]))
    except (
        *(ValueError, KeyError, TypeError, IndexError, AttributeError, RecursionError),
        *(OverflowError, RuntimeError, safetensors.SafetensorError),
    ) as error:
        raise CheckpointError(f"a state file cannot be read: {error}") from error


class _Stored:
    """An array as the file has it."""

    def __init__(self, flat: Array, dtype: str, shape: list[int], itemsize: int) -> None:
        self.data = flat.data
        self.dtype = dtype or "U8"
        self.shape = shape if dtype else [len(flat)]
        self.itemsize = itemsize if dtype else 1


class _Writer:
    """Turns values into JSON, and sets arrays aside."""

    def __init__(self) -> None:
        self.arrays: dict[str, _Stored] = {}

    def tree(self, value: Any, where: tuple[str, ...]) -> Any:
        if value is None or isinstance(value, str) or type(value) in (bool, int, float):
            return value
        if isinstance(value, torch.Tensor):
            return {"$tensor": self._tensor(value, where)}
        if isinstance(value, np.ndarray):
            return {"$array": self._array(value, where)}
        if isinstance(value, np.generic):
            return {"$scalar": self._array(np.asarray(value), where)}
        if isinstance(value, tuple):
            return {"$tuple": self._items(value, where)}
        if isinstance(value, list):
            return self._items(value, where)
        if isinstance(value, Mapping):
            pairs = [[key, self.tree(item, (*where, str(key)))] for key, item in value.items()]
            if all(isinstance(key, str) and not key.startswith("$") for key in value):
                return dict(pairs)
            return {"$dict": [[self.tree(key, ()), item] for key, item in pairs]}
        raise CheckpointError(f"a {type(value).__name__} cannot be saved in a checkpoint")

    def _items(self, items: list[Any] | tuple[Any, ...], where: tuple[str, ...]) -> list[Any]:
        return [self.tree(item, (*where, str(index))) for index, item in enumerate(items)]

    def _tensor(self, value: torch.Tensor, where: tuple[str, ...]) -> list[Any]:
        dtype = str(value.dtype)
        if dtype not in DTYPES:
            raise CheckpointError(f"a tensor of {dtype} cannot be saved in a checkpoint")
        flat = value.detach().cpu().contiguous().reshape(-1)
        if not len(flat):  # whose stride may be anything, even none that can be viewed
            flat = flat.new_empty(0)
        data = flat.view(torch.uint8).numpy()
        shape = list(value.shape)
        stored = _Stored(data, DTYPES[dtype][1], shape, value.element_size())
        return [dtype, shape, self._set_aside(stored, where)]

    def _array(self, value: Array, where: tuple[str, ...]) -> list[Any]:
        if value.dtype.hasobject or value.dtype.names is not None:
            raise CheckpointError(f"an array of {value.dtype} cannot be saved in a checkpoint")
        dtype, shape = value.dtype.str, list(value.shape)
        flat = np.ascontiguousarray(value).reshape(-1).view(np.uint8)
        stored = _Stored(flat, NATIVE.get(dtype, ""), shape, value.itemsize)
        return [dtype, shape, self._set_aside(stored, where)]

    def _set_aside(self, stored: _Stored, where: tuple[str, ...]) -> str:
        name = ".".join(where) or "value"
        while name in self.arrays or name == "__metadata__":
            name += "_"
        self.arrays[name] = stored
        return name


Find = Callable[[Any, int], bytearray]  # (name or offset, size in bytes)


def _read(tree: Any, find: Find) -> Any:
    if isinstance(tree, list):
        return [_read(item, find) for item in tree]
    if not isinstance(tree, dict):
        return tree
    if len(tree) == 1:
        ((key, value),) = tree.items()
        if key == "$tuple":
            return tuple(_read(value, find))
        if key == "$dict":
            return {_read(key, find): _read(item, find) for key, item in value}
        if key == "$tensor":
            dtype, shape, place = value
            dtype = DTYPES[dtype][0]
            flat = _bytes(find, place, math.prod(shape) * dtype.itemsize)
            return torch.from_numpy(flat).view(dtype).reshape(shape)
        if key in ("$array", "$scalar"):
            dtype, shape, place = value
            dtype = np.dtype(dtype)
            array = _bytes(find, place, math.prod(shape) * dtype.itemsize).view(dtype)
            return array.reshape(shape) if key == "$array" else array.reshape(shape)[()]
    return {key: _read(item, find) for key, item in tree.items()}


def _bytes(find: Find, place: Any, size: int) -> Array:
    data = find(place, size)
    if len(data) != size:
        raise ValueError("an array reaches beyond the end of the file")
    return np.frombuffer(data, np.uint8)
