"""Vectors of the data that a client reads: weights, signatures, invites, names, versions, heads."""

import math
import zlib
from collections.abc import Iterator
from typing import Any

import msgspec
import numpy as np

from soulsai.client.own_values import for_record
from soulsai.heads import act
from soulsai.types import (
    OLDEST_PROTOCOL,
    PROTOCOL,
    ActionSpec,
    Control,
    DeltaPointer,
    EnvironmentOffer,
    Head,
    Leaf,
    Pointer,
    Program,
    ScheduleStage,
    Weights,
    WholeVersion,
)
from soulsai.wire.codec import encode
from soulsai.wire.delta import encode_delta
from soulsai.wire.invite import Invite, to_line
from soulsai.wire.signing import Manifest, Signed, Signer
from soulsai.wire.weights import digest, encode_weights
from tests.vectors.runs import RUNS

Vector = dict[str, Any]
SIGNER = Signer(bytes(range(32)))  # a key that everybody knows
OTHER = Signer(bytes(range(1, 33)))
PROGRAM = Program(
    graph=b"",
    location="weights",
    inputs=("obs",),
    outputs=("q",),
    head=Head("epsilon_greedy"),
    weights={
        "a": Leaf((2, 3), "<f4"), "b": Leaf((5,), "<f4"), "steps": Leaf((), "<i8"),
        "mean": Leaf((3,), "<f8"), "seen": Leaf((3,), "|b1"),
    },
)  # fmt: skip
ARRAYS = {
    "a": np.array([[0.5, -1.25, 2.0], [65504.0, -0.000244140625, 0.0]], "<f4"),
    "b": np.array([1.5, 2.5, -3.5, 1e-7, -6e-8], "<f4"),
    "steps": np.array(2**40 + 1, "<i8"),
    "mean": np.array([0.125, -0.25, 1000.0], "<f8"),
    "seen": np.array([True, False, True], "|b1"),
}


def weights() -> Iterator[Vector]:
    """Yield versions of weights, and such as must not be used."""
    version = Weights("vectors-plain", 1, 7, ARRAYS)
    for dtype in ("float32", "float16"):
        data = encode_weights(version, PROGRAM, dtype)
        pointer = Pointer(
            "vectors-plain", 1, 7, len(data), digest(data), dtype, 500, {"random": 0.25}
        )
        values = ARRAYS
        if dtype == "float16":
            values = ARRAYS | {"a": ARRAYS["a"].astype("<f2").astype("<f4")}  # the only matrix
        yield {
            "name": f"weights-{dtype}", "valid": True, "pointer": msgspec.to_builtins(pointer),
            "data": data, "arrays": {name: array.tolist() for name, array in values.items()},
        }  # fmt: skip
        wrong = {
            "shortened": (pointer, data[:-8]),
            "damaged": (pointer, bytes([data[0] ^ 1]) + data[1:]),
            "of-another-program": (_pointing(pointer, data + bytes(8)), data + bytes(8)),
        }
        for name, (other, bad) in wrong.items():
            yield {
                "name": f"weights-{dtype}-{name}", "valid": False,
                "pointer": msgspec.to_builtins(other), "data": bad,
            }  # fmt: skip


