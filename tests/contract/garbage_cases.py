"""Twenty kinds of messages that must not be let in, each in endless variety."""

import pickle
import struct
from collections.abc import Callable

import lz4.block
import numpy as np

from soulsai.types import PROTOCOL, Episode, Heartbeat, Hello
from soulsai.wire.codec import ENTRY_BYTES, encode_message, pack
from tests.contract.wire_cases import fragment, run_spec

RUN = run_spec()
OTHER = run_spec("another")
NEWEST = (1, 7)
_ENTRY = struct.Struct("<BBHI")
_BODY = 12  # where a fragment's header begins, behind its message's
_FIELDS = struct.Struct("<QdIIIIHBx")

Rng = np.random.Generator
Kind = Callable[[Rng], bytes | None]


def framed(raw: bytes, *, count=1, flags=0, size=None, version=1) -> bytes:
    return _ENTRY.pack(version, flags, count, len(raw) if size is None else size) + raw


def valid(rng: Rng, **changes) -> bytes:
    """Return a message that would be let in."""
    seed = int(rng.integers(2**31))
    given = {"episode": seed, "clock": 10, "start": 0, "version": 7, **changes}
    return encode_message(fragment(32, seed, **given), RUN)


def spoilt(rng: Rng, column: str, value: float, **changes) -> bytes:
    whole = fragment(32, int(rng.integers(2**31)))
    array = (whole.obs["obs"] if column == "obs" else whole.reward).copy()
    array.flat[int(rng.integers(array.size))] = value
    part = {"obs": {"obs": array}} if column == "obs" else {"reward": array}
    return pack([valid(rng, **part, **changes)])


def cut(rng: Rng) -> bytes:
    data = pack([valid(rng)])
    return data[: int(rng.integers(0, len(data)))]


def header(rng: Rng, **fields) -> bytes:
    """Return a fragment whose header says something else than its body."""
    data = bytearray(valid(rng))
    names = ("clock", "epsilon", "episode", "start", "generation", "version", "steps", "flags")
    said = dict(zip(names, _FIELDS.unpack_from(data, _BODY), strict=True)) | fields
    _FIELDS.pack_into(data, _BODY, *said.values())
    return framed(bytes(data))


def struct_message(rng: Rng, kind: int, text: bytes) -> bytes:
    size = (12 + len(text) + 7) & ~7
    return framed((struct.pack("<IIHBx", RUN.crc, size, len(text), kind) + text).ljust(size, b"\0"))


def nested(rng: Rng) -> bytes:
    return struct_message(rng, 2, b"\x91" * int(rng.integers(2_000, 60_000)))


def bad_utf8(rng: Rng) -> bytes:
    text = b"\x96\xa3\xff\xfe" + rng.bytes(1) + b"\x01\xa1x\xa1y\x01\x01"
    return struct_message(rng, 4, text)


def bomb(rng: Rng) -> bytes:
    squeezed = lz4.block.compress(bytes(int(rng.integers(2**24, 2**25))), store_size=False)
    return framed(squeezed, flags=1, size=int(rng.integers(100, 2**24)))


def action(rng: Rng) -> bytes:
    taken = np.full(32, int(rng.integers(4, 256)), "u1")
    return pack([valid(rng, action=taken)])


def episode(rng: Rng) -> bytes:
    number = [np.nan, np.inf, -np.inf][int(rng.integers(3))]
    return pack([encode_message(Episode(1, 7, 3, number, 5, 1.0, True, False, 0.1), RUN)])


def epsilon(rng: Rng) -> bytes:
    return header(rng, epsilon=[np.nan, -0.5, 1.5, 0.9][int(rng.integers(4))])


def flipped(rng: Rng) -> bytes:
    """Return a message with a bit of its run's number changed: no other is sure to be noticed."""
    data = bytearray(pack([valid(rng)]))
    data[_ENTRY.size + int(rng.integers(4))] ^= 1 << int(rng.integers(8))
    return bytes(data)


KINDS: dict[str, Kind] = {
    "random bytes": lambda rng: rng.bytes(int(rng.integers(0, 500))),
    "pickle": lambda rng: pickle.dumps({"reward": float(rng.random()), "f": print}),
    "cut off": cut,
    "not one field": lambda rng: None,
    "flipped": flipped,
    "of another run": lambda rng: pack([encode_message(Heartbeat(1, 2, 3, 4, 5), OTHER)]),
    "too large": lambda rng: bytes(ENTRY_BYTES + int(rng.integers(1, 1000))),
    "lz4 bomb": bomb,
    "lz4 garbage": lambda rng: framed(rng.bytes(200), flags=1, size=4000),
    "deep nesting": nested,
    "bad utf-8": bad_utf8,
    "unknown kind": lambda rng: struct_message(rng, int(rng.integers(5, 256)), rng.bytes(8)),
    "more messages than said": lambda rng: framed(valid(rng) + valid(rng), count=1),
    "fewer messages than said": lambda rng: framed(valid(rng), count=int(rng.integers(2, 2**16))),
    "more steps than there are": lambda rng: header(rng, steps=int(rng.integers(33, 2**16))),
    "not finite": lambda rng: spoilt(rng, "obs", [np.nan, np.inf][int(rng.integers(2))]),
    "reward beyond": lambda rng: spoilt(rng, "reward", [np.nan, 1e7][int(rng.integers(2))]),
    "action outside": action,
    "episode not finite": episode,
    "epsilon outside": epsilon,
    "version of the future": lambda rng: pack([valid(rng, version=int(rng.integers(8, 2**32)))]),
    "hello of nobody": lambda rng: pack(
        [encode_message(Hello("run-1", PROTOCOL, "x", "e", 1, int(rng.integers(2**31))), RUN)]
    ),
}
