"""Who may reach the page, and what he may send: over real HTTP, and as an attacker would."""

import contextlib
import http.client
import json
import re
import socket
from urllib.parse import quote

import pytest

from soulsai.config.schema import Config, WebSettings, check
from soulsai.errors import ConfigError
from soulsai.web import security
from soulsai.web.security import PageAccess
from tests.contract.web_cases import LIVE, Browser, settings, telemetry, training, until, write_run
from tests.memory_server import MemoryServer

OPERATOR, VIEWER = "operator-0123456789", "viewer-0123456789"


@pytest.fixture(autouse=True, scope="module")
def nothing_left_over():
    """The pages of this module are served from its first test to its last."""
    return


@pytest.fixture(scope="module")
def saves(tmp_path_factory):
    folder = tmp_path_factory.mktemp("saves")
    write_run(folder, LIVE, 50)
    (folder / "secret.txt").write_text("nobody's business")
    return folder


@pytest.fixture(scope="module")
def browser(saves):
    """Return who asks a page without tokens, on loopback."""
    server = MemoryServer()
    with training(server), telemetry(settings(saves), server) as url:
        yield Browser(url)


@pytest.fixture(scope="module")
def private(tmp_path_factory):
    """Return the address of a page that others can reach, too."""
    folder = tmp_path_factory.mktemp("private")
    write_run(folder / "saves", LIVE, 50)
    (folder / "operator").write_text(OPERATOR + "\n")
    (folder / "viewer").write_text(VIEWER)
    web = WebSettings(
        bind="0.0.0.0", port=0, hosts=("train.example.org",),
        operator_token=str(folder / "operator"), viewer_token=str(folder / "viewer"),
    )  # fmt: skip
    server = MemoryServer()
    with training(server), telemetry(settings(folder / "saves", web), server) as url:
        yield f"http://127.0.0.1:{url.rpartition(':')[2]}"


def bearer(token):
    return {"authorization": f"Bearer {token}"}


def test_a_page_for_everybody_needs_a_token(tmp_path):
    with pytest.raises(ConfigError, match=r"web\.bind: '0\.0\.0\.0' can be reached"):
        check(Config(web=WebSettings(bind="0.0.0.0")))
    with pytest.raises(ConfigError, match=r"web\.bind"):
        PageAccess({}, "192.168.1.7")
    for text, why in (("short", "at least 16"), ("", "one line"), ("two\nlines", "one line")):
        file = tmp_path / "token"
        file.write_text(text)
        with pytest.raises(ConfigError, match=why):
            security.access(WebSettings(bind="0.0.0.0", operator_token=str(file)))
    file.write_text(VIEWER)
    with pytest.raises(ConfigError, match="operator_token"):
        security.access(WebSettings(viewer_token=str(file)))
    with pytest.raises(ConfigError, match="same"):
        security.access(WebSettings(viewer_token=str(file), operator_token=str(file)))
    with pytest.raises(ConfigError, match="nowhere"):
        security.access(WebSettings(operator_token=str(tmp_path / "nowhere")))


def test_without_a_token_nothing_is_seen(private):
    browser = Browser(private)
    for path in ("series", "runs", "clients", "models", "config", "events", "status", "stream"):
        code, headers, _ = browser.ask("GET", f"/api/v1/{path}")
        assert (code, headers["www-authenticate"]) == (401, "Bearer")
    assert browser.ask("GET", "/grafana/")[0] == 401
    assert browser.ask("GET", "/api/v1/openapi.json")[0] == 401
    assert browser.ask("GET", "/api/v1/runs", **bearer("wrong-0123456789-token"))[0] == 401
    assert browser.ask("GET", "/healthz")[0] == 200
    assert browser.ask("GET", "/")[0] == 200
    assert browser.get("/api/v1/session")["role"] == ""


def test_a_viewer_looks_and_an_operator_controls(private):
    viewer, operator = Browser(private, bearer(VIEWER)), Browser(private, bearer(OPERATOR))
    until(lambda: operator.get("/api/v1/status")["status"])
    assert viewer.get("/api/v1/session")["role"] == "viewer"
    assert viewer.get("/api/v1/runs")[0]["run"] == LIVE
    assert viewer.ask("POST", "/api/v1/commands", {"command": "pause"})[0] == 403
    assert operator.post("/api/v1/commands", {"command": "pause"})["state"] == "done"
    assert operator.post("/api/v1/commands", {"command": "resume"})["state"] == "done"
    assert viewer.post("/grafana/search", {})


