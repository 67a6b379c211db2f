"""The reverse proxy, from its first start without a certificate to a renewed one."""

import http.client
import json
import socket
import ssl
import time
from contextlib import closing, contextmanager

import pytest

from tests.stack.authority import DOMAIN, Authority
from tests.stack.stack_cases import CORE, MONITORING, PROXY, busy, free_port, run, until

pytestmark = pytest.mark.stack

ALL_SECONDS = 60
FILES = (*PROXY, "-f", "deploy/reverse_proxy/test.yaml")


class Proxy:
    """What somebody outside sees of it."""

    def __init__(self, stack):
        self.stack = stack
        self.authority = Authority(stack)
        self.http, self.https, self.tls = free_port(), free_port(), free_port()
        stack.environ |= {
            "SOULSAI_DOMAIN": DOMAIN,
            "SOULSAI_EMAIL": "operator@example.test",
            "SOULSAI_ACME_SERVER": "https://pebble:14000/dir",
            "SOULSAI_HTTP_PORT": str(self.http),
            "SOULSAI_HTTPS_PORT": str(self.https),
            "SOULSAI_TLS_PORT": str(self.tls),
        }
        self.begin = time.monotonic()
        stack.up(FILES)
        self.root = self.authority.root()
        self.seconds = time.monotonic() - self.begin

    def connect(self, port, name=DOMAIN):
        context = ssl.create_default_context(cadata=self.root)
        return context.wrap_socket(
            socket.create_connection(("127.0.0.1", port), 10), server_hostname=name
        )

    def serial(self, port):
        with self.connect(port) as link:
            return link.getpeercert()["serialNumber"]

    @contextmanager
    def ask(self, path, **headers):
        """Ask for a page over HTTPS; give the answer."""
        with closing(http.client.HTTPConnection(DOMAIN)) as link:
            link.sock = self.connect(self.https)
            link.request("GET", path, headers=headers)
            with closing(link.getresponse()) as answer:
                yield answer

    def status(self, path):
        with self.ask(path) as answer:
            return answer.status

    def moved(self, path):
        """Ask without TLS; return to where we are sent."""
        with closing(http.client.HTTPConnection("127.0.0.1", self.http, timeout=10)) as link:
            link.request("GET", path, headers={"Host": DOMAIN})
            with closing(link.getresponse()) as answer:
                return answer.status, answer.headers["Location"]

    @property
    def bearer(self):
        token = (self.stack.folder / "config/secrets/web_viewer.token").read_text().strip()
        return {"Authorization": f"Bearer {token}"}


@pytest.fixture(scope="module")
def proxy(stack):
    # Grafana and the page are told the domain before the proxy comes.
    try:
        with (stack.folder / ".env").open("a") as file:
            file.write(f"SOULSAI_DOMAIN={DOMAIN}\n")
        stack.up(CORE, "--scale", "client=4")
        stack.up(MONITORING)
        proxy = Proxy(stack)
        yield proxy
    finally:
        stack.compose(FILES, "down", "-t", "5", check=False)


def test_one_command_brings_a_certificate(proxy):
    assert until("TLS", lambda: _tries(lambda: proxy.serial(proxy.https)), 30)
    assert proxy.serial(proxy.https) == proxy.serial(proxy.tls)
    assert proxy.moved("/somewhere?x=1") == (301, f"https://{DOMAIN}/somewhere?x=1")


def test_the_page_and_its_events_come_over_https(proxy):
    with proxy.ask("/") as page:
        assert page.status == 200
        assert b"soulsai" in page.read()
        assert "max-age" in page.headers["Strict-Transport-Security"]
    assert proxy.status("/api/v1/runs") == 401
    assert proxy.status("/metrics") == 404
    begin = time.monotonic()
    with proxy.ask("/api/v1/stream", **proxy.bearer) as events:
        assert events.headers["Content-Type"].startswith("text/event-stream")
        heard = events.readline()
        assert heard.startswith((b"event:", b"data:", b"id:", b"retry:", b":"))
    assert time.monotonic() - begin < 15, "buffered on the way"


