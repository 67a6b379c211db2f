"""The checks of ``soulsai doctor``; none of them changes the server."""

import importlib.metadata
import importlib.util
import os
import shutil
import socket
import ssl
import statistics
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING

from soulsai.config.schema import Config
from soulsai.doctor.texts import CheckResult, finding
from soulsai.errors import (
    AccessDenied,
    ConfigError,
    EnvironmentFault,
    Forged,
    NoRun,
    ProtocolError,
    SoulsAIError,
    WireError,
)
from soulsai.types import MASK, PROTOCOL, RunSpec, zeros
from soulsai.wire.names import CLIENT_USER, OLDEST_SERVER, Keys, Role, parse_version
from soulsai.wire.protocols import ClientWire
from soulsai.wire.redis.url import Address, Sentinel, Tcp, Unix, parse, stays_private
from soulsai.wire.secrets import Server, read_secret
from soulsai.wire.signing import signer_in
from soulsai.wire.version import ProtocolRange, check_protocol

if TYPE_CHECKING:
    from soulsai.client.actor import Actor
    from soulsai.wire.redis.connection import RedisCommand, RedisConnection

_OTHER_RUN = "doctor"  # a run that no invite is made for
LOW_BYTES, NO_BYTES = 1_000_000_000, 50_000_000
SECONDS = 5.0  # to connect
SLOW_MS = 1000.0  # for an answer
SLOW_MB = 0.1  # per second, there and back
EXPIRES_DAYS = 14
SKEW_SECONDS = 60.0
# The oldest releases without a known security hole that our users' rights leave open.
MENDED = {"redis": (8, 6, 3), "valkey": (8, 0, 0)}
KEPT_UP = (7, 0, 15)  # of Redis, maintained by Debian
_PAYLOAD = bytes(128 * 1024)
_ACTS = 50  # timed calls of the policy
_OURS_ALONE = ("admin.secret", "ca.key")  # never for containers


def disk(folder: Path, purpose: str) -> CheckResult:
    """Check the free space and the right to write in a folder."""
    place = next(each for each in (folder.absolute(), *folder.absolute().parents) if each.exists())
    free = shutil.disk_usage(place).free
    if not place.is_dir() or not os.access(place, os.W_OK):
        return finding("disk.closed", place=place)
    case = "full" if free < NO_BYTES else "low" if free < LOW_BYTES else "ok"
    return finding(f"disk.{case}", free=f"{free / 1e9:.1f}", purpose=purpose, folder=folder)


def software(needed: Sequence[str], extra: str) -> CheckResult:
    """Check that packages are installed, without an import; ``extra`` installs them."""
    missing = [name for name in needed if importlib.util.find_spec(name) is None]
    if missing:
        package = f'"soulsai[{extra}]"' if extra else "soulsai"
        return finding("software.missing", names=", ".join(missing), package=package)
    found = ", ".join(f"{name} {importlib.metadata.version(name)}" for name in needed)
    return finding("software.ok", names=found)


def game(id: str) -> Iterator[CheckResult]:
    """Check what a game of SoulsGym needs before a fight; nothing for other environments."""
    from soulsai.client.games import soulsgym  # imports Gymnasium

    if not soulsgym.is_fight(id):
        return
    problems = list(soulsgym.problems(id))
    for fact, remedy in problems:
        yield finding("game.missing", fact=fact, remedy=remedy)
    if not problems:
        yield finding("game.ok", id=id)


def secrets(folder: Path) -> Iterator[CheckResult]:
    """Check the modes of the secrets in a folder, and the length of the passwords."""
    closed = folder.is_dir() and not folder.stat().st_mode & 0o077
    files = [file for file in sorted(folder.glob("*")) if file.suffix in (".secret", ".key")]
    # Windows has no such modes; there, a user's folder is private.
    readable = [
        file.name
        for file in files
        if os.name == "posix"
        and file.stat().st_mode & 0o077
        and (not closed or file.name in _OURS_ALONE)
    ]
    if readable:
        paths = " ".join(str(folder / name) for name in readable)
        yield finding("secrets.readable", names=", ".join(readable), folder=folder, files=paths)
    weak = [file.name for file in files if file.suffix == ".secret" and len(read_secret(file)) < 16]
    if weak:
        yield finding("secrets.short", names=", ".join(weak), first=weak[0])
    if files and not readable and not weak:
        yield finding("secrets.ok", count=len(files), folder=folder)


def signing(folder: Path) -> CheckResult:
    """Check the signing key of the training node."""
    try:
        signer = signer_in(folder)
    except SoulsAIError as error:
        return finding("signature.fault", error=error)
    return finding("signature.signs", public=signer.public) if signer else finding("signature.none")


