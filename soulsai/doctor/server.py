"""The server itself, as its settings and its users tell whoever runs it."""

from collections.abc import Iterator, Mapping
from pathlib import Path

from soulsai.config.schema import Config
from soulsai.doctor.findings import CheckResult, failure, ok, warning
from soulsai.doctor.rights import password, rights
from soulsai.errors import WireError
from soulsai.wire.names import OLDEST_SERVER, Role, parse_version
from soulsai.wire.redis.connection import RedisConnection
from soulsai.wire.secrets import file_of, server_for

NODES: tuple[Role, ...] = ("training_node", "telemetry_node", "operator", "metrics", "admin")
# Releases without a hole that is known and that the rights of our users leave open.
MENDED = {"redis": (8, 6, 3), "valkey": (8, 0, 0)}
KEPT_UP = (7, 0, 15)  # of Redis, by Debian


def roles(config: Config) -> Iterator[CheckResult]:
    """Examine every role that has a secret of its own here, and the server behind it."""
    for role in NODES:
        if role != "training_node" and not file_of(Path(config.redis.secrets), role).is_file():
            continue
        link = RedisConnection(server_for(role, config.redis), "doctor")
        try:
            entered = password(role, link)
            yield entered
            if entered.state == "failure":
                continue
            yield from rights(role, link, config.run.name)
            if role == "metrics":
                yield from settings(link)
        finally:
            link.close()


def settings(link: RedisConnection) -> Iterator[CheckResult]:
    """Examine a server's version, and what it does when it is full or ends."""
    try:
        told = _pairs(link.execute("INFO"))
    except WireError as error:
        yield failure("server", str(error), "see what the server's log says")
        return
    yield version(told)
    limit, policy = int(told.get("maxmemory", "0")), told.get("maxmemory_policy", "")
    if policy != "noeviction":
        mend = "set maxmemory-policy noeviction: any other may throw away the weights"
        yield failure("memory", f"when it is full, the server drops what it likes ({policy})", mend)
    elif not limit:
        mend = "set maxmemory to three quarters of what the server may have"
        yield warning("memory", "the server takes all memory of its machine", mend)
    else:
        used = int(told.get("used_memory", "0")) / limit
        yield ok("memory", f"{used:.0%} of {limit / 1e9:.1f} GB are used")
    if told.get("aof_enabled") != "1":
        mend = "set appendonly yes, appendfsync everysec"
        yield warning("durability", "a crash of the server loses what was not yet learnt", mend)
    elif told.get("aof_last_write_status", "ok") != "ok":
        yield failure("durability", "the server cannot write its log", "is its disk full?")
    else:
        yield ok("durability", "what clients have sent survives a crash of the server")


def version(told: Mapping[str, str]) -> CheckResult:
    """Judge which server this is."""
    name = "valkey" if "valkey_version" in told else "redis"
    text = told.get(f"{name}_version", "")
    said = f"{name} {text}"
    if parse_version(told.get("redis_version", "")) < OLDEST_SERVER:
        mend = "use Redis or Valkey 7.0 or later"
        return failure("server", f"{said} cannot tell who may write from who may read", mend)
    release = tuple(int(part) for part in text.split(".") if part.isdecimal())
    if release < MENDED[name] and not (name == "redis" and KEPT_UP <= release < (7, 1)):
        known = ".".join(map(str, MENDED[name]))
        mend = f"{known} or later has no holes that are known to us; strangers talk to it"
        return warning("server", f"{said} has holes that are known", mend)
    return ok("server", said)


def _pairs(info: object) -> dict[str, str]:
    text = info.decode("utf-8", "replace") if isinstance(info, bytes) else ""
    pairs = (line.partition(":") for line in text.splitlines() if not line.startswith("#"))
    return {name: value for name, _, value in pairs}
