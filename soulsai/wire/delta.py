"""Versions of the weights as differences to an earlier whole one, in a quarter of the bytes.

Of each matrix of single floats, a delta has one scale for each row and whole numbers of 8 bits;
all other arrays it has whole. A client acts with ``base + scale * number``, rounded to a single
float after each of the two operations, as every language can: so it is known to the last bit.
"""

import zlib

import numpy as np

from soulsai.errors import WireError
from soulsai.types import Array, Leaf, Pointer, Program, Weights
from soulsai.wire.layout import dtype_of
from soulsai.wire.weights import digest, encode_weights

STEPS = 127  # of a number, in each direction
COARSEST = 2.0**-10  # a scale, relative to the matrix: half precision rounds its largest number so
_LEVEL = 1  # of zlib: higher ones save hardly more

Arrays = dict[str, Array]


def encode_delta(base: Arrays, arrays: Arrays, program: Program) -> tuple[bytes, Arrays] | None:
    """Return a delta, and the arrays with which clients will act.

    Args:
        base: Arrays of the whole version, as clients have them.
        arrays: Arrays of the new one.
        program: Shapes and dtypes by name.

    Returns:
        ``None`` if the delta would be coarser than half precision.
    """
    parts: list[bytes] = []
    received: Arrays = {}
    for name, leaf in program.weights.items():
        array = arrays[name]
        if not _is_matrix(name, leaf):
            parts.append(array.tobytes())
            received[name] = array
            continue
        with np.errstate(over="ignore", invalid="ignore"):  # it is looked for below
            change = (array - base[name]).reshape(len(array), _width(leaf))
        scale = np.abs(change).max(1, initial=0.0) / np.float32(STEPS)
        coarsest = COARSEST * np.abs(array).max(initial=0.0)
        if not scale.max(initial=0.0) <= coarsest < np.inf:
            return None
        steps = np.rint(change / np.where(scale > 0.0, scale, 1.0)[:, None])
        numbers = steps.clip(-STEPS, STEPS).astype(np.int8)
        parts += [scale.astype("<f4").tobytes(), numbers.tobytes()]
        received[name] = _moved(base[name], scale, numbers)
    return zlib.compress(b"".join(parts), _LEVEL), received


def weights_by_delta(data: bytes, pointer: Pointer, base: Arrays, program: Program) -> Weights:
    """Return the version that a pointer names, from its delta.

    Args:
        data: All pieces of the delta, joined.
        pointer: The pointer; its digest is that of the whole version, so it covers the base, too.
        base: Arrays of the whole version that the delta is the difference to.
        program: Shapes and dtypes by name.

    Raises:
        WireError: The data are not those of this version.
    """
    weights = Weights(
        run=pointer.run,
        generation=pointer.generation,
        version=pointer.version,
        arrays=decode_delta(data, base, program),
        quota=pointer.quota,
        exploration=pointer.exploration,
        dtype=pointer.dtype,
    )
    if digest(encode_weights(weights, program, pointer.dtype)) != pointer.sha256:
        raise WireError(f"weights {pointer.generation}-{pointer.version} arrived damaged")
    return weights


def decode_delta(data: bytes, base: Arrays, program: Program) -> Arrays:
    """Return the arrays of a version.

    Args:
        data: All pieces of the delta, joined.
        base: Arrays of the whole version that it is the difference to.
        program: Shapes and dtypes by name.

    Raises:
        WireError: The data are no delta of this program.
    """
    size = sum(_bytes(name, leaf) for name, leaf in program.weights.items())
    unpacked = zlib.decompressobj()
    try:
        raw = unpacked.decompress(data, size + 1)
    except zlib.error as error:
        raise WireError(f"a delta of the weights is damaged: {error}") from error
    if len(raw) != size or not unpacked.eof:
        raise WireError(f"a delta of the weights has {len(raw)} bytes or more, where {size} belong")
    arrays: Arrays = {}
    at = 0
    for name, leaf in program.weights.items():
        if _is_matrix(name, leaf):
            rows = leaf.shape[0]
            scale: Array = np.ndarray((rows,), "<f4", raw, at)
            numbers: Array = np.ndarray((rows, _width(leaf)), np.int8, raw, at + scale.nbytes)
            arrays[name] = _moved(base[name], scale, numbers)
        else:
            arrays[name] = np.ndarray(leaf.shape, dtype_of(name, leaf), raw, at)
        at += _bytes(name, leaf)
    return arrays


def _moved(base: Array, scale: Array, numbers: Array) -> Array:
    change = scale.astype(np.float32)[:, None] * numbers.astype(np.float32)
    moved: Array = base + change.reshape(base.shape)
    return moved


def _is_matrix(name: str, leaf: Leaf) -> bool:
    return dtype_of(name, leaf) == np.dtype("<f4") and len(leaf.shape) > 1


def _width(leaf: Leaf) -> int:
    return int(np.prod(leaf.shape[1:], dtype=int))


def _bytes(name: str, leaf: Leaf) -> int:
    if _is_matrix(name, leaf):
        return leaf.shape[0] * (4 + _width(leaf))
    return int(np.prod(leaf.shape, dtype=int)) * dtype_of(name, leaf).itemsize