def deltas() -> Iterator[Vector]:
    """Yield deltas to a version, whose digest is that of the whole one, and damaged ones."""
    base = ARRAYS | {"a": np.array([[0.5, -1.25, 2.0], [40.0, -0.000244140625, 0.0]], "<f4")}
    new = base | {
        "a": base["a"] + np.array([[1e-3, -2e-3, 7e-4], [3e-2, 1e-9, 0.0]], "<f4"),
        "b": base["b"] * np.float32(1.5),
        "steps": np.array(2**40 + 9, "<i8"),
    }
    encoded = encode_delta(base, new, PROGRAM)
    if encoded is None:
        raise ValueError("the vectors' delta is too coarse")
    packed, received = encoded
    raw = zlib.decompress(packed)
    data = zlib.compress(raw, 0)  # alike with every version of zlib
    whole = encode_weights(Weights("vectors-plain", 1, 5, base), PROGRAM)
    after = encode_weights(Weights("vectors-plain", 1, 7, received), PROGRAM)
    known = WholeVersion(5, len(whole), digest(whole))
    pointer = Pointer(
        "vectors-plain", 1, 7, len(after), digest(after), delta=DeltaPointer(len(data), known)
    )

    def vector(name: str, bad: bytes | None = None, **changes: Any) -> Vector:
        return {
            "name": f"delta-{name}", "valid": bad is None and not changes,
            "pointer": msgspec.to_builtins(msgspec.structs.replace(pointer, **changes)),
            "base": whole, "data": data if bad is None else bad,
            "arrays": {key: array.tolist() for key, array in received.items()},
        }  # fmt: skip

    yield vector("whole")
    yield vector("shortened", data[:-1])
    yield vector("of-another-program", zlib.compress(raw + b"\0", 0))
    yield vector("cut-off", zlib.compress(raw[:-1], 0))
    yield vector("no-zlib", b"delta")
    yield vector("changed", zlib.compress(raw[:8] + bytes([raw[8] ^ 16]) + raw[9:], 0))
    yield vector("of-another-digest", sha256="0" * 64)


def schedules() -> Iterator[Vector]:
    """Yield a schedule, with the arguments of an environment and of the record at each stage."""
    offer = EnvironmentOffer(
        "Line-v0",
        {"length": 8, "wind": False, "map": "plain"},
        client_kwargs=("map", "max_episode_steps", "absent"),
        max_episode_steps=200,
        schedule=(
            ScheduleStage(
                1000, {"wind": True, "gusts": [1, 2], "label": "two\nlines " + "x" * 100}
            ),
            ScheduleStage(2000, {"length": 12, "\u2028": 1}),
        ),
    )
    spec = msgspec.structs.replace(RUNS["plain"][0], environment=offer)
    knobs = [{"stage": stage} for stage in (0.0, 1.0, 1.5, 2.0, 3.0, 1e9, -1.0, math.nan)]
    stages = []
    for exploration, begun in zip([{}, *knobs], [0, 0, 1, 1, 2, 2, 0, 0, 0], strict=True):
        pointer = Pointer("vectors-plain", 1, 7, 0, "", exploration=exploration)
        stages.append({
            "pointer": encode(pointer).hex(), "begun": begun,
            "kwargs": offer.at_stage(begun).kwargs, "recorded": for_record(offer, begun),
        })  # fmt: skip
    yield {"name": "schedule", "valid": True, "data": encode(spec), "stages": stages}
    broken: dict[str, Any] = {
        "map": {"env_step": 1}, "text": [{"env_step": "1"}], "negative": [{"env_step": -1}],
        "kwargs": [{"env_step": 1, "kwargs": [1]}],
    }  # fmt: skip
    for name, schedule in broken.items():
        said = msgspec.to_builtins(spec)
        said["environment"]["schedule"] = schedule
        data = msgspec.msgpack.encode(said)
        yield {"name": f"schedule-broken-{name}", "valid": False, "data": data}


def _pointing(pointer: Pointer, data: bytes) -> Pointer:
    return msgspec.structs.replace(pointer, bytes=len(data), sha256=digest(data))


