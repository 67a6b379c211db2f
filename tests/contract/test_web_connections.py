"""Connections of the page over real sockets: silent and slow ones never close it for others."""

import contextlib
import socket
import time
from contextlib import ExitStack

import pytest

from soulsai.training_node.saving import atomic_folders
from soulsai.web import connections, security
from tests.contract.web_cases import LIVE, Browser, settings, telemetry, training, until, write_run
from tests.memory_server import MemoryServer

LARGE = f"/api/v1/runs/{LIVE}/models/manual_save/policy.onnx"

BEGUN = (
    b"POST /api/v1/login HTTP/1.1\r\nhost: localhost\r\nx-soulsai: 1\r\n"
    b"content-type: application/json\r\ncontent-length: 60000\r\n\r\n{"
)


@pytest.fixture
def browser(tmp_path):
    folder = write_run(tmp_path, LIVE, 20)
    large = {"policy.onnx": [bytes(2**20)] * 32}  # more than the system's buffers take
    atomic_folders.replace(folder / "manual_save", large)
    server = MemoryServer()
    with training(server), telemetry(settings(tmp_path), server) as url:
        yield Browser(url)


def connect(browser, sent=b""):
    raw = socket.create_connection(("127.0.0.1", int(browser.url.rpartition(":")[2])), 30)
    raw.sendall(sent)
    return raw


def is_closed(raw):
    raw.settimeout(0.0)
    with contextlib.suppress(ConnectionResetError):
        try:
            return raw.recv(1) == b""
        except BlockingIOError:
            return False
    return True


def test_silent_connections_do_not_close_the_page(browser):
    with ExitStack() as stack:
        silent = [stack.enter_context(connect(browser)) for _ in range(300)]
        assert browser.get("/api/v1/runs")
        assert browser.get("/healthz")["status"] == "ok"
        until(lambda: sum(map(is_closed, silent)) >= 300 - connections.MOST_PER_ADDRESS)


@pytest.mark.parametrize("sent", [b"", b"GET /healthz HTTP/1.1\r\nhost: local"])
def test_a_connection_without_a_whole_request_ends(browser, monkeypatch, sent):
    monkeypatch.setattr(connections, "REQUEST_SECONDS", 0.2)
    with connect(browser, sent) as raw:
        until(lambda: is_closed(raw))


def test_a_body_that_does_not_come_ends(browser, monkeypatch):
    monkeypatch.setattr(security, "BODY_SECONDS", 0.2)
    head = (
        b"POST /grafana/search HTTP/1.1\r\nhost: localhost\r\n"
        b"content-type: application/json\r\ncontent-length: 10\r\n\r\n{"
    )
    with connect(browser, head) as raw:
        assert b" 408 " in raw.recv(4096)


def test_a_body_that_comes_by_single_bytes_ends(browser, monkeypatch):
    monkeypatch.setattr(security, "BODY_SECONDS", 1.0)
    with connect(browser, BEGUN) as raw:
        raw.settimeout(0.1)  # between two bytes
        answer, deadline = b"", time.monotonic() + 30
        while not answer and time.monotonic() < deadline:
            raw.sendall(b" ")
            with contextlib.suppress(TimeoutError):
                answer = raw.recv(4096)
        assert b" 408 " in answer


def test_bodies_that_do_not_come_do_not_close_the_page(browser, monkeypatch):
    monkeypatch.setattr(connections, "MOST_CONNECTIONS", 4)
    monkeypatch.setattr(security, "BODY_SECONDS", 300.0)
    with ExitStack() as stack:
        for _ in range(8):
            stack.enter_context(connect(browser, BEGUN))
        until(lambda: browser.ask("GET", "/api/v1/runs")[0] == 200)


def unread(browser, stack):
    """Return a connection with a large answer that nobody reads on."""
    raw = stack.enter_context(socket.socket())
    raw.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
    raw.connect(("127.0.0.1", int(browser.url.rpartition(":")[2])))
    raw.sendall(f"GET {LARGE} HTTP/1.1\r\nhost: localhost\r\n\r\n".encode())
    assert b" 200 " in raw.recv(1000)
    return raw


def test_answers_that_nobody_reads_do_not_close_the_page(browser, monkeypatch):
    monkeypatch.setattr(connections, "MOST_CONNECTIONS", 4)
    with ExitStack() as stack:
        for _ in range(4):
            unread(browser, stack)
        until(lambda: browser.ask("GET", "/api/v1/runs")[0] == 200)


def test_an_answer_that_nobody_reads_ends_the_connection(browser, monkeypatch):
    monkeypatch.setattr(connections, "TAKEN_SECONDS", 0.2)
    with ExitStack() as stack:
        raw = unread(browser, stack)
        until(lambda: is_refused(raw))


def is_refused(raw):
    """Whether the other side has ended the connection, whatever it had sent before."""
    try:
        raw.sendall(b"GET")
    except (BrokenPipeError, ConnectionResetError):
        return True
    return False


def test_the_health_check_is_answered_when_all_connections_are_in_use(browser, monkeypatch):
    monkeypatch.setattr(connections, "MOST_CONNECTIONS", 4)
    stream = b"GET /api/v1/stream HTTP/1.1\r\nhost: localhost\r\n\r\n"
    with ExitStack() as stack:
        for _ in range(4):
            raw = stack.enter_context(connect(browser, stream))
            assert b" 200 " in raw.recv(4096)
        deadline = time.monotonic() + 30
        while browser.ask("GET", "/api/v1/runs")[0] != 503:
            assert time.monotonic() < deadline
        assert browser.get("/healthz")["status"] == "ok"
    until(lambda: browser.ask("GET", "/api/v1/runs")[0] == 200)
