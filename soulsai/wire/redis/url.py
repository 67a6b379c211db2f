"""Addresses of servers: the forms of ``redis.url``."""

from dataclasses import dataclass
from urllib.parse import SplitResult, urlsplit

from soulsai.config.schema import is_loopback
from soulsai.errors import ConfigError

_EXAMPLES = (
    "redis://host:6379, rediss://host:6379 (TLS), unix:///path/redis.sock "
    "or sentinel://host:26379,host:26379/service"
)


@dataclass(frozen=True)
class Tcp:
    """A server at a host and port."""

    host: str
    port: int
    tls: bool = False
    db: int = 0


@dataclass(frozen=True)
class Unix:
    """A server at a Unix socket of this machine."""

    path: str
    db: int = 0


@dataclass(frozen=True)
class Sentinel:
    """A service of one or more sentinels, which name the current server."""

    sentinels: tuple[tuple[str, int], ...]
    service: str
    db: int = 0


Address = Tcp | Unix | Sentinel


def parse(url: str) -> Address:
    """Return the address in a URL; raise ``ConfigError`` without one, or with a password."""
    if not url:
        raise ConfigError(f"redis.url: no server is named; write {_EXAMPLES}")
    try:
        parts = urlsplit(url)
        if "@" in parts.netloc:
            # Not repeated here: this line may be logged, and the config is saved with each run.
            raise ConfigError("redis.url: leave user and password out; they belong in redis.secret")
        return _address(parts)
    except ValueError as error:
        raise ConfigError(f"redis.url: {url!r}: {error}; write {_EXAMPLES}") from error


def check_encrypted(url: str, *, insecure: bool) -> None:
    """Raise ``ConfigError`` if the connection would leave this machine unencrypted."""
    if not insecure and not stays_private(parse(url)):
        raise ConfigError(
            f"redis.url: {url} leaves this machine unencrypted, password and all; use rediss:// "
            "(TLS), or on a network that you trust allow it with --insecure (redis.insecure)"
        )


def stays_private(address: Address) -> bool:
    """Return whether nobody on the network can read the connection."""
    match address:
        case Tcp():
            return address.tls or is_loopback(address.host)
        case Sentinel():
            return all(is_loopback(host) for host, _ in address.sentinels)
        case Unix():
            return True


def _address(parts: SplitResult) -> Address:
    if parts.scheme in ("redis", "rediss") and parts.hostname:
        return Tcp(
            parts.hostname, parts.port or 6379, parts.scheme == "rediss", _db(parts.path.strip("/"))
        )
    if parts.scheme == "unix" and parts.path and not parts.netloc:
        return Unix(parts.path, _db(parts.query.removeprefix("db=")))
    if parts.scheme == "sentinel" and parts.netloc:
        service, _, db = parts.path.strip("/").partition("/")
        if not service:
            raise ValueError("the service's name is missing")
        return Sentinel(tuple(map(_host_port, parts.netloc.split(","))), service, _db(db))
    raise ValueError("not an address")


def _host_port(text: str) -> tuple[str, int]:
    one = urlsplit(f"//{text}")
    if not one.hostname:
        raise ValueError("a sentinel without a host")
    return one.hostname, one.port or 26379


def _db(text: str) -> int:
    if text and not text.isdecimal():
        raise ValueError(f"no database {text!r}")
    return int(text or 0)