def pointers() -> Iterator[Vector]:
    """Yield stored pointers, as a client decodes them."""
    plain = Pointer("vectors-plain", 1, 7, 96, "0" * 64)
    for name, pointer in {
        "plain": plain,
        "without-a-quota": msgspec.structs.replace(plain, quota=None),
        "with-a-quota": msgspec.structs.replace(plain, quota=0),
        "random": msgspec.structs.replace(plain, exploration={"random": 1.0}),
        "halves": msgspec.structs.replace(plain, dtype="float16"),
        "delta": msgspec.structs.replace(
            plain, delta=DeltaPointer(40, WholeVersion(5, 96, "1" * 64, "float16"))
        ),
    }.items():
        data = encode(Signed(encode(pointer)))
        values = msgspec.to_builtins(pointer)
        yield {"name": f"pointer-{name}", "valid": True, "data": data, "pointer": values}
    values = msgspec.to_builtins(plain)
    for name, changes in {
        "of-a-folder": {"run": "../evil"}, "of-a-device": {"run": "NUL.txt"},
        "of-no-name": {"run": ""}, "of-doubles": {"dtype": "float64"},
        "of-text": {"version": "7"},
    }.items():  # fmt: skip
        data = encode(Signed(msgspec.msgpack.encode(values | changes)))
        yield {"name": f"pointer-{name}", "valid": False, "data": data}
    yield {"name": "pointer-unwrapped", "valid": False, "data": encode(plain)}
    yield {"name": "pointer-garbage", "valid": False, "data": b"\xc1"}


def signatures() -> Iterator[Vector]:
    """Yield signed data; the public key is that of ``SIGNER``."""
    pointer = encode(Pointer("vectors-plain", 1, 7, 96, "0" * 64))
    manifest = encode(Manifest("vectors-plain", "1" * 64, "2" * 64))
    for kind, data in (("pointer", pointer), ("manifest", manifest)):
        signed = Signed(data, SIGNER.sign(kind, data))
        other = "manifest" if kind == "pointer" else "pointer"
        yield {"name": f"signed-{kind}", "valid": True, "kind": kind, "data": encode(signed)}
        for name, bad in {
            "without-a-signature": Signed(data),
            "as-another-kind": Signed(data, SIGNER.sign(other, data)),
            "by-another-key": Signed(data, OTHER.sign(kind, data)),
            "changed": Signed(data + b"\0", SIGNER.sign(kind, data)),
        }.items():
            yield {
                "name": f"signed-{kind}-{name}", "valid": False, "kind": kind, "data": encode(bad),
            }  # fmt: skip


def invites() -> Iterator[Vector]:
    """Yield invites as a person copies them."""
    full = Invite(
        "rediss://train.example.org:6380", "soulsai", "lab", "s3cr3t", "PEM\n", SIGNER.public
    )
    for name, invite in {
        "full": full,
        "plain": Invite("redis://127.0.0.1:6379", "soulsai", "pc-1", "p"),
        "other-letters": Invite("rediss://[::1]:6380", "run_2", "a", "pässwort"),
    }.items():
        values = msgspec.to_builtins(invite)
        yield {"name": f"invite-{name}", "valid": True, "line": to_line(invite), "invite": values}
    line = to_line(full)
    broken = "\r\n ".join(line[at : at + 70] for at in range(0, len(line), 70))
    values = msgspec.to_builtins(full)
    yield {"name": "invite-broken-by-mail", "valid": True, "line": broken, "invite": values}
    wrong = {
        "empty": "", "of-another-version": line.replace("soulsai1:", "soulsai2:"),
        "cut-off": line[:-6], "changed": line[:40] + ("A" if line[40] != "A" else "B") + line[41:],
        "not-base64": "soulsai1:***", "too-long": "soulsai1:" + "A" * 17_000,
        "of-a-bad-run": to_line(msgspec.structs.replace(full, run="Run!")),
        "of-a-bad-name": to_line(msgspec.structs.replace(full, client="../x")),
        "of-no-address": to_line(msgspec.structs.replace(full, url="http://x")),
    }  # fmt: skip
    for name, bad in wrong.items():
        yield {"name": f"invite-{name}", "valid": False, "line": bad}


