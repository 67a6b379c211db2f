"""Making a connection to a real server, and saying what went wrong in our own words."""

import inspect
import os
import socket
import ssl
from collections.abc import Callable
from typing import Any, Protocol

from redis import exceptions
from redis.backoff import NoBackoff
from redis.connection import (
    AbstractConnection,
    Connection,
    SSLConnection,
    UnixDomainSocketConnection,
)
from redis.retry import Retry

from soulsai.errors import (
    AccessDenied,
    ConfigError,
    ServerFull,
    SoulsAIError,
    Unreachable,
    WireError,
)
from soulsai.wire.link import OldId
from soulsai.wire.redis.url import Address, Sentinel, Tcp, Unix, parse
from soulsai.wire.secrets import Server

_SECONDS = 5.0
_PASSING = ("BUSY", "LOADING", "MASTERDOWN", "CLUSTERDOWN", "TRYAGAIN", "NOREPLICAS", "READONLY")


class Connected(Protocol):
    """What we use of a redis-py connection, which itself is not typed."""

    _sock: socket.socket | None  # to sleep on; redis-py has no way to wait on two things at once
    connect: Callable[[], None]
    disconnect: Callable[[], None]
    send_command: Callable[..., None]
    send_packed_command: Callable[[Any], None]
    pack_commands: Callable[[Any], Any]
    can_read: Callable[[float], bool]
    read_response: Callable[..., Any]


_tcp: Callable[..., Any] = Connection
_tls: Callable[..., Any] = SSLConnection
_unix: Callable[..., Any] = UnixDomainSocketConnection


class Dialler:
    """Makes connections to one server as one user.

    Nothing is retried here: an append that was sent twice under an id of the server's own making
    would be stored twice, and whoever asks knows better when to ask again.
    """

    def __init__(self, server: Server, name: str) -> None:
        self._server = server
        self._address = parse(server.url)
        self._username = server.username
        self._options = {**_options(), "client_name": name}
        if server.ca_file and not os.path.isfile(server.ca_file):
            raise ConfigError(f"redis.ca_file: there is no file {server.ca_file}")

    def __repr__(self) -> str:
        return self._server.url

    def dial(self) -> Connected:
        """Return an authenticated connection."""
        try:
            return self._connected()
        except AccessDenied:
            if self._username != "client":
                raise
        # A server with nothing but `requirepass` knows no such user.
        self._username = ""
        try:
            return self._connected()
        except SoulsAIError:
            self._username = "client"
            raise

    def _connected(self) -> Connected:
        connection = self._connection(_master(self._address))
        try:
            connection.connect()
        except exceptions.RedisError as error:
            connection.disconnect()
            raise translated(error, self._server.url) from error
        return connection

    def _connection(self, address: Tcp | Unix) -> Connected:
        options: dict[str, Any] = {**self._options, "db": address.db}
        if self._server.password:
            options["password"] = self._server.password
            options["username"] = self._username or None
        make = _tcp
        if isinstance(address, Unix):
            make = _unix
            options["path"] = address.path
        else:
            options |= {"host": address.host, "port": address.port}
            if address.tls:
                make = _tls
                options["ssl_ca_certs"] = self._server.ca_file or None
                options["ssl_ca_data"] = self._server.ca_data or None
                options["ssl_cert_reqs"] = "required"
                options["ssl_check_hostname"] = True
                options["ssl_min_version"] = ssl.TLSVersion.TLSv1_2
        connection: Connected = make(**options)
        return connection


def socket_of(connection: Connected) -> socket.socket | None:
    """Return the socket of a connection, if it is connected."""
    return connection._sock


def _options() -> dict[str, Any]:
    """Return what every connection is made with, in the terms of the installed redis-py."""
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
    if "driver_info" in known:  # our users may not say CLIENT SETINFO, which 7.0 does not have
        options["driver_info"] = None
    else:
        options["lib_name"] = options["lib_version"] = None
    return options


def _master(address: Address) -> Tcp | Unix:
    """Return where the server is now; sentinels are asked each time, in their order."""
    if not isinstance(address, Sentinel):
        return address
    problem = "none of them answered"
    for host, port in address.sentinels:
        connection = _tcp(
            host=host, port=port, **{**_options(), "protocol": 2, "health_check_interval": 0}
        )
        try:
            connection.send_command("SENTINEL", "GET-MASTER-ADDR-BY-NAME", address.service)
            reply = connection.read_response()
        except exceptions.RedisError as error:
            problem = str(translated(error, f"sentinel {host}:{port}"))
            continue
        finally:
            connection.disconnect()
        if reply:
            return Tcp(reply[0].decode(), int(reply[1]), db=address.db)
        problem = f"sentinel {host}:{port} knows no service {address.service!r}"
    raise Unreachable(f"the sentinels do not say where the server is: {problem}")


def translated(error: exceptions.RedisError, where: str) -> WireError:
    """Return our own error for one of redis-py's."""
    text = str(error)
    if isinstance(error, exceptions.AuthenticationError) or text.startswith("NOAUTH"):
        return AccessDenied(
            f"{where} refuses our password; redis.secret must be the same here and on the server, "
            f"and an invite must not have been revoked ({text})"
        )
    if isinstance(error, exceptions.NoPermissionError):
        return AccessDenied(f"{where} does not allow our user this: {text}")
    if _has_untrusted_certificate(error):
        return AccessDenied(
            f"{where}: the server's certificate is not trusted; set redis.ca_file to the "
            f"certificate of its authority, and use the host name it was made for ({text})"
        )
    if isinstance(error, exceptions.OutOfMemoryError) or text.startswith("MISCONF"):
        return ServerFull(f"{where} has no room: {text}")
    if "equal or smaller" in text or "exhausted the last possible ID" in text:
        return OldId(text)
    if is_passing(error):
        return Unreachable(f"{where} cannot be reached now: {text}")
    return WireError(f"{where} refuses: {text}")


def is_passing(error: exceptions.RedisError) -> bool:
    """Whether the connection is of no use any more, though a new one may be."""
    if isinstance(error, exceptions.ResponseError):
        kinds = (exceptions.ReadOnlyError, exceptions.ClusterDownError, exceptions.TryAgainError)
        return isinstance(error, kinds) or str(error).startswith(_PASSING)
    return True


def _has_untrusted_certificate(error: BaseException) -> bool:
    seen: BaseException | None = error
    while seen is not None:
        if isinstance(seen, ssl.SSLCertVerificationError):
            return True
        seen = seen.__cause__ or seen.__context__
    return False