def test_grafana_has_its_websocket(proxy):
    with proxy.ask("/grafana/api/health") as answer:
        home = json.loads(answer.read())
    assert home["path"] == "/grafana/api/health"
    assert (home["host"], home["proto"]) == (DOMAIN, "https")
    assert home["sources"] == ["prometheus", "soulsai-telemetry"]
    with proxy.ask("/grafana/api/live/ws", Upgrade="websocket", Connection="Upgrade") as upgraded:
        assert upgraded.status == 101


def test_a_client_plays_over_tls(proxy):
    """A whole client, in a network from which Redis cannot be reached otherwise."""
    stack = proxy.stack
    (stack.folder / "pebble/root.pem").write_text(proxy.root)
    (stack.folder / "pebble/root.pem").chmod(0o644)
    identity = dict(
        line.split("=") for line in (stack.folder / ".env").read_text().split() if "UID" in line
    )
    words = (
        *("docker", "run", "--rm", "-d", "--network", "server", "-u", identity["SOULSAI_UID"]),
        *("-v", f"{stack.folder}/config/secrets/redis.secret:/run/secrets/redis.secret:ro"),
        *("-v", f"{stack.folder}/pebble/root.pem:/root.pem:ro", "soulsai-client:local", "client"),
        *("--secrets", "/run/secrets", "--set", "redis.ca_file=/root.pem", "--name"),
    )
    container = run(*words, "over-tls", "--redis", f"rediss://{DOMAIN}:6380", cwd="/").strip()
    try:
        stack.until(
            "a client over TLS",
            lambda now: any(c.client == "over-tls" and c.admitted > 0 for c in now.clients),
        )
    finally:
        run("docker", "rm", "-f", container, cwd="/")
    with pytest.raises(RuntimeError, match=r"(?i)certificate"):
        run(
            *[word for word in words if word != "-d"],
            *("wrong-name", "--redis", "rediss://nginx:6380"),
            cwd="/",
            timeout=60,
        )


def test_other_names_and_clear_text_are_refused(proxy):
    with pytest.raises(ssl.SSLError, match=r"(?i)unrecognized_name|alert"):
        proxy.connect(proxy.https, "other.example.test")
    with pytest.raises(ssl.SSLCertVerificationError, match="mismatch"):
        proxy.connect(proxy.tls, "other.example.test")
    with socket.create_connection(("127.0.0.1", proxy.tls), 5) as link:
        link.sendall(b"PING\r\n")
        assert link.recv(100) == b""


def test_a_renewed_certificate_is_served_everywhere(proxy):
    begin = time.monotonic()
    before = proxy.serial(proxy.https)
    certbot = proxy.stack.containers(FILES)["certbot"][0]
    with proxy.connect(proxy.tls) as held:
        proxy.stack.execute(certbot, "sh /start.sh now")
        until("HTTPS renewed", lambda: proxy.serial(proxy.https) != before)
        until("TLS renewed", lambda: proxy.serial(proxy.tls) != before)
        held.sendall(b"PING\r\n")
        assert held.recv(100).startswith(b"-NOAUTH"), "a connection was cut"
    took = proxy.seconds + time.monotonic() - begin
    print(f"issue {proxy.seconds:.1f} s, with renewal {took:.1f} s, {busy():.1f} busy")
    assert took <= ALL_SECONDS * busy()


def test_the_proxy_can_do_nothing_but_its_work(proxy):
    for container in proxy.stack.names(FILES):
        limits = proxy.stack.inspect(container)["HostConfig"]
        if "pebble" not in container:
            assert limits["ReadonlyRootfs"]
            assert limits["CapDrop"] == ["ALL"]
            assert int(proxy.stack.execute(container, "id -u")) > 0


def _tries(act):
    try:
        return act()
    except OSError:
        return None
