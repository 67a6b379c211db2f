"""What is worth a line in the audit, and that a watcher survives whatever it watches."""

import threading
from types import SimpleNamespace

import msgspec
import pytest

from soulsai.errors import Unreachable, WireError
from soulsai.training_node.saving.run_folder import every
from soulsai.types import ClientStatus, Event, Status
from soulsai.web.run_store import NoSource, RunStore
from soulsai.web.watching import MOST_CHANGES, Watcher, changes

RUN = "a-run"


def status(**changed):
    return msgspec.structs.replace(Status(RUN, 1, "learning", "dqn", "Toy-v0"), **changed)


def client(name, state="active"):
    return ClientStatus(name, state, 1.0, 1, 0, 0, 0, 0, 0, 0.0)


@pytest.mark.parametrize(
    ("before", "now", "told"),
    [
        (None, None, []),
        (None, status(), [("node", "the training node is learning, start 1 of the run")]),
        (status(), None, [("node", "the training node is silent")]),
        (status(), status(env_steps=5), []),
        (
            status(),
            status(generation=2),
            [("node", "the training node has started again: start 2 of the run")],
        ),
        (status(), status(phase="paused"), [("phase", "learning → paused")]),
        (status(), status(notice="the disk is full"), [("notice", "the disk is full")]),
        (status(notice="oh"), status(), [("notice", "all is well again")]),
        (status(), status(clients=(client("one"),)), [("client", "one joined")]),
        (status(), status(clients=(client("one", "lost"),)), [("client", "one is lost")]),
        (
            status(clients=(client("one", "lost"), client("two"))),
            status(clients=(client("one"),)),
            [("client", "one is back"), ("client", "two was forgotten")],
        ),
    ],
)
def test_what_changed(before, now, told):
    assert list(changes(before, now)) == told


def test_many_clients_are_counted():
    crowd = tuple(client(f"c{i}") for i in range(MOST_CHANGES + 1))
    assert list(changes(status(), status(clients=crowd))) == [("client", "5 clients: each joined")]


class Wire:
    """Gives a list of statuses, or raises them; then the watching is over."""

    def __init__(self, said, over, events=()):
        self.said = list(said)
        self.over = over
        self.heard = list(events)
        self.closed = 0

    def status(self):
        said = self.said.pop(0)
        if not self.said:
            self.over.set()
        if isinstance(said, Exception):
            raise said
        return said

    def events(self, timeout):
        heard, self.heard = self.heard, []
        return heard

    def close(self):
        self.closed += 1


def watched(tmp_path, said, monkeypatch, events=(), connect=None, listeners=()):
    monkeypatch.setattr("soulsai.web.watching.PAUSE", 0.0)
    (tmp_path / RUN).mkdir()
    (tmp_path / RUN / "config.json").write_text("{}")
    over, rung = threading.Event(), []
    wire = Wire(said, over, events)
    times = iter(range(10**6))
    watcher = Watcher(
        RunStore(tmp_path, NoSource()), connect or (lambda: wire), lambda: rung.append(1),
        listeners=listeners, clock=lambda: float(next(times)), now=lambda: 100.0,
    )  # fmt: skip
    watcher.run(over)
    lines = (tmp_path / RUN / "events.jsonl").read_text().splitlines()
    return watcher, wire, [msgspec.json.decode(line)["text"] for line in lines], rung


def test_statuses_and_events_are_written_down(tmp_path, monkeypatch):
    said = [status(), status(phase="paused")]
    event = Event("best", "average reward 5")
    watcher, wire, texts, rung = watched(tmp_path, said, monkeypatch, [event])
    assert texts == [
        "the training node is learning, start 1 of the run", "average reward 5",
        "learning → paused",
    ]  # fmt: skip
    assert watcher.seen.status == said[1]
    assert wire.closed == 1
    assert rung
    assert len((tmp_path / RUN / "training.jsonl").read_text().splitlines()) == 1


def test_purges_of_a_time_without_telemetry_are_passed_on_once(tmp_path, monkeypatch):
    heard = []
    listener = SimpleNamespace(
        purged=lambda client, since=0.0: heard.append((client, since)),
        noted=lambda *_: None,
        sampled=lambda *_: None,
    )
    said = [
        status(purged={"villain": 50.0}),
        status(purged={"villain": 50.0}),
        status(purged={"villain": 50.0, "other": 60.0}),
        status(purged={"other": 60.0}),
        status(purged={"villain": 70.0, "other": 60.0}),
    ]
    watched(tmp_path, said, monkeypatch, listeners=[listener])
    assert heard == [("villain", 50.0), ("other", 60.0), ("villain", 70.0)]


def test_runs_are_ordered_by_number_and_not_by_a_clock_that_was_set_back(tmp_path):
    runs = {"2026-01-03_a": "1", "2026-01-01_b": "2", "2026-01-02_c": "10", "2026-01-09_old": ""}
    for name, number in runs.items():
        (tmp_path / name).mkdir()
        (tmp_path / name / "config.json").write_text("{}")
        if number:
            (tmp_path / name / "number").write_text(number)
    store = RunStore(tmp_path, NoSource())
    assert store.names() == ["2026-01-02_c", "2026-01-01_b", "2026-01-03_a", "2026-01-09_old"]
    assert store.find("latest") == "2026-01-02_c"
    assert [folder.name for folder in every(tmp_path)] == store.names()[::-1]


def test_it_goes_on_after_failures(tmp_path, monkeypatch, caplog):
    said = [status(), Unreachable("away"), Unreachable("away"), WireError("odd"), status()]
    watcher, wire, texts, _ = watched(tmp_path, said, monkeypatch)
    assert texts[:2] == [
        "the training node is learning, start 1 of the run", "the training node is silent",
    ]  # fmt: skip
    assert watcher.seen.status == said[-1]
    assert wire.closed == 4
    assert caplog.text.count("reason=away") == 1
