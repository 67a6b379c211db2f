"""News as they happen: heads, events, commands with their answers, and going on after a restart."""

import contextlib
import http.client
import json
import random
import socket
import threading
import time
from functools import partial

import pytest

from soulsai.config.schema import WebSettings
from soulsai.types import Answer, Event, Pause
from tests.contract.web_cases import (
    LIVE,
    Browser,
    Door,
    episode,
    settings,
    telemetry,
    training,
    until,
    write_run,
)
from tests.memory_server import MemoryServer, set_clock


class Stream:
    """Reads server-sent events in a thread, as a browser does."""

    def __init__(self, url, last=""):
        headers = {"last-event-id": last} if last else {}
        self.events = []
        self.error = None
        self._connection = http.client.HTTPConnection(url.removeprefix("http://"), timeout=30)
        self._connection.request("GET", "/api/v1/stream", headers=headers)
        self._answer = self._connection.getresponse()
        self.headers = dict(self._answer.getheaders())
        self._thread = threading.Thread(target=self._read)
        self._thread.start()

    def _read(self):
        event = {}
        try:
            for raw in self._answer:
                name, _, value = raw.decode().rstrip("\n").partition(": ")
                if name:
                    event[name] = value
                elif "data" in event:
                    self.events.append(event | {"data": json.loads(event["data"])})
                    event = {}
        except (OSError, ValueError, http.client.HTTPException, AttributeError) as error:
            self.error = error

    def of(self, kind):
        return [event for event in self.events if event["event"] == kind]

    def close(self):
        with contextlib.suppress(OSError):
            self._connection.sock.shutdown(socket.SHUT_RDWR)
        self._thread.join()
        self._connection.close()


@contextlib.contextmanager
def stream(url, last=""):
    reader = Stream(url, last)
    try:
        yield reader
    finally:
        reader.close()


def test_an_episode_is_announced_at_once(tmp_path, record_property):
    server = MemoryServer()
    with training(server) as trainer, telemetry(settings(tmp_path), server) as url:
        until(lambda: Browser(url).get("/api/v1/status")["live"])
        with stream(url) as reader:
            until(lambda: reader.of("head"))
            assert reader.headers["content-type"].startswith("text/event-stream")
            assert reader.headers["x-accel-buffering"] == "no"
            for number in range(3):
                began = time.monotonic()
                trainer.play(episode(number, 100, random.Random(0)))
                until(partial(_has_come, reader, number + 1))
                took = time.monotonic() - began
            record_property("seconds", took)
            assert took < 2.0


def test_a_browser_goes_on_after_a_restart_of_the_node(tmp_path):
    write_run(tmp_path, LIVE, 20)
    server = MemoryServer()
    config = settings(tmp_path)
    with training(server) as trainer:
        with telemetry(config, server) as url, stream(url) as reader:
            until(lambda: any(head["data"]["event"] for head in reader.of("head")))
            last = reader.of("head")[-1]
        noted = last["data"]["event"]
        with telemetry(config, server) as url:
            until(lambda: Browser(url).get("/api/v1/events?limit=1")[0]["number"] > noted)
            with stream(url, last["id"]) as reader:
                until(lambda: reader.of("log"))
                assert reader.of("log")[0]["data"]["number"] == noted + 1
                trainer.play(episode(20, 2000, random.Random(0)))
                until(partial(_has_come, reader, 21))
        numbers = [note["number"] for note in _notes(tmp_path)]
    assert numbers == list(range(1, len(numbers) + 1))


def test_a_stream_ends_with_the_node(tmp_path):
    server = MemoryServer()
    with training(server):
        with telemetry(settings(tmp_path), server) as url:
            reader = Stream(url)
            until(lambda: reader.events)
            began = time.monotonic()
        assert time.monotonic() - began < 5.0
        reader.close()


