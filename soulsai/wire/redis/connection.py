"""Commands to a Redis or Valkey server through redis-py, with errors in the project's own terms."""

import inspect
import os
import socket
import ssl
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any, get_args

from redis import ConnectionPool, Redis, exceptions
from redis import Sentinel as SentinelClient
from redis.backoff import NoBackoff
from redis.client import PubSub
from redis.connection import (
    AbstractConnection,
    Connection,
    SSLConnection,
    UnixDomainSocketConnection,
)
from redis.retry import Retry
from redis.sentinel import MasterNotFoundError

from soulsai.errors import (
    AccessDenied,
    ConfigError,
    CredentialsRefused,
    ServerFull,
    Unreachable,
    WireError,
    WrongScheme,
)
from soulsai.wire.names import CLIENT_USER, Role
from soulsai.wire.redis.url import Sentinel, Tcp, parse
from soulsai.wire.secrets import Server

Word = bytes | str | int
RedisCommand = Sequence[Word]

_SECONDS = 5.0
_PROBE_SECONDS = 1.0
_BATCH_BYTES = 256 * 1024  # sent before replies are awaited: 50 KB/s suffice for the time-out
_NODES = frozenset(get_args(Role)) - {"client"}  # whose connections are never closed for memory
_PASSING = ("BUSY", "LOADING", "MASTERDOWN", "CLUSTERDOWN", "TRYAGAIN", "NOREPLICAS", "READONLY")


class OldId(WireError):
    """The id of an entry is not greater than the newest id of its stream."""


