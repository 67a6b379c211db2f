"""The committed test vectors: our codec agrees with each, and a script makes the same ones."""

import json

import msgspec
import numpy as np
import pytest

from soulsai.client.own_values import for_record
from soulsai.client.player_link import Instructions
from soulsai.errors import ConfigError, Forged, ProtocolError, Rejected, WireError
from soulsai.heads import act
from soulsai.types import (
    PROTOCOL,
    ActionSpec,
    Control,
    Episode,
    Fragment,
    Head,
    Hello,
    Leaf,
    Pointer,
    Program,
    RunSpec,
)
from soulsai.wire.codec import (
    ENTRY_BYTES,
    MAX_MESSAGES,
    RAW_BYTES,
    decode,
    decode_entry,
    encode_message,
    pack,
)
from soulsai.wire.delta import weights_by_delta
from soulsai.wire.invite import from_line
from soulsai.wire.limits import MessageLimits
from soulsai.wire.names import Keys, is_name
from soulsai.wire.protocols import Entry, Position
from soulsai.wire.signing import Signed, Verifier
from soulsai.wire.version import ProtocolRange, check_protocol
from soulsai.wire.weights import decode_weights, weights_bytes
from tests.vectors import generate

FOLDER = generate.FOLDER
LEAST = 60  # of each kind


def bytes_of(vector) -> bytes:
    data = vector["data"]
    return bytes.fromhex(data["hex"]) if "hex" in data else (FOLDER / data["file"]).read_bytes()


def family(name):
    return json.loads((FOLDER / f"{name}.json").read_text())


def named(name):
    return [pytest.param(vector, id=vector["name"]) for vector in family(name)]


RUNS = {vector["name"]: vector for vector in family("runs")}
SETTINGS = json.loads((FOLDER / "settings.json").read_text())


def test_the_script_makes_the_committed_files():
    committed = {
        str(path.relative_to(FOLDER).as_posix()): path.read_bytes()
        for path in (*FOLDER.glob("*.json"), *FOLDER.glob("data/*"))
    }
    assert generate.files() == committed, "run `python -m tests.vectors.generate`"


def test_there_are_enough_and_each_has_a_name_of_its_own():
    vectors = [vector for path in FOLDER.glob("*.json") if path.stem != "settings"
               for vector in family(path.stem)]  # fmt: skip
    assert sum(vector["valid"] for vector in vectors) >= LEAST
    assert sum(not vector["valid"] for vector in vectors) >= LEAST
    assert len({vector["name"] for vector in vectors}) == len(vectors)


def judged(vector):
    """Return the messages of an entry that a training node would admit."""
    run = RUNS[vector["run"]]
    spec = decode(bytes_of(run), RunSpec)
    limits = MessageLimits(spec, msgspec.convert(run["head"], Head))
    messages = decode_entry(Entry("", Position(0, 0), bytes_of(vector)), spec)
    for one in messages:
        if isinstance(one, Fragment | Episode):
            limits.check(one)
        elif isinstance(one, Hello):
            limits.hello(one)
    return messages, spec


@pytest.mark.parametrize("vector", named("entries"))
def test_entries(vector):
    if not vector["valid"]:
        with pytest.raises(Rejected) as caught:
            judged(vector)
        assert caught.value.reason == vector["reason"]
        return
    messages, spec = judged(vector)
    assert len(messages) == vector["count"]
    for one, told in zip(messages, vector["messages"], strict=False):
        assert generate.message(one) == told
    again = pack([encode_message(one, spec) for one in messages])
    assert decode_entry(Entry("", Position(0, 0), again), spec)
    if vector["exact"] and not again[1]:
        assert again == bytes_of(vector)


@pytest.mark.parametrize("vector", named("runs"))
def test_runs(vector):
    spec = decode(bytes_of(vector), RunSpec)
    assert spec.crc == vector["crc"]
    assert json.loads(msgspec.json.encode(generate.without_defaults(spec))) == vector["spec"]


@pytest.mark.parametrize("vector", named("weights"))
def test_weights(vector):
    leaves = msgspec.convert(SETTINGS["program"], dict[str, Leaf])
    program = Program(b"", "weights", ("obs",), ("q",), Head("epsilon_greedy"), leaves)
    pointer = msgspec.convert(vector["pointer"], Pointer)
    if not vector["valid"]:
        with pytest.raises(WireError):
            decode_weights(bytes_of(vector), pointer, program)
        return
    found = decode_weights(bytes_of(vector), pointer, program)
    assert weights_bytes(program, pointer.dtype) == pointer.bytes
    assert {name: array.tolist() for name, array in found.arrays.items()} == vector["arrays"]
    assert {name: array.dtype for name, array in found.arrays.items()} == {
        name: np.dtype(leaf.dtype) for name, leaf in leaves.items()
    }


