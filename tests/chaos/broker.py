"""A real Redis or Valkey, set up as the product sets one up, that may be killed and wiped."""

import os
import re
import secrets
import shutil
import signal
import subprocess
import time
from contextlib import contextmanager
from pathlib import Path

from soulsai.config.schema import RedisSettings
from soulsai.errors import WireError
from soulsai.wire.names import ROLES, acl
from soulsai.wire.redis import server_settings
from soulsai.wire.redis.connection import RedisConnection
from soulsai.wire.redis.embedded_server import _start, find_binary
from soulsai.wire.secrets import server_for, write_secret

START_SECONDS = 30.0
_WORD = rb"\$\d+\r\n%s\r\n"
_XADD = re.compile(
    rb"(?i)XADD\r\n" + _WORD % rb"(\S+)" + _WORD % b"MAXLEN" + _WORD % rb"[~=]" + _WORD % rb"\d+"
    + _WORD % rb"(\d+-\d+)"
)  # fmt: skip


class Broker:
    """One server with a user per role; its data are in ``folder / "data"``, if it keeps any."""

    def __init__(self, folder, url, listen, *, durable=True, memory_mb=256, binary=None):
        self.secrets = folder / "secrets"
        self.data = folder / "data"
        self.log = folder / "redis.log"
        self.ready = []  # seconds from each start until it answered
        self._process = None
        self.secrets.mkdir(parents=True)
        passwords = {role: secrets.token_urlsafe(24) for role in ROLES}
        for role, password in passwords.items():
            write_secret(self.secrets / f"{'redis' if role == 'client' else role}.secret", password)
        host, port = listen
        self.data.mkdir(mode=0o700)
        data = self.data.resolve() if durable else None
        text = server_settings.private(folder, data, port, memory_mb)
        (folder / "redis.conf").write_text(text.replace("bind 127.0.0.1", f"bind {host}"))
        (folder / "users.acl").write_text(acl(passwords))
        self._command = [str(binary or find_binary()), str(folder / "redis.conf")]
        self._settings = RedisSettings(url=url, secrets=str(self.secrets))
        self._server = server_for("training_node", self._settings)

    def start(self):
        """Start it, and wait until it answers."""
        began = time.monotonic()
        self._process = _start(self._command)  # it ends with us, however we end
        link = RedisConnection(self._server, "chaos")
        try:
            while True:
                try:
                    link.execute("PING")
                    break
                except WireError as error:
                    if self._process.poll() is not None or self.since(began) > START_SECONDS:
                        raise OSError(f"the server did not start: {self.tail()}") from error
                    time.sleep(0.01)
        finally:
            link.close()
        self.ready.append(self.since(began))

    @property
    def pid(self):
        """Its process id."""
        return self._process.pid

    def kill(self):
        """End it as a crash would."""
        self._process.kill()
        self._process.wait()

    def written(self):
        """Return the file that the server appends to, and its size."""
        file = max(
            self.data.glob("appendonlydir/*.incr.aof"), key=lambda path: path.stat().st_mtime
        )
        return file, file.stat().st_size

    def last_written(self):
        """Return the id of the last entry of each stream in that file, by the stream's key."""
        return {
            key.decode(): id.decode() for key, id in _XADD.findall(self.written()[0].read_bytes())
        }

    def wipe(self):
        """Remove what a killed server has kept."""
        shutil.rmtree(self.data)
        self.data.mkdir()

    def signal(self, number):
        """Send a signal."""
        os.kill(self._process.pid, number)

    def stop(self):
        """Ask it to end, if it runs; return the seconds it took and its exit code."""
        began = time.monotonic()
        if self._process is None or self._process.poll() is not None:
            return 0.0, None
        self.signal(signal.SIGCONT)
        self._process.terminate()
        try:
            self._process.wait(10)
        except subprocess.TimeoutExpired:
            self.kill()
        return self.since(began), self._process.returncode

    @contextmanager
    def metrics(self):
        """Give a connection that may look at the server's state."""
        link = RedisConnection(server_for("metrics", self._settings), "chaos")
        yield link
        link.close()

    def tail(self):
        """Return the last lines of its log."""
        return "\n".join(Path(self.log).read_text(errors="replace").splitlines()[-5:])

    @staticmethod
    def since(began):
        return time.monotonic() - began
