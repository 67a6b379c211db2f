"""Whatever bytes a client sends: they are a message, or they are rejected, and cheaply."""

import struct
import tracemalloc

import lz4.block
import msgspec
import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from soulsai.errors import Rejected, WireError
from soulsai.types import (
    PROTOCOL,
    Episode,
    Head,
    Heartbeat,
    Hello,
    Leaf,
    Pointer,
    Program,
    RunSpec,
    Weights,
)
from soulsai.wire.codec import (
    ENTRY_BYTES,
    RAW_BYTES,
    decode,
    decode_entry,
    encode,
    encode_message,
    pack,
)
from soulsai.wire.weights import decode_weights, digest, encode_weights
from tests.unit.wire.test_codec import (
    FRAMES_LAST,
    RICH,
    SPEC,
    entry,
    random_fragment,
    rolling_fragment,
)

HEAD = struct.Struct("<BBHI")
MESSAGES = [
    encode_message(random_fragment(RICH, 9), RICH),
    encode_message(Episode(1, 2, 3, -4.0, 5, 6.0, True, False, 0.1, {"x": 1.0}), RICH),
    encode_message(Heartbeat(1, 2, 3, 4, 5), RICH),
    encode_message(Hello("run-1", PROTOCOL, "0.1", "env", 1, RICH.crc), RICH),
]
VALID = pack(MESSAGES)
STILL = {name: np.zeros((65, *leaf.shape), leaf.dtype) for name, leaf in RICH.spec.obs.items()}
COMPRESSED = pack([encode_message(random_fragment(RICH, 64, obs=STILL), RICH)])


def framed(raw: bytes, count: int = 1, flags: int = 0, size: int | None = None) -> bytes:
    return HEAD.pack(1, flags, count, len(raw) if size is None else size) + raw


def rejected(data: bytes | None) -> str:
    with pytest.raises(Rejected) as caught:
        decode_entry(entry(data), RICH)
    return caught.value.reason


def judge(data: bytes) -> None:
    """Decode: everything but a rejection and well-formed messages fails the test."""
    try:
        messages = decode_entry(entry(data), RICH)
    except Rejected:
        return
    for message in messages:
        if not isinstance(message, Episode | Heartbeat | Hello):
            assert 1 <= len(message) <= RICH.fragment_steps
            for name, leaf in RICH.spec.obs.items():
                assert message.obs[name].shape == (len(message) + 1, *leaf.shape)
                assert message.obs[name].dtype == leaf.dtype


@st.composite
def mutations(draw):
    """Bytes that were valid: flipped, cut, repeated, spliced, some with sizes that still agree."""
    assert COMPRESSED[1] == 1
    data = bytearray(draw(st.sampled_from([VALID, COMPRESSED, *map(framed, MESSAGES)])))
    for _ in range(draw(st.integers(1, 4))):
        at = draw(st.integers(0, max(0, len(data) - 1)))
        kind = draw(st.sampled_from(["flip", "set", "cut", "insert", "number", "double"]))
        if kind == "flip" and data:
            data[at] ^= 1 << draw(st.integers(0, 7))
        elif kind == "set":
            data[at : at + 8] = draw(st.binary(min_size=1, max_size=8))
        elif kind == "cut":
            del data[at : at + draw(st.integers(1, 64))]
        elif kind == "insert":
            data[at:at] = draw(st.binary(max_size=64))
        elif kind == "number":
            data[at : at + 4] = struct.pack("<I", draw(st.sampled_from([0, 1, 2**31, 2**32 - 1])))
        else:
            data += data[8:]
    if draw(st.booleans()) and len(data) >= HEAD.size:
        data[4:8] = struct.pack("<I", len(data) - HEAD.size)
    return bytes(data)


@settings(max_examples=1500, deadline=None)
@given(mutations())
def test_a_damaged_entry_is_rejected_or_still_well_formed(data):
    judge(data)


@settings(max_examples=500, deadline=None)
@given(st.binary(max_size=300))
@example(b"")
@example(framed(b"\xff" * 64))
def test_any_bytes_are_rejected_or_well_formed(data):
    judge(data)
    judge(framed(data))
    judge(framed(lz4.block.compress(data, store_size=False), 1, 1, len(data)))


