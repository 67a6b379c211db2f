"""R16: clients of the last, this and the next protocol, each told what to do, and no storm."""

import subprocess
import sys
import threading
import time

import msgspec
import pytest

from soulsai.client.session import serve
from soulsai.config.schema import ClientSettings, Config, RedisSettings
from soulsai.errors import ProtocolError
from soulsai.testing.policy import toy_run
from soulsai.types import (
    OLDEST_PROTOCOL,
    PROTOCOL,
    EnvironmentOffer,
    Heartbeat,
    Hello,
    RunSpec,
)
from soulsai.wire.codec import decode, decode_entry, encode, encode_message, pack
from soulsai.wire.protocols import Entry, Position
from soulsai.wire.redis.roles import connect_client, connect_training
from soulsai.wire.signing import signer_in
from soulsai.wire.version import ProtocolRange, check_protocol
from tests.system.identity_cases import KINDS, guarded, until
from tests.system.train_cases import environ

TOY = "soulsai.testing:ToyEnv"


@pytest.mark.parametrize(
    ("oldest", "theirs", "refused", "warned"),
    [
        (PROTOCOL, PROTOCOL, "", False),
        (PROTOCOL, PROTOCOL + 1, "", True),
        (PROTOCOL + 1, PROTOCOL + 1, "update the client", False),
        (PROTOCOL + 1, PROTOCOL + 7, "update the client", False),
        (0, OLDEST_PROTOCOL - 1, "update the server", False),
    ],
)
def test_the_verdict(oldest, theirs, refused, warned):
    spoken = ProtocolRange(theirs, oldest)
    if refused:
        with pytest.raises(ProtocolError, match=refused) as caught:
            check_protocol(spoken)
        assert "\n" not in str(caught.value)
        assert caught.value.exit_code == 3
    else:
        assert bool(check_protocol(spoken)) == warned


class Newer(msgspec.Struct):
    """A spec of some day, of which we understand nothing but its first promise."""

    protocol: int = PROTOCOL + 1
    oldest_protocol: int = PROTOCOL + 1
    run: tuple[str, ...] = ("something", "else", "by", "then")


# A spec of this protocol, with a field that we do not know
Later = msgspec.defstruct("Later", [("taste", str, "sweet")], bases=(RunSpec,), frozen=True)


def test_a_client_that_does_not_know_a_new_field_is_still_understood():
    spec, _, _ = toy_run(EnvironmentOffer(TOY))
    later = Later(**msgspec.structs.asdict(spec))
    published = msgspec.structs.replace(later, published_crc=later.crc)
    ours = decode(encode(published), RunSpec)
    hello = Hello(ours.run, PROTOCOL, "soulsai", TOY, 1, ours.crc)
    beat = Heartbeat(1, 2, 3, 4, 5)
    entry = Entry(
        "c", Position(1, 1), pack([encode_message(hello, ours), encode_message(beat, ours)])
    )
    assert decode_entry(entry, published) == [hello, beat]
    assert hello.crc == published.crc != spec.crc


@pytest.fixture
def server(tmp_path):
    with guarded(tmp_path, KINDS[0]) as started:
        yield started


def publish(server, **changes):
    signer = signer_in(server.secrets)
    node = connect_training(server.access("training_node"), "soulsai", signer=signer)
    spec, program, _ = toy_run(EnvironmentOffer(TOY))
    node.open(msgspec.structs.replace(spec, **changes), program, fresh=True)
    node.close()


def connections(server) -> int:
    link = server.link("metrics")
    told = link.execute("INFO", "stats").decode()
    link.close()
    return int(told.partition("total_connections_received:")[2].split()[0])


def test_a_client_that_is_too_old_says_so_once_and_goes(server):
    link = server.link("training_node")
    link.execute("SET", "soulsai:{soulsai}:spec", encode(Newer()))
    link.close()
    before = connections(server)
    done = subprocess.run(
        [sys.executable, "-m", "soulsai", "client", "--redis", server.url, "--secrets",
         str(server.secrets), "--env", TOY],
        capture_output=True, text=True, timeout=60, cwd=server.folder, env=environ(),
    )  # fmt: skip
    assert done.returncode == 3
    (line,) = [line for line in done.stderr.splitlines() if line.startswith("soulsai: ")]
    assert f"the server speaks protocol {PROTOCOL + 1}" in line
    assert "update the client" in line
    assert "Traceback" not in done.stderr
    assert connections(server) - before <= 1 + 2, "one try, and our own looking"


EARLIER = """
import sys
from soulsai import types
types.PROTOCOL = types.OLDEST_PROTOCOL = types.OLDEST_PROTOCOL - 1
from soulsai.__main__ import run
sys.exit(run(sys.argv[1:]))
"""


def test_a_client_of_the_last_protocol_is_told_one_line_before_it_plays(server):
    publish(server)
    done = subprocess.run(
        [sys.executable, "-c", EARLIER, "client", "--redis", server.url, "--secrets",
         str(server.secrets), "--env", TOY],
        capture_output=True, text=True, timeout=60, cwd=server.folder, env=environ(),
    )  # fmt: skip
    assert done.returncode == 3
    (line,) = [line for line in done.stderr.splitlines() if line.startswith("soulsai: ")]
    told = f"the server speaks protocol {OLDEST_PROTOCOL} to {PROTOCOL} and this client"
    assert f"{told} {OLDEST_PROTOCOL - 1}; update the client" in line
    assert "Traceback" not in done.stderr
    node = connect_training(server.access("training_node"), "soulsai")
    assert node.clients() == [], "it has sent nothing"
    node.close()


class Playing:
    """A client in a thread, and what it raised."""

    def __init__(self, server):
        redis = RedisSettings(url=server.url, secrets=str(server.secrets))
        config = Config(redis=redis, client=ClientSettings(name="c1", environments=(TOY,)))
        self.wire = connect_client(server.access("client"), "soulsai", "c1")
        self.stopping = threading.Event()
        self.error: Exception | None = None
        self.thread = threading.Thread(target=self.live, args=(config,))
        self.thread.start()

    def live(self, config):
        try:
            serve(config, self.wire, stopped=self.stopping.is_set, seed=1)
        except Exception as error:
            self.error = error

    def stop(self):
        self.stopping.set()
        self.thread.join()
        self.wire.close()


def test_a_client_that_will_be_too_old_is_warned_and_plays(server, caplog):
    publish(server, protocol=PROTOCOL + 1)
    playing = Playing(server)
    try:
        node = connect_training(server.access("training_node"), "soulsai")
        until(lambda: "c1" in node.clients())
        node.close()
    finally:
        playing.stop()
    assert playing.error is None
    assert caplog.text.count("update the client before") == 1


def test_a_client_is_refused_when_the_server_moves_on_while_it_plays(server):
    publish(server)
    playing = Playing(server)
    try:
        node = connect_training(server.access("training_node"), "soulsai")
        until(lambda: "c1" in node.clients())
        node.close()
        publish(server, protocol=PROTOCOL + 1, oldest_protocol=PROTOCOL + 1)
        until(lambda: not playing.thread.is_alive())
    finally:
        began = time.monotonic()
        playing.stop()
        assert time.monotonic() - began < 10
    assert isinstance(playing.error, ProtocolError)
