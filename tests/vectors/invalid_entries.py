"""Entries that a training node refuses, each with the word under which it counts the refusal."""

import struct
from collections.abc import Iterator

import msgspec
import numpy as np

from soulsai.types import Episode
from soulsai.wire.codec import encode_message
from tests.vectors.runs import RUNS
from tests.vectors.valid_entries import (
    EPISODE,
    HEARTBEAT,
    fragment,
    hello,
    literals,
    lz4_entry,
    uncompressed,
)

Case = tuple[str, str, bytes, str]  # name, run, entry, reason
NAN, INFINITE = float("nan"), float("inf")
_MESSAGE = struct.Struct("<IIHBx")
_FRAGMENT = struct.Struct("<QdIIIIHBx")
_FIELDS = ("clock", "epsilon", "episode", "start", "generation", "version", "steps", "flags")
HEARTBEAT_FIELDS = [1, 0, 0, 0, 0, 0, False, {}, ""]
EPISODE_FIELDS = [1, 7, 3, 12.5, 40, 1.25, True, False, 0.25, {}]


def raw(run: str, *messages) -> bytes:
    """Return messages without the frame of an entry."""
    return b"".join(encode_message(message, RUNS[run][0]) for message in messages)


def framed(body: bytes, *, count=1, size=None, framing=1, flags=0) -> bytes:
    """Return an entry whose frame says anything."""
    size = len(body) if size is None else size
    return struct.pack("<BBHI", framing, flags, count, size) + body


def of_kind(kind: int, header: bytes, run: str = "plain", size: int | None = None) -> bytes:
    """Return an entry of one message with any header."""
    whole = (_MESSAGE.size + len(header) + 7) & ~7 if size is None else size
    head = _MESSAGE.pack(RUNS[run][0].crc, whole, len(header), kind)
    return framed((head + header).ljust((_MESSAGE.size + len(header) + 7) & ~7, b"\0"))


def fields(kind: int, values: list, **changes) -> bytes:
    """Return an entry of one message of MessagePack, with some fields changed by their index."""
    changed = [changes.get(f"at{index}", value) for index, value in enumerate(values)]
    return of_kind(kind, msgspec.msgpack.encode(changed))


def header(run: str = "plain", **changes) -> bytes:
    """Return an entry of a fragment whose header says something else."""
    data = bytearray(raw(run, fragment(run, 2)))
    said = dict(zip(_FIELDS, _FRAGMENT.unpack_from(data, 12), strict=True)) | changes
    _FRAGMENT.pack_into(data, 12, *said.values())
    return framed(bytes(data))


def spoilt(run: str, part: str, value, column: str = "", **changes) -> bytes:
    """Return an entry of a fragment with one number changed, which the encoder does not check."""
    message = fragment(run, 2, **changes)
    array = getattr(message, part)[column] if column else getattr(message, part)
    array.flat[0] = value
    return uncompressed(run, [message])


def _frames() -> Iterator[tuple[str, bytes, str]]:
    good = raw("plain", fragment("plain", 2))
    beat = raw("plain", HEARTBEAT)
    yield "empty", b"", "size"
    yield "shorter-than-a-frame", framed(b"")[:7], "size"
    yield "framing-0", framed(good, framing=0), "frame"
    yield "framing-2", framed(good, framing=2), "frame"
    yield "unknown-flag", framed(good, flags=2), "frame"
    yield "no-messages", framed(good, count=0), "frame"
    yield "too-many-messages", framed(beat * 257, count=257), "frame"
    yield "unpacks-to-too-much", framed(good, size=16 * 2**20 + 1), "size"
    yield "size-too-small", framed(good, size=len(good) - 8), "length"
    yield "size-too-large", framed(good, size=len(good) + 8), "length"
    yield "cut-off", framed(good)[:-1], "length"
    yield "bytes-behind", framed(good + bytes(8)), "length"
    yield "message-missing", framed(beat, count=2), "length"
    yield "message-cut-in-its-head", framed(beat + beat[:4], count=2), "length"
    yield "message-size-of-9", of_kind(3, b"\x90", size=17), "length"
    yield "message-smaller-than-header", of_kind(3, bytes(20), size=16), "length"
    yield "message-longer-than-entry", of_kind(3, b"\x90", size=64), "length"
    yield (
        "padding-too-long",
        framed(_MESSAGE.pack(RUNS["plain"][0].crc, 32, 1, 3) + bytes(20)),
        ("length"),
    )
    yield "other-run", uncompressed("mask", [fragment("mask", 1)]), "run"
    yield "lz4-garbage", framed(b"\xf0\xff\xff\xff", size=4096, flags=1), "lz4"
    yield "lz4-of-too-little", lz4_entry(1, good + bytes(8), literals(good)), "length"
    yield (
        "lz4-bomb",
        framed(b"\x1f\0\1\0" + b"\xff" * 200 + b"\0" + b"\x50hello", size=64, flags=1),
        ("lz4"),
    )
    yield "lz4-offset-before-the-start", framed(b"\x10\0\xff\xff\x50hello", size=10, flags=1), "lz4"