class RedisConnection:
    """Sends commands to one server as one user; safe between threads.

    A broken connection is replaced by the next call. Nothing is retried: a repeated append under
    an id chosen by the server would be stored twice, and the caller knows better when to try again.
    """

    def __init__(
        self,
        server: Server,
        name: str,
        new_client: Callable[[Server, str, str], Redis] | None = None,
    ) -> None:
        """Prepare the connection; the first call that needs it makes it.

        Args:
            server: Address and credentials.
            name: Shown by ``CLIENT LIST`` on the server.
            new_client: Makes the redis-py client of a server, a user name and a client name.
        """
        if server.ca_file and not os.path.isfile(server.ca_file):
            raise ConfigError(f"redis.ca_file: there is no file {server.ca_file}")
        self._server = server
        self._name = f"soulsai:{name}"
        self._new_client = new_client or redis_client
        self._username = server.username
        self._client = self._new_client(server, server.username, self._name)
        self._idle: deque[Any] = deque()  # kept here, because asking the pool takes 10 us longer
        self._closed = False
        self._checks_scheme = True  # until a connection has been made
        self.made = 0  # connections so far, of all threads

    def __repr__(self) -> str:
        return f"RedisConnection({self._server.url!r})"

    @property
    def user(self) -> str:
        """The user that the server accepted, or is expected to; empty for its default user."""
        return self._username

    def execute(self, *command: Word) -> Any:
        """Return the server's reply to one command; raise ``WireError`` for an error reply."""
        (reply,) = self.execute_all([command])
        if isinstance(reply, WireError):
            raise reply
        return reply

    def execute_all(self, commands: Sequence[RedisCommand], made: int | None = None) -> list[Any]:
        """Send commands in batches and return one reply per command, errors in their places.

        Args:
            commands: The commands.
            made: The value of ``made`` at an earlier time; nothing is sent if it is another now.

        Raises:
            Unreachable: A reply is missing. The number of executed commands is then unknown.
        """
        with self._borrowed() as connection:
            is_known = made in (None, self.made)
            replies: list[Any] = []
            for batch in batches(commands) if is_known else ():
                connection.send_packed_command(connection.pack_commands(batch))
                replies += [self._reply(connection) for _ in batch]
        if not is_known:
            raise Unreachable(f"the connection to {self._server.url} was lost, and is made again")
        return replies

    def subscribe(self, channels: Sequence[str]) -> PubSub:
        """Return a new subscription to channels; its methods raise errors of redis-py."""
        with self._borrowed():  # selects the user that the server accepts
            pubsub: PubSub = self._client.pubsub()  # type: ignore[no-untyped-call]
        try:
            pubsub.subscribe(*channels)
        except BaseException:
            pubsub.close()
            raise
        return pubsub

    def close(self) -> None:
        """Close the idle connections; later calls raise ``Unreachable``."""
        self._closed = True
        while self._idle:
            self._drop(self._idle.pop())

    def translated(self, error: exceptions.RedisError) -> WireError:
        """Return the project's error for one of redis-py."""
        where, text = self._server.url, str(error)
        if isinstance(error, exceptions.AuthenticationError) or text.startswith("NOAUTH"):
            return CredentialsRefused(self._refusal(text))
        if isinstance(error, MasterNotFoundError):
            return Unreachable(
                f"{where}: the sentinels know no server for this service, or do not answer"
            )
        if isinstance(error, exceptions.NoPermissionError):
            return AccessDenied(f"{where} does not allow our user this: {text}")
        if _has_untrusted_certificate(error):
            return AccessDenied(
                f"{where}: the server's certificate is not trusted; copy the server's ca.pem "
                "beside redis.secret (or name it as redis.ca_file), and use the host name that "
                f"the certificate was made for ({text})"
            )
        if isinstance(error, exceptions.OutOfMemoryError) or text.startswith("MISCONF"):
            return ServerFull(f"{where} has no room: {text}")
        if "equal or smaller" in text or "exhausted the last possible ID" in text:
            return OldId(text)
        if _is_passing(error):
            return Unreachable(f"{where} cannot be reached now: {text}")
        return WireError(f"{where} refuses: {text}")

    def _refusal(self, text: str) -> str:
        where, source = self._server.url, self._server.source
        if not self._server.password:
            missing = f": {source}" if source else ""
            return (
                f"{where} requires a password, and none was sent{missing}; copy redis.secret of "
                f"the server there, or use an invite ({text})"
            )
        origin = f"the password in {source}" if source else "the password"
        mend = "copy redis.secret of the server again"
        if self._server.username.startswith(CLIENT_USER):
            name = self._server.username.removeprefix(CLIENT_USER)
            origin = source or f"the password of {name}"
            mend = (
                "it was revoked or replaced; the server's operator makes a new one with "
                f"`soulsai enroll {name} --renew`"
            )
        elif self._server.username not in ("", "client"):
            mend = "start the server with the users.acl of the same folder"
        return f"{where} refuses {origin}: {mend} ({text})"

    @contextmanager
    def _borrowed(self) -> Iterator[Any]:
        """Yield a connection; an error closes it, for its state is then unknown."""
        if self._closed:
            raise Unreachable("this connection is closed")
        try:
            connection = self._ready()
            try:
                yield connection
            except BaseException:
                self._drop(connection)
                raise
            self._idle.append(connection)
        except exceptions.RedisError as error:
            translated = self.translated(error)
            if self._checks_scheme and isinstance(translated, Unreachable):
                self._check_scheme(error)
            raise translated from error
        finally:
            if self._closed:
                self.close()

    def _check_scheme(self, error: exceptions.RedisError) -> None:
        """Raise ``WrongScheme`` if the server answers, but not in the way of the address."""
        address = parse(self._server.url)
        if isinstance(error, exceptions.ResponseError) or not isinstance(address, Tcp):
            return
        other, way = ("redis", "without TLS") if address.tls else ("rediss", "over TLS only")
        if _answers(address.host, address.port, tls=not address.tls):
            rest = self._server.url.partition("://")[2]
            raise WrongScheme(
                f"{self._server.url}: the server answers {way}; use {other}://{rest}"
            ) from error

    def _ready(self) -> Any:
        """Return an idle connection that is still open, or a new one."""
        try:
            connection = self._idle.pop()
        except IndexError:
            return self._connected()
        try:
            if not connection.can_read(0):
                return connection
        except (exceptions.RedisError, OSError):
            pass  # closed by the server
        self._drop(connection)
        return self._connected()

    def _drop(self, connection: Any) -> None:
        connection.disconnect()
        self._client.connection_pool.release(connection)

    def _connected(self) -> Any:
        connection = self._new_connection()
        self.made += 1
        return connection

    def _new_connection(self) -> Any:
        connection: Any
        try:
            connection = self._client.connection_pool.get_connection()
        except exceptions.AuthenticationError:
            if self._username != "client":
                raise
            # A server that has only `requirepass` knows no user `client`.
            client = self._new_client(self._server, "", self._name)
            connection = client.connection_pool.get_connection()
            self._client, self._username = client, ""
        self._checks_scheme = False
        if self._username in _NODES:
            self._protect(connection)
        return connection

    @staticmethod
    def _protect(connection: Any) -> None:
        """Keep the server from closing a connection when clients take too much memory."""
        try:
            connection.send_command("CLIENT", "NO-EVICT", "ON")
            connection.read_response()
        except exceptions.ResponseError:
            pass  # users of an earlier release have no right to this

    def _reply(self, connection: Any) -> Any:
        try:
            return connection.read_response(disable_decoding=True)
        except exceptions.ResponseError as error:
            if _is_passing(error):
                raise
            return self.translated(error)