def names() -> Iterator[Vector]:
    """Yield names of runs and clients."""
    for text in ("a", "0", "lab-1", "my_run", "a" * 64, "com", "nul-1"):
        yield {"name": f"name-{text[:12]}", "valid": True, "text": text}
    bad = (
        "",
        "-a",
        "_a",
        "A",
        "a.b",
        "a b",
        "a/b",
        "ä",
        "a" * 65,
        "con",
        "nul",
        "com1",
        "a\n",
        "*",
    )
    for number, text in enumerate(bad):
        yield {"name": f"no-name-{number}", "valid": False, "text": text}


def controls() -> Iterator[Vector]:
    """Yield controls of the training node."""
    for op in ("pause", "resume", "stop"):
        yield {"name": f"control-{op}", "valid": True, "data": encode(Control(op)), "op": op}
    for name, data in {
        "unknown": msgspec.msgpack.encode({"op": "explode"}),
        "empty": msgspec.msgpack.encode({}),
        "garbage": b"\xc1",
    }.items():
        yield {"name": f"control-{name}", "valid": False, "data": data}


def versions() -> Iterator[Vector]:
    """Yield a server's protocols, and whether a client of ours may play."""
    ours, ages = PROTOCOL, OLDEST_PROTOCOL
    served = ((ours, ages, True), (ours + 1, ours, True), (ours + 1, ours + 1, False))
    for protocol, oldest, valid in (*served, (ages - 1, ages - 1, False)):
        spec = {
            "run": "vectors-plain",
            "protocol": protocol, "oldest_protocol": oldest, "unknown": True,
        }  # fmt: skip
        yield {
            "name": f"protocol-{oldest}-to-{protocol}", "valid": valid,
            "data": msgspec.msgpack.encode(spec),
        }  # fmt: skip


CHOICES = {
    "epsilon_greedy": (
        Head("epsilon_greedy"), ActionSpec("discrete", sizes=(3,)), {"q": [1.0, 3.0, 2.0]},
    ),
    "categorical": (
        Head("categorical"), ActionSpec("multidiscrete", (2,), (3, 2)),
        {"logits": [0.0, 1.0, -1.0, 2.0, 0.5]},
    ),
    "scaled_gaussian": (
        Head("scaled_gaussian"), ActionSpec("box", (2,), low=(-2.0, 0.0), high=(2.0, 1.0)),
        {"mean": [0.25, -0.5], "log_std": [-1.0, 0.5]},
    ),
    "squashed": (
        Head("squashed"), ActionSpec("box", (2,), low=(-2.0, 0.0), high=(2.0, 1.0)),
        {"mean": [0.25, -3.0], "log_std": [-1.0, 0.5]},
    ),
    "hybrid": (
        Head("hybrid"), ActionSpec("hybrid", (3,), (3,), (-1.0, -1e38), (1.0, 1e38)),
        {"logits": [0.0, 1.0, 0.5], "mean": [0.25, 7.0], "log_std": [0.0, -0.5]},
    ),
}  # fmt: skip


def heads() -> Iterator[Vector]:
    """Yield outputs of a policy, and the greedy action with its log-probability."""
    for name, (head, action, outputs) in CHOICES.items():
        masks: list[list[bool] | None] = [None]
        if action.sizes:
            masks += [[n % 3 != 1 for n in range(sum(action.sizes))], [False] * sum(action.sizes)]
        for number, mask in enumerate(masks):
            chosen, extras = act(
                head, action, {key: np.array([value], "<f4") for key, value in outputs.items()},
                mask=None if mask is None else np.array([mask]), greedy=np.ones(1, np.bool_),
                epsilon=np.zeros(1), random=0.0, rng=np.random.default_rng(0),
            )  # fmt: skip
            yield {
                "name": f"head-{name}-{number}", "valid": True, "head": msgspec.to_builtins(head),
                "spec": msgspec.to_builtins(action), "outputs": outputs, "mask": mask,
                "action": chosen[0].tolist(),
                "extras": {key: column[0].item() for key, column in extras.items()},
            }  # fmt: skip
