"""What somebody may put where we read: payloads for every place, in both directions."""

import io
import pickle
import struct

import msgspec
import numpy as np

from soulsai.config import yaml_file
from soulsai.errors import Rejected, SoulsAIError
from soulsai.types import PROTOCOL, Control, Episode, Hello, RunSpec, Stop
from soulsai.wire.codec import decode, decode_entry, encode, encode_message, pack
from soulsai.wire.invite import from_line
from soulsai.wire.names import Keys
from soulsai.wire.protocols import START, Entry, Position
from tests.contract.wire_cases import PROGRAM, fragment, run_spec, weights
from tests.memory_server import MemoryServer

SPEC = run_spec()
KEYS = Keys("soulsai")
LATEST = ("MAXLEN", "~", 100, "*")
HELLO = Hello("run-1", PROTOCOL, "0", "L", 1, SPEC.crc)


class Evil:
    """Unpickled it would make a file, and say so."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return open, (self.path, "w")


def pickles(path):
    """Return pickles in all the wrappings in which others' libraries unpack them by themselves."""
    plain = [pickle.dumps(Evil(path), protocol) for protocol in range(6)]
    array = io.BytesIO()
    np.save(array, np.array([Evil(path)], dtype=object), allow_pickle=True)
    packed = [
        msgspec.msgpack.encode({b"nd": True, b"type": "O", b"kind": b"O", b"data": data})
        for data in plain
    ]
    ext = [msgspec.msgpack.encode(msgspec.msgpack.Ext(code, plain[2])) for code in (1, 4, 78)]
    yaml = [b"!!python/object/apply:builtins.open ['%s', 'w']\n" % path.encode()]
    return [*plain, array.getvalue(), *packed, *ext, *yaml, b"\x80\x05" + bytes(100)]


def bombs():
    """Return, by name, a small text or message that wants to become a large one."""
    depth = 200_000
    return {
        "nested arrays": b"\x91" * depth + b"\xc0",
        "nested maps": b"\x81\xa1a" * depth + b"\xc0",
        "an array of 4 G": b"\xdd\xff\xff\xff\xff",
        "a map of 4 G": b"\xdf\xff\xff\xff\xff",
        "bytes of 4 GB": b"\xc6\xff\xff\xff\xff",
        "text of 4 GB": b"\xdb\xff\xff\xff\xff",
        "many small arrays": b"\xdd\x00\x0f\x42\x40" + b"\x90" * 1_000_000,
        "an entry of 65,535 messages": struct.pack("<BBHI", 1, 0, 65_535, 1_900_000)
        + bytes(1_900_000),
        "an entry that says 4 GB": struct.pack("<BBHI", 1, 1, 1, 2**32 - 1) + bytes(1000),
    }


def quiet(act, *words):
    """Do something that must end in our own error, or well."""
    try:
        return act(*words)
    except SoulsAIError:
        return None


def decode_everywhere(data):
    """Let every role read the same bytes from every key that it reads, and every parser too."""
    server = MemoryServer()
    node = server.training()
    node.open(SPEC, PROGRAM, fresh=True)
    pointer = node.publish(weights(1))
    client, telemetry, operator = server.client("c1"), server.telemetry(), server.operator()
    link = server.link()
    quiet(telemetry.events, 0.0)
    quiet(client.wait, 0.0)
    for key in (KEYS.spec, KEYS.program, KEYS.manifest, KEYS.model, KEYS.control, KEYS.status,
                KEYS.piece(pointer.generation, 1, 0)):  # fmt: skip
        before = link.execute("GET", key)
        link.execute("SET", key, data)
        quiet(client.spec)
        quiet(client.program, SPEC)
        quiet(client.pointer)
        quiet(client.weights, pointer, PROGRAM)
        quiet(operator.spec)
        quiet(operator.status)
        link.execute("SET", key, before or b"")
    for channel in (KEYS.model, KEYS.control, KEYS.event):
        link.execute("PUBLISH", channel, data)
    quiet(client.wait, 0.0)
    quiet(telemetry.events, 0.0)
    link.execute("XADD", KEYS.episodes, *LATEST, "d", data)
    link.execute("XADD", KEYS.commands("operator"), *LATEST, "d", data)
    link.execute("XADD", KEYS.experience("c1"), *LATEST, "d", data)
    quiet(telemetry.episodes, "0-0", 0.0)
    quiet(node.requests)
    for entry in node.read({"c1": START}, 0.0):
        rejected(entry.data)
    for wire in (client, telemetry, operator, node):
        wire.close()
    text = data.decode("latin-1")
    quiet(from_line, text, "test")
    quiet(from_line, f"soulsai1:{text}", "test")
    quiet(yaml_file.parse, text[:200_000], "test")
    quiet(yaml_file.parse_value, text[:200_000], "test")


def decode_spec(data):
    """Decode a spec as every role does."""
    return decode(data, RunSpec)


def rejected(data):
    """Decode an entry as the training node does."""
    try:
        decode_entry(Entry("c1", Position(1, 1), data), SPEC)
    except Rejected:
        return True
    return False


def warm_up():
    """Do once what is lazy the first time: imports, caches, compiled patterns."""
    decode_everywhere(encode(SPEC))
    decode_everywhere(encode(Control("pause")))
    decode_everywhere(encode(Stop()))
    decode_everywhere(encode(Episode(1, 1, 1, 1.0, 1, 1.0, True, False, 0.0)))
    decode_everywhere(pack([encode_message(HELLO, SPEC), encode_message(fragment(), SPEC)]))