def address(server: Server) -> Iterator[CheckResult]:
    """Check that a server listens at the address, and that others cannot listen in."""
    place, url = parse(server.url), server.url
    if not stays_private(place):
        yield finding("encryption.none", url=url)
    if isinstance(place, Sentinel):
        yield finding("address.sentinel", url=url)
        return
    began = time.perf_counter()
    try:
        _connect(place).close()
    except OSError as error:
        kinds = {socket.gaierror: "name", ConnectionRefusedError: "refused"}
        case = "socket" if isinstance(place, Unix) else kinds.get(type(error), "away")
        yield finding(f"address.{case}", url=url, reason=_reason(error))
        return
    yield finding("address.ok", url=url, ms=f"{1e3 * (time.perf_counter() - began):.1f}")


def certificate(server: Server, now: datetime) -> Iterator[CheckResult]:
    """Check the certificate of a server with TLS."""
    place = parse(server.url)
    if not isinstance(place, Tcp) or not place.tls:
        return
    host = place.host
    try:
        context = ssl.create_default_context(
            cafile=server.ca_file or None, cadata=server.ca_data or None
        )
        with _connect(place) as plain, context.wrap_socket(plain, server_hostname=host) as tls:
            shown, version = tls.getpeercert() or {}, tls.version()
    except ssl.SSLCertVerificationError as error:
        reason = error.verify_message
        expired = "expired" in reason or "not yet valid" in reason
        other = "mismatch" in reason or "not valid for" in reason
        case = "expired" if expired else "name" if other else "unknown"
        yield finding(f"certificate.{case}", reason=reason, host=host)
        return
    except (OSError, ssl.SSLError) as error:
        yield finding("certificate.plain", host=host, port=place.port, reason=_reason(error))
        return
    ends = datetime.fromtimestamp(ssl.cert_time_to_seconds(str(shown["notAfter"])), UTC)
    days = (ends - now).days
    case = "soon" if days < EXPIRES_DAYS else "ok"
    yield finding(f"certificate.{case}", host=host, days=days, version=version)


def password(role: str, link: "RedisConnection") -> CheckResult:
    """Check that the server accepts the role's password."""
    try:
        link.execute("PING")
    except AccessDenied as error:
        client = "client" if role == "client" else "node"
        case = "none" if "NOAUTH" in str(error) else client
        return finding(f"password.{case}", role, error=error, role=role)
    except WireError as error:
        return finding("password.fault", role, error=error)
    return finding("password.ok", role)


def rights(
    role: Role, link: "RedisConnection", run: str, client: str = ""
) -> Iterator[CheckResult]:
    """Check that a role has all rights that it needs, and no right of the server's owner.

    Args:
        role: The role of the connection.
        link: A connection with the role's password.
        run: The setting ``run.name``.
        client: The client's name, for a client.
    """
    check = f"{role} rights"
    enrolled = bool(client) and link.user.startswith(CLIENT_USER)
    try:
        denied = [
            " ".join(str(word) for word in command[:2])
            for command in _needed(role, run, client)
            if not _allowed(link, command)
        ]
        if denied:
            renew = f"; or a new invite: `soulsai enroll {client} --renew`" if enrolled else ""
            yield finding("rights.denied", check, commands=", ".join(denied), renew=renew)
        elif role != "admin" and _allowed(link, ("ACL", "WHOAMI")):
            yield finding("rights.all", check)
        elif unread := _unread(link, run, client):
            case = "earlier_invite" if enrolled else "earlier_users"
            yield finding(f"rights.{case}", check, client=client, keys=" and ".join(unread))
        elif enrolled and _allowed(link, ("GETRANGE", Keys(_OTHER_RUN).spec, 0, 0)):
            yield finding("rights.every_run", check, client=client)
        else:
            yield finding("rights.ok", check)
    except WireError as error:
        yield finding("rights.fault", check, error=error)


def foreign(link: "RedisConnection") -> CheckResult:
    """Check that no client has sent anything to runs that do not exist."""
    from soulsai.identity.users import foreign_streams

    try:
        count = len(foreign_streams(link))
    except WireError as error:
        return finding("rights.fault", "streams", error=error)
    return finding("streams.foreign", count=count) if count else finding("streams.ok")


def _unread(link: "RedisConnection", run: str, client: str) -> list[str]:
    """Return the keys that the training node writes for a client and that it may not read.

    It plays without them, but does not know why it is kept out, and keeps what it has sent longer.
    """
    keys = Keys(run)
    told = (keys.notice(client), keys.received(client)) if client else ()
    return [key for key in told if not _allowed(link, ("GETRANGE", key, 0, 0))]