def test_a_token_opens_a_session(private):
    browser = Browser(private)
    assert browser.ask("POST", "/api/v1/login", {"token": "wrong"})[0] == 401
    code, headers, data = browser.ask("POST", "/api/v1/login", {"token": VIEWER})
    assert (code, json.loads(data)["role"]) == (200, "viewer")
    cookie = headers["set-cookie"]
    assert "HttpOnly" in cookie
    assert "SameSite=strict" in cookie
    assert "Secure" not in cookie
    assert VIEWER not in cookie
    inside = Browser(private, {"cookie": cookie.partition(";")[0]})
    assert inside.get("/api/v1/runs")
    assert inside.ask("POST", "/api/v1/commands", {"command": "stop"})[0] == 403
    for other in ("Basic dTpw", "Negotiate x"):  # a session is no token, whatever stands beside it
        foreign = {"authorization": other, "origin": "http://evil.example"}
        assert inside.ask("POST", "/grafana/search", {}, **foreign)[0] == 403
        assert inside.ask("GET", "/api/v1/runs", authorization=other, host="evil.example")[0] == 403
    forged = cookie.partition(";")[0].replace("=viewer.", "=operator.")
    assert Browser(private, {"cookie": forged}).ask("GET", "/api/v1/runs")[0] == 401
    code, headers, _ = inside.ask("POST", "/api/v1/logout", {})
    assert (code, "Max-Age=0" in headers["set-cookie"]) == (200, True)
    secure = browser.ask("POST", "/api/v1/login", {"token": VIEWER}, x_forwarded_proto="https")
    assert "Secure" in secure[1]["set-cookie"]


def test_a_session_outlives_the_process_but_not_its_time_or_token():
    moment = [1000.0]
    before = PageAccess({"operator": OPERATOR}, now=lambda: moment[0])
    cookie = before.session("operator")
    later = PageAccess({"operator": OPERATOR}, now=lambda: moment[0])
    other = PageAccess({"operator": "another-0123456789"}, now=lambda: moment[0])
    assert later._in_session(cookie) == "operator"
    assert other._in_session(cookie) == ""
    for broken in ("", ".", "operator", cookie[:-1], "x" + cookie, cookie.replace(".", "..", 1)):
        assert later._in_session(broken) == ""
    moment[0] += security.SESSION_SECONDS + 1
    assert later._in_session(cookie) == ""


@pytest.mark.parametrize(
    "host", ["evil.example", "127.0.0.1.evil.example", "", "10.0.0.1:80", "[", "localhost.evil"]
)
def test_other_names_do_not_lead_to_loopback(browser, host):
    code, _, data = browser.ask("GET", "/api/v1/runs", host=host)
    assert (code, "web.hosts" in json.loads(data)["detail"]) == (403, True)


@pytest.mark.parametrize("host", ["localhost", "127.0.0.1:8080", "[::1]:8080", "LOCALHOST:1"])
def test_own_names_do(browser, host):
    assert browser.ask("GET", "/api/v1/runs", host=host)[0] == 200


def test_the_named_host_does_and_a_token_needs_no_name(private):
    inside = Browser(private, bearer(VIEWER))
    assert inside.ask("GET", "/api/v1/runs", host="telemetry_node:8080")[0] == 200
    assert Browser(private).ask("GET", "/", host="train.example.org")[0] == 200
    assert Browser(private).ask("GET", "/", host="evil.example")[0] == 403


@pytest.mark.parametrize(
    "headers",
    [
        {"origin": "http://evil.example"},
        {"origin": "null"},
        {"origin": "http://127.0.0.1:1"},
        {"sec_fetch_site": "cross-site"},
        {"sec_fetch_site": "same-site"},
    ],
)
def test_other_sites_cannot_command(browser, headers):
    assert browser.ask("POST", "/api/v1/commands", {"command": "stop"}, **headers)[0] == 403
    assert browser.ask("POST", "/grafana/query", {}, **headers)[0] == 403


def test_a_form_cannot_command(browser):
    data = b'{"command":"stop"}'
    plain = {"content_type": "text/plain", "x_soulsai": "1"}
    code, _, answer = browser.ask("POST", "/api/v1/commands", data, **plain)
    assert (code, "content-type" in json.loads(answer)["detail"]) == (422, True)
    raw = socket.create_connection(("127.0.0.1", int(browser.url.rpartition(":")[2])))
    with raw:
        raw.sendall(
            b"POST /api/v1/commands HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\n"
            b"content-type: application/json\r\ncontent-length: 18\r\n\r\n" + data
        )
        assert b"x-soulsai is missing" in raw.makefile("rb").read()


def test_reading_changes_nothing(browser):
    for path in ("commands", "login", "logout", "session"):
        assert browser.ask("GET", f"/api/v1/{path}")[0] == (200 if path == "session" else 405)
    code, headers, _ = browser.ask("GET", "/api/v1/commands?command=stop")
    assert (code, headers["allow"]) == (405, "POST")


def test_every_answer_is_guarded(browser):
    for path in ("/", "/app.js", "/api/v1/runs", "/api/v1/nothing", "/healthz", "/nothing"):
        headers = browser.ask("GET", path)[1]
        for name, value in security.HEADERS.items():
            assert headers[name] == value
        assert "server" not in headers
    assert "unsafe" not in security.CSP
    assert browser.ask("GET", "/api/v1/runs")[1]["cache-control"] == "no-store"