@pytest.mark.parametrize("vector", named("deltas"))
def test_deltas(vector):
    leaves = msgspec.convert(SETTINGS["program"], dict[str, Leaf])
    program = Program(b"", "weights", ("obs",), ("q",), Head("epsilon_greedy"), leaves)
    pointer = msgspec.convert(vector["pointer"], Pointer)
    known = pointer.delta.base
    whole = Pointer(pointer.run, 1, known.version, known.bytes, known.sha256, known.dtype)
    base = decode_weights(bytes.fromhex(vector["base"]["hex"]), whole, program)
    if not vector["valid"]:
        with pytest.raises(WireError):
            weights_by_delta(bytes_of(vector), pointer, base.arrays, program)
        return
    found = weights_by_delta(bytes_of(vector), pointer, base.arrays, program)
    assert {name: array.tolist() for name, array in found.arrays.items()} == vector["arrays"]


@pytest.mark.parametrize("vector", named("schedules"))
def test_schedules(vector):
    if not vector["valid"]:
        with pytest.raises(WireError):
            decode(bytes_of(vector), RunSpec)
        return
    environment = decode(bytes_of(vector), RunSpec).environment
    for stage in vector["stages"]:
        pointer = decode(bytes.fromhex(stage["pointer"]), Pointer)
        begun = min(Instructions(pointer).stage, len(environment.schedule))
        assert begun == stage["begun"]
        assert environment.at_stage(begun).kwargs == stage["kwargs"]
        assert for_record(environment, begun) == stage["recorded"]


@pytest.mark.parametrize("vector", named("pointers"))
def test_pointers(vector):
    def read():
        return decode(decode(bytes_of(vector), Signed).data, Pointer)

    if vector["valid"]:
        assert msgspec.to_builtins(read()) == vector["pointer"]
    else:
        with pytest.raises(WireError):
            read()


@pytest.mark.parametrize("vector", named("signatures"))
def test_signatures(vector):
    signed = decode(bytes_of(vector), Signed)
    verifier = Verifier(SETTINGS["public_key"])
    if vector["valid"]:
        verifier.check(vector["kind"], signed.data, signed.signature)
    else:
        with pytest.raises(Forged):
            verifier.check(vector["kind"], signed.data, signed.signature)


@pytest.mark.parametrize("vector", named("invites"))
def test_invites(vector):
    if vector["valid"]:
        assert msgspec.to_builtins(from_line(vector["line"], "a vector")) == vector["invite"]
    else:
        with pytest.raises(ConfigError):
            from_line(vector["line"], "a vector")


@pytest.mark.parametrize("vector", named("names"))
def test_names(vector):
    assert is_name(vector["text"]) == vector["valid"]


@pytest.mark.parametrize("vector", named("controls"))
def test_controls(vector):
    if vector["valid"]:
        assert decode(bytes_of(vector), Control).op == vector["op"]
    else:
        with pytest.raises(WireError):
            decode(bytes_of(vector), Control)


@pytest.mark.parametrize("vector", named("versions"))
def test_versions(vector):
    if vector["valid"]:
        check_protocol(decode(bytes_of(vector), ProtocolRange))
    else:
        with pytest.raises(ProtocolError):
            check_protocol(decode(bytes_of(vector), ProtocolRange))


@pytest.mark.parametrize("vector", named("heads"))
def test_heads(vector):
    mask = vector["mask"]
    action, extras = act(
        msgspec.convert(vector["head"], Head),
        msgspec.convert(vector["spec"], ActionSpec),
        {name: np.array([values], "<f4") for name, values in vector["outputs"].items()},
        mask=None if mask is None else np.array([mask]),
        greedy=np.ones(1, np.bool_),
        epsilon=np.zeros(1),
        random=0.0,
        rng=np.random.default_rng(5),
    )
    assert np.asarray(action[0]).tolist() == vector["action"]
    assert {name: column[0].item() for name, column in extras.items()} == vector["extras"]


def test_the_page_is_of_this_protocol_and_knows_every_key_and_limit():
    page = (FOLDER.parents[1] / "docs" / "wire.md").read_text()
    assert f"This is protocol {PROTOCOL}." in page
    keys = Keys("r")
    read = [keys.spec, keys.program, keys.manifest, keys.model, keys.control]
    read += [keys.notice("C"), keys.received("C"), keys.experience("C")]
    for key in read:
        assert f"| `{key.removeprefix(keys.prefix)}` |" in page, key
    reasons = {vector["reason"] for vector in family("entries") if not vector["valid"]}
    assert {reason for reason in reasons if f"`{reason}`" not in page} == set()
    sizes = (ENTRY_BYTES, RAW_BYTES, MAX_MESSAGES)
    assert sizes == (2_000_000, 16 * 2**20, 256), "the page has these limits, too"