def _needed(role: Role, run: str, client: str = "") -> list["RedisCommand"]:
    """Return commands that a role must be allowed to send; none of them changes anything."""
    keys = Keys(run)
    never = ("NOMKSTREAM", "0-0", "d", "")  # an id that no stream accepts
    read = (keys.spec, keys.program, keys.manifest, keys.model, keys.control)
    commands: dict[Role, list[RedisCommand]] = {
        "client": [
            *(("GETRANGE", key, 0, 0) for key in read),
            ("XADD", keys.experience(client or "doctor"), *never),
        ],
        "training_node": [
            ("GET", keys.generation),
            ("SCAN", 0, "COUNT", 1),
            ("XADD", keys.episodes, *never),
            ("PERSIST", f"{keys.prefix}doctor"),
            ("UNLINK", f"{keys.prefix}doctor"),
        ],
        "telemetry_node": [
            ("GET", keys.status),
            ("XREAD", "COUNT", 1, "STREAMS", keys.episodes, "$"),
            ("XADD", keys.commands("telemetry"), *never),
        ],
        "operator": [
            ("GET", keys.spec),
            ("GET", keys.status),
            ("XADD", keys.commands("operator"), *never),
        ],
        "metrics": [("INFO", "memory"), ("SLOWLOG", "LEN"), ("LATENCY", "LATEST")],
        "admin": [("ACL", "USERS"), ("CLIENT", "LIST")],
    }
    return commands[role]


def speed(link: "RedisConnection", clock: Callable[[], float] = time.perf_counter) -> CheckResult:
    """Measure the latency and the throughput of a connection."""
    try:
        times = [_timed(lambda: link.execute("PING"), clock) for _ in range(5)]
        seconds = min(_timed(lambda: link.execute("PING", _PAYLOAD), clock) for _ in range(3))
    except WireError as error:
        return finding("speed.fault", error=error)
    delay = 1e3 * statistics.median(times)
    rate = 2 * len(_PAYLOAD) / max(seconds, 1e-9) / 1e6
    case = "slow" if delay > SLOW_MS or rate < SLOW_MB else "ok"
    return finding(f"speed.{case}", ms=f"{delay:.1f}", rate=f"{rate:.1f}")


def clock_skew(link: "RedisConnection", now: Callable[[], float] = time.time) -> CheckResult:
    """Compare this machine's clock with the server's."""
    before = now()
    try:
        seconds, microseconds = link.execute("TIME")
    except WireError as error:
        return finding("clock.unknown", error=error)
    skew = (before + now()) / 2 - (int(seconds) + int(microseconds) / 1e6)
    if abs(skew) > SKEW_SECONDS:
        direction = "ahead of" if skew > 0 else "behind"
        return finding("clock.wrong", seconds=f"{abs(skew):,.0f}", direction=direction)
    return finding("clock.ok", seconds=f"{abs(skew):.1f}")


def server_settings(link: "RedisConnection") -> Iterator[CheckResult]:
    """Check the version, the memory limit and the durability of a server."""
    try:
        info = link.execute("INFO")
    except WireError as error:
        yield finding("server.fault", error=error)
        return
    text = info.decode("utf-8", "replace") if isinstance(info, bytes) else ""
    pairs = (line.partition(":") for line in text.splitlines() if not line.startswith("#"))
    values = {name: value for name, _, value in pairs}
    yield server_version(values)
    limit, policy = int(values.get("maxmemory", "0")), values.get("maxmemory_policy", "")
    if policy != "noeviction":
        yield finding("memory.policy", policy=policy)
    elif not limit:
        yield finding("memory.unlimited")
    else:
        used = int(values.get("used_memory", "0")) / limit
        yield finding("memory.ok", used=f"{used:.0%}", limit=f"{limit / 1e9:.1f}")
    if values.get("aof_enabled") != "1":
        yield finding("durability.none")
    else:
        written = values.get("aof_last_write_status", "ok") == "ok"
        yield finding("durability.ok" if written else "durability.fault")


def server_version(info: Mapping[str, str]) -> CheckResult:
    """Check the release of a server by its ``INFO``."""
    name = "valkey" if "valkey_version" in info else "redis"
    text = info.get(f"{name}_version", "")
    version = f"{name} {text}"
    if parse_version(info.get("redis_version", "")) < OLDEST_SERVER:
        return finding("server.old", version=version)
    release = tuple(int(part) for part in text.split(".") if part.isdecimal())
    if release < MENDED[name] and not (name == "redis" and KEPT_UP <= release < (7, 1)):
        mended = ".".join(map(str, MENDED[name]))
        return finding("server.holes", version=version, mended=mended)
    return finding("server.ok", version=version)


