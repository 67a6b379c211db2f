"""Deltas of weights: what a client makes of one is known to the last bit, and never coarse."""

import zlib

import numpy as np
import pytest

from soulsai.errors import WireError
from soulsai.types import Head, Leaf, Program
from soulsai.wire.delta import COARSEST, decode_delta, encode_delta

LEAVES = {
    "kernel": Leaf((64, 3, 4), "<f4"), "w": Leaf((33, 70), "<f4"), "b": Leaf((70,), "<f4"),
    "none": Leaf((0, 4), "<f4"), "mean": Leaf((4, 2), "<f8"), "half": Leaf((5, 5), "<f2"),
    "steps": Leaf((), "<i8"), "seen": Leaf((3,), "|b1"),
}  # fmt: skip
PROGRAM = Program(b"", "weights", ("obs",), ("q",), Head("epsilon_greedy"), LEAVES)


def drawn(seed, base=None, change=1e-3):
    rng = np.random.default_rng(seed)
    arrays = {}
    for name, leaf in LEAVES.items():
        values = rng.standard_normal(leaf.shape)
        if base is not None and np.dtype(leaf.dtype).kind == "f":
            values = base[name] + change * values
        arrays[name] = np.asarray(values).astype(leaf.dtype)
    return arrays


def same(one, other):
    assert set(one) == set(other)
    for name, array in one.items():
        assert array.dtype == other[name].dtype
        assert array.shape == other[name].shape
        assert array.tobytes() == other[name].tobytes()


@pytest.mark.parametrize("seed", range(20))
def test_a_client_has_exactly_what_the_node_believes_it_has(seed):
    base = drawn(seed)
    new = drawn(seed + 100, base, change=10.0 ** -(seed % 8))
    encoded = encode_delta(base, new, PROGRAM)
    if seed % 8 == 0:
        assert encoded is None  # a change that large is coarser than half precision
        return
    data, received = encoded
    same(decode_delta(data, base, PROGRAM), received)
    for name, leaf in LEAVES.items():
        if leaf.dtype != "<f4" or len(leaf.shape) < 2:
            assert received[name].tobytes() == new[name].tobytes()
        elif received[name].size:
            error = np.abs(received[name] - new[name]).max()
            assert error <= 1.01 * COARSEST / 2 * np.abs(new[name]).max()


def test_the_rounding_is_that_of_single_floats_after_each_operation():
    base, new = drawn(1), drawn(2, drawn(1))
    data, received = encode_delta(base, new, PROGRAM)
    raw = zlib.decompress(data)
    rows, width = 64, 12
    scale = np.frombuffer(raw, "<f4", rows)
    numbers = np.frombuffer(raw, np.int8, rows * width, 4 * rows).reshape(rows, width)
    for row, column in ((0, 0), (17, 5), (63, 11)):
        change = np.float32(np.float64(scale[row]) * int(numbers[row, column]))
        moved = np.float32(np.float64(base["kernel"].reshape(rows, -1)[row, column]) + change)
        assert moved == received["kernel"].reshape(rows, -1)[row, column]


def test_a_delta_takes_a_quarter_of_the_bytes():
    leaves = {"w": Leaf((256, 256), "<f4")}
    program = Program(b"", "weights", ("obs",), ("q",), Head("epsilon_greedy"), leaves)
    rng = np.random.default_rng(0)
    base = {"w": rng.standard_normal((256, 256)).astype("<f4")}
    new = {"w": base["w"] + 1e-3 * rng.standard_normal((256, 256)).astype("<f4")}
    data, _ = encode_delta(base, new, program)
    assert len(data) < 0.27 * new["w"].nbytes
    alike, received = encode_delta(base, base, program)
    same(received, base)
    assert len(alike) < 0.01 * new["w"].nbytes


@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_numbers_that_are_not_finite_are_sent_whole(bad):
    base, new = drawn(1), drawn(2, drawn(1))
    new["w"][3, 4] = bad
    with np.errstate(invalid="ignore"):
        assert encode_delta(base, new, PROGRAM) is None


def test_a_change_from_nothing_is_sent_whole():
    base, new = drawn(1), drawn(2, drawn(1))
    base["w"][:] = 0.0
    assert encode_delta(base, new, PROGRAM) is None


def test_damage_is_refused():
    base = drawn(1)
    data, _ = encode_delta(base, drawn(2, base), PROGRAM)
    raw = zlib.decompress(data)
    for bad in (b"", b"no zlib", data[:-1], data[:50], zlib.compress(raw[:-1]),
                zlib.compress(raw + b"\0"), zlib.compress(bytes(10**8))):  # fmt: skip
        with pytest.raises(WireError, match="delta"):
            decode_delta(bad, base, PROGRAM)
