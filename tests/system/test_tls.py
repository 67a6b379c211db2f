"""A real server with TLS and a certificate made here, and a real Sentinel with a fail-over."""

import contextlib
import socket
import subprocess
import time
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from soulsai.errors import AccessDenied, ConfigError, Unreachable, WrongScheme
from soulsai.identity.folder import init
from soulsai.wire.redis.connection import RedisConnection
from soulsai.wire.redis.roles import connect_client, connect_training
from soulsai.wire.secrets import Server, read_secret
from tests.programs import installed

pytestmark = pytest.mark.tools  # TLS needs Debian's redis-server


def openssl(folder: Path, *words: str) -> None:
    subprocess.run([str(installed("openssl")), *words], cwd=folder, check=True, capture_output=True)


def authority(folder: Path, name: str) -> None:
    key = ("-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes")
    openssl(
        folder, "req", "-x509", *key, "-days", "2", "-subj", f"/CN={name}",
        "-keyout", f"{name}.key", "-out", f"{name}.pem",
    )  # fmt: skip


def certificate(folder: Path, name: str, signer: str, hosts: str) -> None:
    key = ("-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes")
    openssl(
        folder, "req", *key, "-subj", f"/CN={name}", "-keyout", f"{name}.key", "-out", f"{name}.csr"
    )
    (folder / f"{name}.ext").write_text(f"subjectAltName={hosts}\n")
    openssl(
        folder, "x509", "-req", "-in", f"{name}.csr", "-CA", f"{signer}.pem", "-CAkey",
        f"{signer}.key", "-CAcreateserial", "-days", "2", "-extfile", f"{name}.ext",
        "-out", f"{name}.pem",
    )  # fmt: skip


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@contextlib.contextmanager
def running(folder: Path, port: int, *lines: str, mode: tuple[str, ...] = ()):
    """Run a server or sentinel until the end of the block; give its process."""
    settings = folder / f"{port}.conf"
    settings.write_text("\n".join([f'dir "{folder}"', *lines, ""]))
    process = subprocess.Popen(
        [str(installed("redis-server")), str(settings), *mode], stdout=subprocess.DEVNULL
    )
    try:
        until(lambda: listens(port))
        yield process
    finally:
        process.kill()
        process.wait()


def listens(port: int) -> bool:
    with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port), 1):
        return True
    return False


def until(condition, seconds: float = 20) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.02)


@pytest.fixture(scope="module")
def tls(tmp_path_factory):
    """Give the folder of certificates and the port of a server that speaks nothing but TLS."""
    folder = tmp_path_factory.mktemp("tls")
    for name in ("good-ca", "other-ca"):
        authority(folder, name)
    certificate(folder, "server", "good-ca", "DNS:localhost,IP:127.0.0.1")
    port = free_port()
    with running(
        folder,
        port,
        "port 0",
        f"tls-port {port}",
        "tls-cert-file server.pem",
        "tls-key-file server.key",
        "tls-ca-cert-file good-ca.pem",
        "tls-auth-clients no",
        "requirepass secret",
        'save ""',
    ):
        yield folder, port


def wire_to(tls, host: str = "localhost", ca: str = "good-ca", scheme: str = "rediss"):
    folder, port = tls
    ca_file = str(folder / f"{ca}.pem") if ca else ""
    return connect_client(
        Server(f"{scheme}://{host}:{port}", "client", "secret", ca_file), "tls", "c1"
    )


@pytest.mark.parametrize("host", ["localhost", "127.0.0.1"])
def test_the_right_authority_is_accepted(tls, host):
    wire = wire_to(tls, host)
    assert wire.pointer() is None
    assert wire.wait(1) == []
    began = time.monotonic()
    assert wire.wait(0.3) == []
    assert time.monotonic() - began > 0.25
    wire.close()


@pytest.mark.parametrize("ca", ["other-ca", ""])
def test_another_authority_is_refused_with_what_to_do(tls, ca):
    wire = wire_to(tls, ca=ca)
    with pytest.raises(AccessDenied, match=r"redis\.ca_file"):
        wire.pointer()
    with pytest.raises(AccessDenied, match=r"redis\.ca_file"):
        wire.wait(0)
    wire.close()


def test_a_certificate_for_another_name_is_refused(tls, tmp_path):
    folder, _ = tls
    certificate(folder, "elsewhere", "good-ca", "DNS:elsewhere.example")
    port = free_port()
    with running(
        folder,
        port,
        "port 0",
        f"tls-port {port}",
        "tls-cert-file elsewhere.pem",
        "tls-key-file elsewhere.key",
        "tls-ca-cert-file good-ca.pem",
        "tls-auth-clients no",
    ):
        wire = wire_to((folder, port))
        with pytest.raises(AccessDenied, match="not trusted"):
            wire.pointer()
        wire.close()


def test_plain_text_is_refused(tls):
    wire = wire_to(tls, ca="", scheme="redis")
    with pytest.raises(WrongScheme, match="over TLS only; use rediss://"):
        wire.pointer()
    wire.close()


