"""News reach a real server as JSON; what is refused is not repeated, what fails is."""

import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path

import pytest

from soulsai.errors import SoulsAIError
from soulsai.telemetry_node.sinks.webhook import BEST_REST, News, Webhook, address


@contextmanager
def listening(codes: list[int]) -> Iterator[tuple[str, list[dict[str, object]]]]:
    heard: list[dict[str, object]] = []

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            heard.append(json.loads(self.rfile.read(int(self.headers["Content-Length"]))))
            self.send_response(codes.pop(0) if codes else 200)
            self.send_header("Location", "http://127.0.0.1:1/elsewhere")
            self.send_header("Content-Length", "0")
            self.end_headers()

        def log_message(self, *_: object) -> None: ...

    server = HTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, args=(0.05,))
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}/hook?key=secret", heard
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


def news(kind: str = "node", text: str = "the training node is silent") -> News:
    return News("a_run", kind, text, 1e9)


def test_news_are_posted_as_chats_want_them() -> None:
    with listening([]) as (url, heard):
        Webhook(url).write(news())
    line = "a_run: the training node is silent"
    assert heard == [{"run": "a_run", "kind": "node", "time": 1e9, "text": line, "content": line}]


def test_what_is_of_no_interest_is_not_posted_and_bests_are_rare() -> None:
    now = [0.0]
    with listening([]) as (url, heard):
        hook = Webhook(url, lambda: now[0])
        hook.write(news("client", "volunteer joined"))
        hook.write(news("best", "1"))
        hook.write(news("best", "2"))
        now[0] += BEST_REST
        hook.write(news("best", "3"))
    assert [one["text"] for one in heard] == ["a_run: 1", "a_run: 3"]


def test_a_server_in_trouble_is_an_error_and_a_refusal_is_none() -> None:
    with listening([500, 429, 404, 302]) as (url, heard):
        hook = Webhook(url)
        for _ in range(2):
            with pytest.raises(OSError, match="answered"):
                hook.write(news())
        hook.write(news())  # an address that is wrong stays wrong
        hook.write(news())  # and leads nowhere else
    assert len(heard) == 4
    with pytest.raises(OSError, match="refused"):
        hook.write(news())


def test_the_address_stands_in_a_file(tmp_path: Path) -> None:
    file = tmp_path / "hook"
    file.write_text("https://chat.example/hooks/abc\n")
    file.chmod(0o600)
    assert address(str(file)) == "https://chat.example/hooks/abc"
    file.write_text("ftp://chat.example")
    with pytest.raises(SoulsAIError, match=r"telemetry\.webhook"):
        address(str(file))