def test_every_command_is_answered_and_written_down(tmp_path):
    server = MemoryServer()
    with training(server) as trainer, telemetry(settings(tmp_path), server) as url:
        browser = Browser(url)
        until(lambda: browser.get("/api/v1/status")["status"])
        said = {
            "pause": "paused", "resume": "resumed", "stop": "saved",
            "quicksave": "saved 478000 updates, 480000 env steps in manual_save",
        }  # fmt: skip
        for command in ("pause", "resume", "quicksave", "stop"):
            body = {"command": command, "run": LIVE}
            answer = browser.post("/api/v1/commands", body)
            assert answer == {
                "command": command, "state": "done", "message": said[command], "invite": "",
            }  # fmt: skip
        notes = [row for row in browser.get("/api/v1/events") if row["kind"] == "command"]
        assert len(notes) == 8
        assert notes[0]["text"] == "stop: done, saved"
        assert notes[0]["who"] == "operator at 127.0.0.1"
        names = [type(command).__name__ for command in trainer.asked]
        assert [name for name in names if name != "SaveBest"] == [
            "Pause", "Resume", "Quicksave", "Stop",
        ]  # fmt: skip


def test_a_refusal_is_shown(tmp_path):
    server = MemoryServer()
    with training(server) as trainer, telemetry(settings(tmp_path), server) as url:
        browser = Browser(url)
        until(lambda: browser.get("/api/v1/status")["status"])
        trainer.answer = lambda command: Answer(False, "the disk is full")
        answer = browser.post("/api/v1/commands", {"command": "quicksave"})
        assert (answer["state"], answer["message"]) == ("refused", "the disk is full")


def test_a_command_for_another_run_or_nobody_is_not_given(tmp_path):
    server = MemoryServer()
    with training(server) as trainer, telemetry(settings(tmp_path), server) as url:
        browser = Browser(url)
        until(lambda: browser.get("/api/v1/status")["status"])
        code, _, data = browser.ask("POST", "/api/v1/commands", {"command": "stop", "run": "old"})
        assert (code, "is not being trained" in json.loads(data)["detail"]) == (409, True)
        assert browser.ask("POST", "/api/v1/commands", {"command": "explode"})[0] == 422
        assert trainer.asked == []


def test_silence_is_no_answer(tmp_path, monkeypatch):
    from soulsai.web import commands

    monkeypatch.setitem(commands.COMMANDS, "pause", (lambda _: Pause(), 0.3))
    server = MemoryServer()
    with training(server) as trainer, telemetry(settings(tmp_path), server) as url:
        browser = Browser(url)
        until(lambda: browser.get("/api/v1/status")["status"])
        trainer.answers = False
        answer = browser.post("/api/v1/commands", {"command": "pause"})
        assert answer["state"] == "unanswered"
        assert "no answer from the training node" in answer["message"]


def texts(browser):
    return [row["text"] for row in browser.get("/api/v1/events")]


def test_the_training_nodes_silence_is_seen(tmp_path, monkeypatch):
    clock = [time.time()]
    set_clock(monkeypatch, lambda: clock[0])
    server = MemoryServer()
    with training(server) as trainer, telemetry(settings(tmp_path), server) as url:
        browser = Browser(url)
        until(lambda: browser.get("/healthz")["training"] and browser.get("/api/v1/status")["live"])
        until(lambda: texts(browser))  # its start is in the journal, so its end can be, too
        trainer.silent = True

        def is_silent():
            clock[0] += 60  # a status may still be on its way when the silence begins
            return not browser.get("/healthz")["training"]

        until(is_silent)
        until(lambda: "the training node is silent" in texts(browser))


def test_a_server_that_is_away_costs_nothing(tmp_path):
    server = MemoryServer()
    with training(server) as trainer, telemetry(settings(tmp_path), server) as url:
        browser = Browser(url)
        until(lambda: browser.get("/api/v1/status")["live"])
        trainer.play(episode(0, 100, random.Random(0)))
        until(lambda: browser.get("/api/v1/status")["episode"] == 1)
        trainer.silent = True
        server.down = True
        until(lambda: not browser.get("/healthz")["training"])
        assert len(browser.get("/api/v1/series")) == 1
        server.down = False
        trainer.silent = False
        until(lambda: browser.get("/healthz")["training"])