def redis_client(server: Server, username: str, name: str) -> Redis:
    """Return a redis-py client without retries that speaks RESP3 and leaves replies as they are.

    Args:
        server: Address, password and certificate authority.
        username: Empty for the server's default user.
        name: Shown by ``CLIENT LIST`` on the server.
    """
    address = parse(server.url)
    options = {**_options(), "client_name": name, "db": address.db}
    if server.password:
        options |= {"password": server.password, "username": username or None}
    if isinstance(address, Sentinel):
        sentinels: Any = SentinelClient(  # type: ignore[no-untyped-call]
            address.sentinels, sentinel_kwargs=_options()
        )
        client: Redis = sentinels.master_for(address.service, **options)
        return client
    if not isinstance(address, Tcp):
        options |= {"connection_class": UnixDomainSocketConnection, "path": address.path}
        return Redis(connection_pool=ConnectionPool(**options))
    options |= {"connection_class": Connection, "host": address.host, "port": address.port}
    if address.tls:
        options |= {
            "connection_class": SSLConnection,
            "ssl_ca_certs": server.ca_file or None,
            "ssl_ca_data": server.ca_data or None,
            "ssl_cert_reqs": "required",
            "ssl_check_hostname": True,
            "ssl_min_version": ssl.TLSVersion.TLSv1_2,
        }
    return Redis(connection_pool=ConnectionPool(**options))


def scan(connection: RedisConnection, pattern: str) -> list[str]:
    """Return all keys that match a pattern, in alphabetical order."""
    found: set[str] = set()
    cursor: Any = 0
    while True:
        cursor, keys = connection.execute("SCAN", cursor, "MATCH", pattern, "COUNT", 1000)
        found.update(key.decode("utf-8", "replace") for key in keys)
        if int(cursor) == 0:
            return sorted(found)


def raise_first(replies: Sequence[Any]) -> None:
    """Raise the first error among replies, if there is one."""
    for reply in replies:
        if isinstance(reply, WireError):
            raise reply


def batches(commands: Sequence[RedisCommand]) -> Iterator[Sequence[RedisCommand]]:
    """Yield slices of commands of at most 256 KiB each; a larger command has its own slice."""
    start = size = 0
    for index, command in enumerate(commands):
        length = sum(len(word) for word in command if not isinstance(word, int))
        if index > start and size + length > _BATCH_BYTES:
            yield commands[start:index]
            start, size = index, 0
        size += length
    yield commands[start:]


def _options() -> dict[str, Any]:
    """Return the options of every connection that the installed redis-py knows."""
    options: dict[str, Any] = {
        "protocol": 3,
        "socket_timeout": _SECONDS,
        "socket_connect_timeout": _SECONDS,
        "health_check_interval": int(_SECONDS),
        "retry": Retry(NoBackoff(), 0),
        "socket_read_size": 2**17,
    }
    known = inspect.signature(AbstractConnection.__init__).parameters
    if "legacy_responses" in known:
        options["legacy_responses"] = False
    if "driver_info" in known:  # the roles have no right to CLIENT SETINFO, unknown to Redis 7.0
        options["driver_info"] = None
    else:
        options["lib_name"] = options["lib_version"] = None
    if "maint_notifications_config" in known:  # only a managed service of Redis sends them
        from redis.maint_notifications import MaintNotificationsConfig

        options["maint_notifications_config"] = MaintNotificationsConfig(enabled=False)
    return options


def _is_passing(error: exceptions.RedisError) -> bool:
    """Return whether the connection is of no use any more, though a new one may be."""
    if isinstance(error, exceptions.ResponseError):
        kinds = (exceptions.ReadOnlyError, exceptions.ClusterDownError, exceptions.TryAgainError)
        return isinstance(error, kinds) or str(error).startswith(_PASSING)
    return True


def _answers(host: str, port: int, *, tls: bool) -> bool:
    """Return whether a server answers over TLS, whatever its certificate, or in plain text."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname = False  # nothing is sent over this connection
    context.verify_mode = ssl.CERT_NONE
    try:
        with socket.create_connection((host, port), _PROBE_SECONDS) as probe:
            if tls:
                with context.wrap_socket(probe, server_hostname=host):
                    return True
            probe.sendall(b"PING\r\n")
            return probe.recv(1) in (b"+", b"-")
    except (OSError, ValueError):
        return False


def _has_untrusted_certificate(error: BaseException) -> bool:
    seen: BaseException | None = error
    while seen is not None:
        if isinstance(seen, ssl.SSLCertVerificationError):
            return True
        seen = seen.__cause__ or seen.__context__
    return False
