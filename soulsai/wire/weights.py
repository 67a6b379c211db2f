"""Digest of the policy's program, and its weights as one checked block of bytes."""

import hashlib

import numpy as np

from soulsai.errors import WireError
from soulsai.types import Array, Leaf, Pointer, Program, Weights, WeightsDtype
from soulsai.wire.codec import encode
from soulsai.wire.layout import dtype_of, padded

PIECE_BYTES = 2**20  # per key; servers limit the length of a string


def program_digest(program: Program) -> str:
    """Return the digest of an encoded program, as in ``RunSpec.program_sha256``."""
    return digest(encode(program))


def digest(data: bytes) -> str:
    """Return the SHA-256 of bytes in hexadecimal."""
    return hashlib.sha256(data).hexdigest()


def encode_weights(weights: Weights, program: Program, dtype: WeightsDtype = "float32") -> bytes:
    """Return the arrays of a version in the order of the program.

    Args:
        weights: Arrays by name.
        program: Shapes and dtypes by name.
        dtype: ``float16`` sends matrices, floating-point arrays of two axes or more, in half the
            bytes; the rest is small, and statistics of observations need their precision.

    Raises:
        WireError: Weights and program do not match.
    """
    if set(weights.arrays) != set(program.weights):
        odd = sorted(set(weights.arrays) ^ set(program.weights))
        raise WireError(f"weights and program do not have the same arrays: {', '.join(odd)}")
    parts: list[bytes] = []
    for name, leaf in program.weights.items():
        array = weights.arrays[name]
        if array.shape != leaf.shape or array.dtype != dtype_of(name, leaf):
            raise WireError(
                f"weights {name!r} are {array.dtype} {array.shape}, "
                f"not {leaf.dtype} {leaf.shape} as the program says"
            )
        data = array.astype(_wire_dtype(name, leaf, dtype), copy=False).tobytes()
        parts.append(data.ljust(padded(len(data)), b"\0"))
    return b"".join(parts)


def decode_weights(data: bytes, pointer: Pointer, program: Program) -> Weights:
    """Return the weights; arrays are read-only views into ``data``, unless sent as ``float16``.

    Args:
        data: All pieces of the version, joined.
        pointer: Size, digest and dtype of the version.
        program: Shapes and dtypes by name.

    Raises:
        WireError: The data do not match the pointer or the program.
    """
    if len(data) != pointer.bytes or digest(data) != pointer.sha256:
        raise WireError(f"weights {pointer.generation}-{pointer.version} arrived damaged")
    if len(data) != weights_bytes(program, pointer.dtype):
        raise WireError(f"weights {pointer.generation}-{pointer.version} are of another program")
    arrays: dict[str, Array] = {}
    at = 0
    for name, leaf in program.weights.items():
        dtype = _wire_dtype(name, leaf, pointer.dtype)
        array: Array = np.ndarray(leaf.shape, dtype, data, at)
        arrays[name] = array.astype(leaf.dtype, copy=False)
        at += padded(array.nbytes)
    return Weights(
        run=pointer.run,
        generation=pointer.generation,
        version=pointer.version,
        arrays=arrays,
        quota=pointer.quota,
        exploration=pointer.exploration,
    )


def weights_bytes(program: Program, dtype: WeightsDtype = "float32") -> int:
    """Return the size of a program's weights in bytes."""
    return sum(
        padded(int(np.prod(leaf.shape)) * _wire_dtype(name, leaf, dtype).itemsize)
        for name, leaf in program.weights.items()
    )


def as_received(
    arrays: dict[str, Array], program: Program, dtype: WeightsDtype
) -> tuple[dict[str, Array], WeightsDtype]:
    """Return arrays as clients will have them, and the dtype to send them in.

    Args:
        arrays: Arrays by name, as the program says.
        program: Shapes and dtypes by name.
        dtype: The wanted dtype; a version whose numbers exceed its range is sent as ``float32``.
    """
    if dtype == "float32":
        return arrays, dtype
    received = {}
    for name, leaf in program.weights.items():
        with np.errstate(over="ignore"):  # it is looked for below
            sent = arrays[name].astype(_wire_dtype(name, leaf, dtype), copy=False)
        if sent.dtype.kind == "f" and not np.isfinite(sent).all():
            return arrays, "float32"
        received[name] = sent.astype(leaf.dtype, copy=False)
    return received, dtype


def _wire_dtype(name: str, leaf: Leaf, dtype: WeightsDtype) -> np.dtype[np.generic]:
    own, is_matrix = dtype_of(name, leaf), len(leaf.shape) > 1
    return np.dtype("<f2") if dtype == "float16" and own.kind == "f" and is_matrix else own