@settings(max_examples=500, deadline=None)
@given(st.binary(max_size=200), st.integers(0, 255))
def test_any_header_of_any_kind_is_rejected_or_well_formed(header, kind):
    size = -(-(12 + len(header)) // 8) * 8
    head = struct.pack("<IIHBx", RICH.crc, size, len(header), kind)
    judge(framed((head + header).ljust(size, b"\0")))


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (None, "fields"),
        (b"", "size"),
        (bytes(ENTRY_BYTES + 1), "size"),
        (b"\x02" + VALID[1:], "frame"),
        (VALID[:1] + b"\x02" + VALID[2:], "frame"),
        (framed(b"".join(MESSAGES), count=0), "frame"),
        (framed(b"".join(MESSAGES), count=257), "frame"),
        (framed(b"".join(MESSAGES), count=3), "length"),
        (framed(b"".join(MESSAGES), count=5), "length"),
        (VALID + b"\0", "length"),
        (framed(b"", size=RAW_BYTES + 1), "size"),
        (framed(b"x" * 64, flags=1), "lz4"),
        (framed(MESSAGES[0][:4] + b"\xf8\xff\xff\xff" + MESSAGES[0][8:]), "length"),
        (framed(struct.pack("<IIHBx", RICH.crc, 16, 4, 9) + bytes(4)), "kind"),
        (framed(struct.pack("<I", RICH.crc ^ 1) + MESSAGES[0][4:]), "run"),
    ],
)
def test_what_is_wrong_is_said_in_a_word(data, reason):
    assert rejected(data) == reason


FLAGS_AT = 12 + struct.calcsize("<QdIIIIH")  # in a message: behind its head


def flagged(message: bytes, flags: int) -> bytes:
    assert message[FLAGS_AT] < 16
    return framed(message[:FLAGS_AT] + bytes([flags]) + message[FLAGS_AT + 1 :])


@pytest.mark.parametrize(
    ("spec", "rolls", "flags", "reason"),
    [
        (RICH, False, 8, "header"),  # it has no stacks of frames
        (FRAMES_LAST, False, 8, "length"),
        (FRAMES_LAST, True, 0, "length"),
        (FRAMES_LAST, True, 16, "header"),
    ],
)
def test_flags_that_do_not_fit_the_columns_are_rejected(spec, rolls, flags, reason):
    make = rolling_fragment if rolls else random_fragment
    with pytest.raises(Rejected) as caught:
        decode_entry(entry(flagged(encode_message(make(spec, 9), spec), flags)), spec)
    assert caught.value.reason == reason


@pytest.mark.parametrize("steps", [0, 65, 65_535])
def test_a_fragment_longer_than_the_run_allows_is_rejected(steps):
    message = bytearray(MESSAGES[0])
    struct.pack_into("<H", message, 12 + 32, steps)
    assert rejected(framed(bytes(message))) == "steps"


def test_another_number_of_steps_than_there_are_bytes_is_rejected():
    message = bytearray(MESSAGES[0])
    struct.pack_into("<H", message, 12 + 32, 64)
    assert rejected(framed(bytes(message))) == "length"


@pytest.mark.parametrize("epsilon", [-0.1, 1.1, float("nan"), float("inf")])
def test_an_epsilon_that_is_no_share_is_rejected(epsilon):
    message = bytearray(MESSAGES[0])
    struct.pack_into("<d", message, 12 + 8, epsilon)
    assert rejected(framed(bytes(message))) == "header"