def test_large_bodies_are_refused_unread(browser):
    """A body of 150 MB costs neither memory nor time."""
    port = int(browser.url.rpartition(":")[2])
    head = b"POST /grafana/query HTTP/1.1\r\nhost: localhost\r\ncontent-type: application/json\r\n"
    for framing in (b"content-length: 157286400\r\n\r\n", b"transfer-encoding: chunked\r\n\r\n"):
        with socket.create_connection(("127.0.0.1", port)) as raw:
            raw.sendall(head + framing)
            chunk = b"10000\r\n" + bytes(65536) + b"\r\n"
            with contextlib.suppress(BrokenPipeError, ConnectionResetError):
                for _ in range(2400 if b"chunked" in framing else 0):
                    raw.sendall(chunk)
            with contextlib.suppress(ConnectionResetError):  # it hung up on us: as good
                assert b" 413 " in raw.recv(4096)
    assert browser.get("/healthz")["status"] == "ok"


@pytest.mark.parametrize(
    "body",
    [
        b"[" * 30_000,
        b'{"a":' * 10_000,
        b'{"targets":' + b"[" * 30_000,
        b'{"payload":' + b'{"a":' * 9_000 + b"1" + b"}" * 9_001,
        b"\xff\xfe",
        b"",
        b"NaN",
        b'{"targets":1}',
        b'{"maxDataPoints":1e999}',
        b'{"targets":[{"target":"reward","payload":{"window":[1]}}]}',
        b'{"targets":[{"target":"reward"}],"range":{"from":"\\u0000","to":"x"}}',
    ],
)
def test_deep_and_broken_json_is_refused(browser, body):
    for path in ("/grafana/query", "/api/v1/commands", "/grafana/variable", "/api/v1/login"):
        code, _, data = browser.ask("POST", path, body)
        assert code in (200, 401, 422), (path, data)
    assert browser.ask("POST", "/grafana/query", body)[0] == 422


EVIL = [
    "..", "../secret.txt", "..%2f..%2fsecret.txt", "%2e%2e", "....//", "/etc/passwd", "CON", "nul",
    "a\x00b", "%00", "a\n", LIVE + "\n", LIVE + "/..", "~", "*", "?", "\\..\\", "C:\\", "\u202e",
    "\uff4f\uff4e\uff45", "a" * 10_000, "<script>alert(1)</script>", "'; DROP TABLE runs; --",
    "${jndi:x}", "{{7*7}}",
]  # fmt: skip


@pytest.mark.parametrize("name", EVIL, ids=range(len(EVIL)))
def test_evil_names_lead_nowhere(browser, name):
    word = quote(name, safe="")
    for path in (
        f"/api/v1/series?run={word}",
        f"/api/v1/config?run={word}",
        f"/api/v1/models?run={word}",
        f"/api/v1/runs/{word}/figure.png",
        f"/api/v1/runs/{LIVE}/models/{word}.tar",
        f"/api/v1/runs/{LIVE}/models/{word}/policy.onnx",
        f"/api/v1/runs/{LIVE}/models/000047/{word}",
        f"/vendor/{word}",
    ):
        code, _, data = browser.ask("GET", path)
        assert code in (404, 422) or path.startswith("/vendor"), path
        assert b"nobody's business" not in data
        assert b"root:" not in data


def test_links_out_of_a_model_are_not_followed(saves, browser):
    model = saves / LIVE / "checkpoints" / "000048"
    model.mkdir()
    (model / "policy.onnx").symlink_to(saves / "secret.txt")
    manifest = {"policy.onnx": {"size": 17, "sha256": ""}, "../x": {"size": 1, "sha256": ""}}
    (model / "manifest.json").write_text(json.dumps(manifest))
    path = f"/api/v1/runs/{LIVE}/models/000048"
    for name in ("policy.onnx", "..%2fx"):
        assert browser.ask("GET", f"{path}/{name}")[0] == 404
    assert browser.ask("GET", f"{path}.tar")[0] == 404


def everywhere(description, url):
    """Yield method, path and body of every operation, with a URL as each of its parameters."""
    word = quote(url, safe="")
    for path, methods in description["paths"].items():
        for method, operation in methods.items():
            places = operation.get("parameters", [])
            named = [one["name"] for one in places if one["in"] == "query"]
            query = "&".join(f"{name}={word}" for name in named)
            body = dict.fromkeys(("command", "about", "token", "target", "payload", "url"), url)
            filled = re.sub(r"\{[^}]*\}", word, path)
            yield method.upper(), f"{filled}?{query}", None if method == "get" else body


def test_no_address_that_a_visitor_names_is_asked(browser):
    port = int(browser.url.rpartition(":")[2])
    with socket.create_server(("127.0.0.1", 0)) as canary:
        url = f"http://127.0.0.1:{canary.getsockname()[1]}/latest/meta-data"
        operations = list(everywhere(browser.get("/api/v1/openapi.json"), url))
        assert len(operations) > 20
        assert sum("meta-data" in path for _, path, _ in operations) > 10
        for method, path, body in operations:
            connection = http.client.HTTPConnection("127.0.0.1", port, timeout=30)
            headers = {"content-type": "application/json", "x-soulsai": "1", "referer": url,
                       "x-forwarded-host": url, "x-forwarded-for": url}  # fmt: skip
            connection.request(method, path, body and json.dumps(body), headers)
            assert connection.getresponse().status < 500, path
            connection.close()
        canary.settimeout(0.0)
        with pytest.raises(BlockingIOError):
            canary.accept()