def _headers() -> Iterator[tuple[str, bytes, str]]:
    yield "kind-0", of_kind(0, b""), "kind"
    yield "kind-9", of_kind(9, b"\x90"), "kind"
    yield "fragment-short-header", of_kind(1, bytes(39)), "header"
    yield "fragment-unknown-flag", header(flags=32), "header"
    yield "fragment-interventions-not-taken", header(flags=16), "header"
    yield "fragment-frames-of-no-stack", header(flags=8), "header"
    yield "fragment-epsilon-nan", header(epsilon=NAN), "header"
    yield "fragment-epsilon-negative", header(epsilon=-0.5), "header"
    yield "fragment-epsilon-over-1", header(epsilon=1.5), "header"
    yield "fragment-of-no-steps", header(steps=0), "steps"
    yield "fragment-of-too-many-steps", header(steps=17), "steps"
    yield "fragment-steps-beyond-its-body", header(steps=3), "length"
    yield "heartbeat-no-array", of_kind(3, msgspec.msgpack.encode({"steps": 1})), "header"
    yield "heartbeat-garbage", of_kind(3, b"\xc1\xc1"), "header"
    yield "heartbeat-too-short", fields(3, HEARTBEAT_FIELDS[:5]), "header"
    yield "heartbeat-too-long", fields(3, [*HEARTBEAT_FIELDS, {}, 0]), "header"
    yield "heartbeat-negative", fields(3, HEARTBEAT_FIELDS, at0=-1), "header"
    yield "heartbeat-count-of-2-48", fields(3, HEARTBEAT_FIELDS, at2=2**48), "header"
    yield "heartbeat-count-of-text", fields(3, HEARTBEAT_FIELDS, at0="1"), "header"
    yield "heartbeat-count-of-half", fields(3, HEARTBEAT_FIELDS, at0=0.5), "header"
    yield "heartbeat-fault-name", fields(3, HEARTBEAT_FIELDS, at7={"Hang!": 1}), "header"
    many = {chr(97 + number): 1 for number in range(17)}
    yield "heartbeat-17-faults", fields(3, HEARTBEAT_FIELDS, at7=many), "header"
    yield "heartbeat-long-trouble", fields(3, HEARTBEAT_FIELDS, at8="x" * 201), "header"
    yield "heartbeat-control-letter", fields(3, HEARTBEAT_FIELDS, at8="\x1b[2J"), "header"
    yield "heartbeat-17-values", fields(3, [*HEARTBEAT_FIELDS, many]), "header"
    yield "heartbeat-value-of-a-list", fields(3, [*HEARTBEAT_FIELDS, {"a": [1]}]), "header"
    text = msgspec.msgpack.encode(HEARTBEAT_FIELDS)[:-1]
    yield "heartbeat-bad-utf-8", of_kind(3, text + b"\xa2\xff\xfe"), "header"
    yield "heartbeat-nested", of_kind(3, b"\x91" * 5000), "header"
    yield (
        "heartbeat-bytes-behind",
        of_kind(3, msgspec.msgpack.encode(HEARTBEAT_FIELDS) + b"\0"),
        ("header"),
    )
    yield "episode-too-short", fields(2, EPISODE_FIELDS[:9]), "header"
    yield "episode-info-of-text", fields(2, EPISODE_FIELDS, at9={"boss": "iudex"}), "header"
    yield (
        "episode-33-infos",
        fields(2, EPISODE_FIELDS, at9={f"k{n}": 1.0 for n in range(33)}),
        ("header"),
    )
    yield "episode-flag-of-1", fields(2, EPISODE_FIELDS, at6=1), "header"
    greeting = list(msgspec.structs.astuple(hello("plain")))
    yield "hello-long-software", fields(4, greeting, at2="s" * 257), "header"
    yield "hello-too-short", fields(4, greeting[:5]), "header"