def run(config: Config, wire: ClientWire, named: str, *, pinned: bool) -> Iterator[CheckResult]:
    """Check the published run from its spec to an action.

    Args:
        config: All settings.
        wire: A client's connection.
        named: The environment of ``--env``, or empty.
        pinned: Whether the server's public key is known.
    """
    import onnxruntime

    runtime = f"ONNX Runtime {onnxruntime.__version__}"
    try:
        spec = wire.spec()
    except (NoRun, ProtocolError, Forged, WireError) as error:
        kinds = {NoRun: "run.none", ProtocolError: "protocol.fault", Forged: "signature.forged"}
        key = next((kinds[kind] for kind in kinds if isinstance(error, kind)), "run.fault")
        yield finding(key, error=error)
        yield finding("policy.untried", runtime=runtime)
        return
    offer = spec.environment
    yield finding("run.ok", run=spec.run, algorithm=spec.algorithm, environment=offer.id)
    later = check_protocol(ProtocolRange(spec.protocol, spec.oldest_protocol))
    if later:
        yield finding("protocol.later", text=later)
    else:
        oldest, newest = spec.oldest_protocol, spec.protocol
        yield finding("protocol.ok", ours=PROTOCOL, oldest=oldest, newest=newest)
    yield finding("signature.ok" if pinned else "signature.unpinned", url=config.redis.url)
    yield _environment(config, spec, named)
    yield _policy(wire, spec, runtime)


def _environment(config: Config, spec: RunSpec, named: str = "") -> CheckResult:
    """Check that the run's environment is allowed, can be made, and has the run's spaces."""
    from soulsai.client.environment_offer import check_offer, difference
    from soulsai.client.own_values import numbered, with_own
    from soulsai.client.probe import open_offer

    offer = spec.environment
    try:
        offer = with_own(offer, config.client)
    except ConfigError as error:
        return finding("environment.values", error=error)
    try:
        id = check_offer(
            offer,
            named=named,
            listed=config.client.environments,
            own_kwargs=config.environment.kwargs | config.client.kwargs,
            own_stages=[stage.kwargs for stage in config.environment.schedule],
            own_wrappers=config.environment.wrappers | config.client.wrappers,
            allowed_wrappers=config.client.allowed_wrappers,
        )
    except ConfigError as error:
        return finding("environment.untrusted", error=error, id=offer.id)
    try:
        made = open_offer(id, numbered(offer, 0), masked=MASK in spec.spec.obs)
    except SoulsAIError as error:
        return finding("environment.broken", error=error, id=id)
    try:
        different = difference(made.spec, spec.spec)
        made.close()
    except EnvironmentFault as error:
        return finding("environment.leaks", error=error)
    if different:
        return finding("environment.differs", id=id, difference=different)
    return finding("environment.ok", id=id)


def _policy(wire: ClientWire, spec: RunSpec, runtime: str) -> CheckResult:
    """Check that the run's policy acts on this machine, and measure its speed."""
    from soulsai.client.actor import Actor
    from soulsai.client.trial_load import try_program

    try:
        program = wire.program(spec)
        pointer = wire.pointer()
        if pointer is None:
            return finding("policy.none", runtime=runtime)
        weights = wire.weights(pointer, program)
        try_program(program, weights, spec.spec)
        actor = Actor.load(program, weights, spec.spec)
    except WireError as error:
        return finding("policy.fault", runtime=runtime, error=error)
    version = f"{pointer.generation}-{pointer.version}"
    ms = f"{_milliseconds(actor, spec):.2f}"
    return finding("policy.ok", runtime=runtime, version=version, ms=ms)


def _milliseconds(actor: "Actor", spec: RunSpec) -> float:
    """Return the mean time of one action."""
    obs = {name: zeros(leaf, 1) for name, leaf in spec.spec.obs.items()}
    memory = {name: zeros(leaf, 1) for name, leaf in actor.memory.items()}

    def act() -> None:
        for _ in range(_ACTS):
            actor(obs, memory)

    return 1e3 * _timed(act, time.perf_counter) / _ACTS


def _allowed(link: "RedisConnection", command: "RedisCommand") -> bool:
    (reply,) = link.execute_all([command])
    return not isinstance(reply, AccessDenied)


def _timed(act: Callable[[], object], clock: Callable[[], float]) -> float:
    began = clock()
    act()
    return clock() - began


def _connect(place: Address) -> socket.socket:
    if isinstance(place, Unix):
        probe = socket.socket(socket.AF_UNIX)
        try:
            probe.settimeout(SECONDS)
            probe.connect(place.path)
        except OSError:
            probe.close()
            raise
        return probe
    if isinstance(place, Tcp):
        return socket.create_connection((place.host, place.port), SECONDS)
    raise OSError("sentinels have no address of their own")


def _reason(error: OSError) -> str:
    return error.strerror or str(error) or type(error).__name__