@pytest.mark.parametrize(
    "header",
    [
        [1, 2, 3, 0.0, 5, 6.0, True, False, 0.1, {"x" * 65: 1.0}],
        [1, 2, 3, 0.0, 5, 6.0, True, False, 0.1, {str(n): 1.0 for n in range(33)}],
        [1, 2, 3, 0.0, 5, 6.0, True, False, 0.1, {}, "c2", 1_000_000, 0.0],
        [-1, 2, 3, 0.0, 5, 6.0, True, False, 0.1, {}],
        [1, 2, 3, "0", 5, 6.0, True, False, 0.1, {}],
        [2**63, 2, 3, 0.0, 5, 6.0, True, False, 0.1, {}],
        [1, 2],
        {},
    ],
)
def test_an_episode_with_too_much_too_little_or_other_things_is_rejected(header):
    data = msgspec.msgpack.encode(header)
    size = -(-(12 + len(data)) // 8) * 8
    head = struct.pack("<IIHBx", RICH.crc, size, len(data), 2)
    assert rejected(framed((head + data).ljust(size, b"\0"))) == "header"


def test_a_bomb_is_never_unpacked_beyond_the_limit():
    large = lz4.block.compress(bytes(400 * 2**20), store_size=False)
    assert len(large) < ENTRY_BYTES
    tracemalloc.start()
    try:
        assert rejected(framed(large, 1, 1, 400 * 2**20)) == "size"
        assert rejected(framed(large, 1, 1, RAW_BYTES)) == "lz4"
        assert rejected(framed(large, 1, 1, 64)) == "lz4"
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert peak < RAW_BYTES + 2 * len(large) + 2**20


@settings(max_examples=300, deadline=None)
@given(st.binary(max_size=200), st.integers(0, 400), st.integers(0, 255))
def test_damaged_structs_are_wire_errors(extra, at, byte):
    data = bytearray(encode(SPEC))
    data[at % len(data)] = byte
    for damaged in (bytes(data), extra, encode(SPEC)[:at] + extra):
        try:
            assert isinstance(decode(damaged, RunSpec), RunSpec)
        except WireError:
            continue


PROGRAM = Program(
    b"",
    "w",
    ("obs",),
    ("q",),
    Head("epsilon_greedy"),
    {"a": Leaf((1, 3), "<f4"), "n": Leaf((), "<i8")},
)
WEIGHTS = Weights("r", 1, 2, {"a": np.arange(3, dtype="<f4")[None], "n": np.array(7, "<i8")})


def pointed(data: bytes, **changes) -> Pointer:
    return Pointer(**({"run": "r", "generation": 1, "version": 2, "bytes": len(data),
                       "sha256": digest(data)} | changes))  # fmt: skip


def test_weights_travel_in_full_and_in_half():
    data = encode_weights(WEIGHTS, PROGRAM)
    got = decode_weights(data, pointed(data, quota=3, exploration={"k": 1.0}), PROGRAM)
    assert (got.run, got.generation, got.version, got.quota) == ("r", 1, 2, 3)
    assert got.exploration == {"k": 1.0}
    for name, array in WEIGHTS.arrays.items():
        np.testing.assert_array_equal(got.arrays[name], array, strict=True)
    half = encode_weights(WEIGHTS, PROGRAM, "float16")
    assert len(half) < len(data)
    got = decode_weights(half, pointed(half, dtype="float16"), PROGRAM)
    assert got.arrays["a"].dtype == np.float32
    np.testing.assert_array_equal(got.arrays["n"], WEIGHTS.arrays["n"], strict=True)


@settings(max_examples=200, deadline=None)
@given(st.binary(max_size=64), st.booleans(), st.booleans())
def test_other_weights_than_promised_are_wire_errors(data, right_digest, half):
    pointer = pointed(
        data,
        sha256=digest(data) if right_digest else "0" * 64,
        dtype="float16" if half else "float32",
    )
    if right_digest and len(data) == (16 if half else 24):
        decode_weights(data, pointer, PROGRAM)
    else:
        with pytest.raises(WireError):
            decode_weights(data, pointer, PROGRAM)


def test_weights_with_a_leaf_that_must_not_travel_are_wire_errors():
    bad = msgspec.structs.replace(PROGRAM, weights={"a": Leaf((3,), "|O")})
    with pytest.raises(WireError, match="dtype"):
        decode_weights(b"", pointed(b""), bad)


def test_weights_of_other_names_or_shapes_are_not_encoded():
    with pytest.raises(WireError, match="same arrays"):
        encode_weights(Weights("r", 1, 2, {}), PROGRAM)
    arrays = {"a": np.zeros(4, "<f4"), "n": np.array(7, "<i8")}
    with pytest.raises(WireError, match="as the program says"):
        encode_weights(Weights("r", 1, 2, arrays), PROGRAM)


@pytest.mark.parametrize(
    ("faults", "trouble"),
    [
        ({"hang": 1}, "a line\nand another"),
        ({"hang": 1}, "\x1b[2J"),
        ({"hang": 1}, "x" * 201),
        ({"Hang": 1}, ""),
        ({"hang\n": 1}, ""),
        ({"hang": -1}, ""),
        ({chr(97 + i): 1 for i in range(17)}, ""),
    ],
)
def test_what_a_client_says_of_its_environment_is_a_short_line(faults, trouble):
    beat = Heartbeat(1, 2, 3, 4, 5, 6, False, faults, trouble)
    assert rejected(pack([encode_message(beat, RICH)])) == "header"


@pytest.mark.parametrize(
    "kwargs",
    [
        {"x" * 65: 1},
        {"x\n": 1},
        {"x": "\x1b[2J"},
        {"x": "x" * 101},
        {"x": [1]},
        {"x": {"y": 1}},
        {chr(97 + i): 1 for i in range(17)},
    ],
)
def test_what_a_client_plays_with_is_short(kwargs):
    beat = Heartbeat(1, 2, 3, 4, 5, kwargs=kwargs)
    episode = Episode(1, 2, 3, -4.0, 5, 6.0, True, False, 0.1, kwargs=kwargs)
    for message in (beat, episode):
        assert rejected(pack([encode_message(message, RICH)])) == "header"