def test_tls_to_a_server_without_it_is_refused(tls, tmp_path, monkeypatch):
    monkeypatch.setattr("soulsai.wire.redis.connection._SECONDS", 1.0)
    folder, _ = tls
    port = free_port()
    with running(tmp_path, port, f"port {port}", 'save ""'):
        wire = wire_to((folder, port))
        with pytest.raises(WrongScheme, match="without TLS; use redis://"):
            wire.pointer()
        wire.close()


def test_a_missing_authority_file_is_said_at_once(tls):
    with pytest.raises(ConfigError, match=r"redis\.ca_file"):
        wire_to(tls, ca="missing")


DAY = timedelta(days=1)


@pytest.mark.parametrize(
    ("host", "issued", "trusted", "said"),
    [
        ("localhost", 0, "own", ""),
        ("localhost", 0, "other", "is not trusted"),
        ("localhost", 0, "", "is not trusted"),
        ("elsewhere.example", 0, "own", "is not trusted"),
        ("localhost", -400, "own", "is not trusted"),
        ("localhost", +30, "own", "is not trusted"),
    ],
    ids=["right", "another authority", "the system's", "another name", "expired", "not yet valid"],
)
def test_certificates_of_secrets_init(tmp_path, monkeypatch, host, issued, trusted, said):
    """S9, with what an invite holds: the authority's certificate as text."""
    monkeypatch.setattr("soulsai.identity.certificates._HOSTS_ALWAYS", ())
    folder, other = tmp_path / "own", tmp_path / "other"
    now = datetime.now(UTC)
    init(folder, hosts=["localhost"], now=now - 1000 * DAY)
    (folder / "server.pem").unlink()
    init(folder, hosts=[host], now=now + issued * DAY)
    init(other, hosts=["localhost"], now=now)
    port = free_port()
    with running(
        tmp_path, port, "port 0", f"tls-port {port}", f"tls-cert-file {folder}/server.pem",
        f"tls-key-file {folder}/server.key", f"tls-ca-cert-file {folder}/ca.pem",
        "tls-auth-clients no", f"aclfile {folder}/users.acl",
    ):  # fmt: skip
        ca = (tmp_path / trusted / "ca.pem").read_text() if trusted else ""
        password = read_secret(folder / "redis.secret")
        server = Server(f"rediss://localhost:{port}", "client", password, ca_data=ca)
        wire = connect_client(server, "tls", "c1")
        if said:
            with pytest.raises(AccessDenied, match=said) as caught:
                wire.pointer()
            assert password not in str(caught.value)
        else:
            assert wire.pointer() is None
        wire.close()
        plain = connect_client(Server(f"redis://localhost:{port}", "client", password), "tls", "c")
        with pytest.raises(WrongScheme):
            plain.pointer()
        plain.close()


@pytest.fixture
def sentinel(tmp_path):
    """Give the URL of a service of two servers, and the first one's process."""
    first, second, watch = free_port(), free_port(), free_port()
    (tmp_path / "a").mkdir()
    (tmp_path / "b").mkdir()
    common = (
        "bind 127.0.0.1", 'save ""', "requirepass secret", "masterauth secret",
        "repl-diskless-sync-delay 0",
    )  # fmt: skip
    with (
        running(tmp_path / "a", first, f"port {first}", *common) as master,
        running(
            tmp_path / "b", second, f"port {second}", f"replicaof 127.0.0.1 {first}", *common,
        ),
        running(
            tmp_path, watch, f"port {watch}", "bind 127.0.0.1",
            f"sentinel monitor games 127.0.0.1 {first} 1",
            "sentinel auth-pass games secret",
            "sentinel down-after-milliseconds games 500",
            "sentinel failover-timeout games 2000",
            mode=("--sentinel",),
        ),
    ):  # fmt: skip
        ask = RedisConnection(Server(f"redis://127.0.0.1:{second}", "", "secret"), "t")
        until(lambda: b"master_link_status:up" in ask.execute("INFO", "replication"))
        ask.close()
        watching = RedisConnection(Server(f"redis://127.0.0.1:{watch}"), "t")
        until(lambda: len(watching.execute("SENTINEL", "REPLICAS", "games")) == 1)
        watching.close()
        yield f"sentinel://127.0.0.1:{free_port()},127.0.0.1:{watch}/games", master


def test_a_sentinel_url_finds_the_server_also_after_a_fail_over(sentinel):
    url, master = sentinel
    node = connect_training(Server(url, "", "secret"), "moving")
    client = connect_client(Server(url, "client", "secret"), "moving", "c1")
    assert node.generation() == 0
    assert client.pointer() is None
    other = connect_training(Server(url.replace("/games", "/chess")), "moving")
    with pytest.raises(Unreachable, match=r"sentinels .* no server for this service"):
        other.generation()
    other.close()
    master.kill()
    master.wait()
    with pytest.raises(Unreachable):
        node.generation()

    def answers() -> bool:
        try:
            node.forget("nobody")  # a write, which a replica refuses
        except Unreachable:
            return False
        return True

    until(answers)
    assert client.pointer() is None
    client.close()
    node.close()


def test_sentinels_that_do_not_answer_are_unreachable():
    node = connect_training(Server(f"sentinel://127.0.0.1:{free_port()}/games"), "moving")
    with pytest.raises(Unreachable, match=r"sentinels .* do not answer"):
        node.generation()
    node.close()