def test_a_taken_port_is_waited_for(tmp_path, caplog):
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        server = MemoryServer()
        over = threading.Event()
        config = settings(tmp_path, WebSettings(port=port))
        from soulsai.telemetry_node.node import serve

        with training(server) as trainer:
            node = threading.Thread(
                target=serve,
                args=(config, server.telemetry()),
                kwargs={"stopped": over.is_set, "connect": server.telemetry},
            )
            node.start()
            until(lambda: "page waits" in caplog.text)
            trainer.play(episode(0, 100, random.Random(0)))
            results = tmp_path / LIVE / "results.jsonl"
            until(lambda: results.exists() and results.read_text())
            over.set()
            node.join()
    assert "in use, perhaps by another run" in caplog.text
    assert "web.port" in caplog.text


def test_no_page_if_none_is_wanted(tmp_path):
    from soulsai.telemetry_node.node import serve

    server = MemoryServer()
    with training(server):
        serve(
            settings(tmp_path, WebSettings(enabled=False)), server.telemetry(),
            stopped=iter([False, True]).__next__, connect=server.telemetry,
        )  # fmt: skip


@pytest.mark.parametrize("streams", [64])
def test_pages_are_bounded(tmp_path, streams):
    server = MemoryServer()
    with training(server), telemetry(settings(tmp_path), server) as url:
        readers = [Stream(url) for _ in range(streams)]
        try:
            code, _, data = Browser(url).ask("GET", "/api/v1/stream")
            assert (code, json.loads(data)["detail"]) == (429, "too many pages are open")
        finally:
            for reader in readers:
                reader.close()
        until(lambda: _opens(url))


def _has_come(reader, episodes):
    return any(head["data"]["episode"] == episodes for head in reader.of("head"))


def _opens(url):
    reader = Stream(url)
    reader.close()
    return bool(reader.headers.get("x-accel-buffering"))


def _notes(saves):
    lines = (saves / LIVE / "events.jsonl").read_text().splitlines()
    return [json.loads(line) for line in lines]


@pytest.mark.parametrize(
    ("command", "about", "code", "says"),
    [
        ("purge", "client-1", 200, "purged client-1"),
        ("purge", "nobody", 200, "no client nobody"),
        ("pardon", "client-1", 200, "pardond client-1"),
        ("promote", "000047", 200, "000047 is the best"),
        ("purge", "", 409, "needs a name"),
        ("pause", "client-1", 409, "about nothing"),
        ("enroll", "somebody", 200, "run this where admin.secret is: soulsai enroll somebody"),
        ("revoke", "somebody", 200, "soulsai revoke somebody"),
        ("enroll", "x" * 65, 422, "about"),
    ],
)
def test_commands_about_somebody(tmp_path, command, about, code, says):
    write_run(tmp_path, LIVE, 20)
    server = MemoryServer()
    with training(server), telemetry(settings(tmp_path), server) as url:
        browser = Browser(url)
        until(lambda: browser.get("/api/v1/status")["status"])
        body = {"command": command, "about": about}
        found, _, data = browser.ask("POST", "/api/v1/commands", body)
    assert found == code
    assert says in data.decode()


def test_enrolment_is_offered_only_where_it_can_work(tmp_path):
    server = MemoryServer()
    with training(server):
        with telemetry(settings(tmp_path), server) as url:
            assert not Browser(url).get("/api/v1/session")["enroll"]
        with telemetry(settings(tmp_path), server, Door()) as url:
            assert Browser(url).get("/api/v1/session")["enroll"]


def test_an_operators_command_from_elsewhere_is_an_event_with_its_name(tmp_path):
    write_run(tmp_path, LIVE, 20)
    server = MemoryServer()
    with training(server) as trainer, telemetry(settings(tmp_path), server) as url:
        browser = Browser(url)
        until(lambda: browser.get("/api/v1/status")["status"])

        def announced():
            trainer.wire.announce(Event("command", "pause: done, paused", "operator, command line"))
            rows = browser.get("/api/v1/events")
            return [row["who"] for row in rows if row["text"] == "pause: done, paused"]

        until(announced)
        assert announced()[0] == "operator, command line"
        assert browser.post("/api/v1/commands", {"command": "forget_best"})["state"] == "done"
