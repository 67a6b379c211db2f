"""The road to the server: its address, its certificate, and how fast it is."""

import socket
import ssl
import statistics
import time
from collections.abc import Callable, Iterator
from datetime import UTC, datetime

from soulsai.doctor.findings import CheckResult, failure, ok, warning
from soulsai.errors import WireError
from soulsai.wire.redis.connection import RedisConnection
from soulsai.wire.redis.url import Address, Sentinel, Tcp, Unix, parse, stays_private
from soulsai.wire.secrets import Server

SECONDS = 5.0
SLOW_MS = 1000.0  # for an answer
SLOW_MB = 0.1  # per second, there and back
EXPIRES_DAYS = 14
SKEW_SECONDS = 60.0
_PAYLOAD = bytes(128 * 1024)


def address(server: Server) -> Iterator[CheckResult]:
    """Examine whether somebody listens at the address, and whether others can listen in."""
    place = parse(server.url)
    if not stays_private(place):
        yield warning(
            "encryption",
            f"{server.url}: all that is said, the password too, can be read on the way",
            "use rediss://; make certificates with `soulsai secrets init --host NAME`",
        )
    if isinstance(place, Sentinel):
        yield ok("address", f"{server.url}: the sentinels are asked when connecting")
        return
    began = time.perf_counter()
    try:
        _reach(place).close()
    except OSError as error:
        yield failure("address", f"{server.url}: {_why(error)}", _mend(place, error))
        return
    yield ok("address", f"{server.url} answers in {1e3 * (time.perf_counter() - began):.1f} ms")


def certificate(server: Server, now: datetime) -> Iterator[CheckResult]:
    """Examine the certificate of a server that has one."""
    place = parse(server.url)
    if not isinstance(place, Tcp) or not place.tls:
        return
    try:
        context = ssl.create_default_context(
            cafile=server.ca_file or None, cadata=server.ca_data or None
        )
        with _reach(place) as plain, context.wrap_socket(plain, server_hostname=place.host) as tls:
            shown, version = tls.getpeercert() or {}, tls.version()
    except ssl.SSLCertVerificationError as error:
        yield failure("certificate", error.verify_message, _certificate_mend(error, place.host))
        return
    except (OSError, ssl.SSLError) as error:
        yield failure(
            "certificate",
            f"no TLS at {place.host}:{place.port}: {_why(error)}",
            "the port may be the unencrypted one; ask whoever runs the server for the TLS port",
        )
        return
    ends = datetime.fromtimestamp(ssl.cert_time_to_seconds(str(shown["notAfter"])), UTC)
    days = (ends - now).days
    said = f"valid for {place.host} for {days} days, {version}"
    if days < EXPIRES_DAYS:
        mend = "on the server, renew it: `soulsai secrets init`, then restart what speaks TLS"
        yield warning("certificate", said, mend)
    else:
        yield ok("certificate", said)


def speed(link: RedisConnection, clock: Callable[[], float] = time.perf_counter) -> CheckResult:
    """Measure how long an answer takes, and how much goes there and back per second."""
    try:
        times = [_timed(lambda: link.execute("PING"), clock) for _ in range(5)]
        seconds = min(_timed(lambda: link.execute("PING", _PAYLOAD), clock) for _ in range(3))
    except WireError as error:
        mend = "the connection breaks under load; look at the network, or try by cable"
        return failure("speed", str(error), mend)
    delay = 1e3 * statistics.median(times)
    rate = 2 * len(_PAYLOAD) / max(seconds, 1e-9) / 1e6
    said = f"{delay:.1f} ms for an answer, {rate:.1f} MB/s there and back"
    if delay > SLOW_MS or rate < SLOW_MB:
        mend = "clients will act with old weights; use a nearer server, or a faster network"
        return warning("speed", said, mend)
    return ok("speed", said)


def clock_skew(link: RedisConnection, now: Callable[[], float] = time.time) -> CheckResult:
    """Compare our clock with the server's."""
    before = now()
    try:
        seconds, microseconds = link.execute("TIME")
    except WireError as error:
        return warning("clock", f"the server's time is not known: {error}", "renew its users: "
                       "`soulsai secrets init`")  # fmt: skip
    skew = (before + now()) / 2 - (int(seconds) + int(microseconds) / 1e6)
    if abs(skew) > SKEW_SECONDS:
        way = "ahead of" if skew > 0 else "behind"
        return warning(
            "clock",
            f"this machine is {abs(skew):,.0f} s {way} the server",
            "set the clock (NTP): nothing is lost by it, but certificates seem expired or not "
            "yet valid, and times in logs mislead",
        )
    return ok("clock", f"within {abs(skew):.1f} s of the server's")


def _timed(act: Callable[[], object], clock: Callable[[], float]) -> float:
    began = clock()
    act()
    return clock() - began


def _reach(place: Address) -> socket.socket:
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


def _why(error: OSError) -> str:
    return error.strerror or str(error) or type(error).__name__


def _mend(place: Address, error: OSError) -> str:
    if isinstance(place, Unix):
        return "is the run still going on? Its socket goes with it; see `soulsai runs`"
    if isinstance(error, socket.gaierror):
        return "the name is not known: look for a misspelling, or use the address in numbers"
    if isinstance(error, ConnectionRefusedError):
        return "the machine is there, but no server listens at that port: is it started?"
    return "a firewall or router between here and there may drop it; is the port open?"


def _certificate_mend(error: ssl.SSLCertVerificationError, host: str) -> str:
    message = error.verify_message
    if "expired" in message or "not yet valid" in message:
        return "compare the clocks; then renew it on the server: `soulsai secrets init`"
    if "mismatch" in message or "not valid for" in message:
        return f"on the server: `soulsai secrets init --host {host}`, or use the name it is for"
    return "take ca.pem from the server's secrets as redis.ca_file, or ask for a new invite"