def _numbers() -> Iterator[tuple[str, str, bytes, str]]:
    yield "observation-nan", "plain", spoilt("plain", "obs", NAN, "obs"), "finite"
    yield "observation-infinite", "plain", spoilt("plain", "obs", INFINITE, "obs"), "finite"
    yield "observation-too-large", "plain", spoilt("plain", "obs", 2e18, "obs"), "range"
    yield "category-too-large", "categories", spoilt("categories", "obs", 6, "room"), "category"
    yield "reward-nan", "plain", spoilt("plain", "reward", NAN), "reward"
    yield "reward-too-large", "plain", spoilt("plain", "reward", 1001.0), "reward"
    yield "logp-nan", "ppo", spoilt("ppo", "extras", NAN, "logp"), "finite"
    yield "memory-infinite", "ppo", spoilt("ppo", "memory", INFINITE, "hidden"), "finite"
    yield "action-too-large", "plain", spoilt("plain", "action", 3), "action"
    yield "action-of-component-too-large", "multi", spoilt("multi", "action", 3), "action"
    yield "action-masked", "mask", masked(), "mask"
    yield "action-squashed-beyond-1", "box", spoilt("box", "action", 1.5), "action"
    yield "action-squashed-nan", "box", spoilt("box", "action", NAN), "action"
    yield "action-gaussian-too-large", "gaussian", spoilt("gaussian", "action", 2e6), "action"
    yield "action-hybrid-half", "hybrid", spoilt("hybrid", "action", 0.5), "action"
    yield "action-hybrid-too-large", "hybrid", spoilt("hybrid", "action", 3.0), "action"
    yield "epsilon-over-the-runs", "plain", header(epsilon=0.5), "epsilon"
    yield "epsilon-of-a-stochastic-head", "ppo", header("ppo", epsilon=0.1), "epsilon"
    yield "epsilon-of-a-greedy-episode", "plain", header(epsilon=0.1, flags=4), "epsilon"
    yield "clock-of-2-48", "plain", header(clock=2**48), "counter"
    for name, changes in {
        "reward-nan": {"reward": NAN},
        "reward-over-its-steps": {"reward": 40_001.0},
        "info-infinite": {"info": {"x": INFINITE}},
        "info-too-large": {"info": {"x": 1e31}},
        "epsilon-over-1": {"epsilon": 1.5},
        "of-no-steps": {"steps": 0, "reward": 0.0},
        "of-negative-seconds": {"seconds": -1.0},
    }.items():
        message: Episode = msgspec.structs.replace(EPISODE, **changes)
        yield f"episode-{name}", "plain", uncompressed("plain", [message]), "episode"
    for name, changes, reason in (
        ("other-run", {"run": "another"}, "run"),
        ("other-crc", {"crc": 1}, "run"),
        ("protocol-0", {"protocol": 0}, "protocol"),
        ("protocol-of-the-future", {"protocol": 99}, "protocol"),
        ("no-environments", {"environments": 0}, "hello"),
        ("257-environments", {"environments": 257}, "hello"),
    ):
        yield f"hello-{name}", "plain", uncompressed("plain", [hello("plain", **changes)]), reason


def masked() -> bytes:
    """Return an entry with an action that its mask forbids."""
    message = fragment("mask", 1, action=np.array([1], "|u1"))
    message.obs["mask"][0] = [True, False, True]
    return uncompressed("mask", [message])


def cases() -> Iterator[Case]:
    """Yield the name, the run, the bytes and the reason of each refused entry."""
    for name, data, reason in (*_frames(), *_headers()):
        yield name, "plain", data, reason
    yield from _numbers()
