"""The painter: drawings beside the intake at a low duty cycle, in processes of their own."""

import subprocess
import sys
import threading
import time
from pathlib import Path

import msgspec
import numpy as np
import pytest

from soulsai.errors import SoulsAIError
from soulsai.telemetry_node import painter as painter_module
from soulsai.telemetry_node.painter import Painter, Snapshot, decode, draw_apart, encode
from soulsai.telemetry_node.statistics import Best, History

ROWS = np.arange(3.0 * len(History.COLUMNS)).reshape(3, -1) + 1
BEST = Best(3.5, 1, 7, 400, 40, greedy=True, time=1e9)
CURVES = {"exploring": ROWS, "greedy": ROWS[::2], "intervened": ROWS[:0]}
SNAPSHOT = Snapshot("run\ndqn on Toy", 20, CURVES, BEST, "score", "Länge")


def test_a_snapshot_is_sent_whole():
    got = decode(encode(SNAPSHOT))
    assert list(got.curves) == list(CURVES)
    for kind, rows in CURVES.items():
        assert np.array_equal(got.curves[kind], rows)
        assert got.curves[kind].shape == rows.shape
    for name in ("title", "window", "best", "goal", "shown"):
        assert getattr(got, name) == getattr(SNAPSHOT, name)
    assert decode(encode(msgspec.structs.replace(SNAPSHOT, best=None))).best is None


def test_another_process_draws(tmp_path):
    draw_apart(SNAPSHOT, tmp_path / "x.png")
    assert (tmp_path / "x.png").read_bytes().startswith(b"\x89PNG")
    assert [file.name for file in tmp_path.iterdir()] == ["x.png"]


def test_the_last_word_of_a_process_that_fails_is_the_error(tmp_path):
    with pytest.raises(SoulsAIError, match="No such file or directory"):
        draw_apart(SNAPSHOT, tmp_path / "nowhere" / "x.png")


def test_a_drawing_that_takes_too_long_is_ended(tmp_path, monkeypatch):
    waits = (sys.executable, "-c", "import time; time.sleep(600)")
    monkeypatch.setattr(painter_module, "COMMAND", waits)
    monkeypatch.setattr(painter_module, "PATIENCE_SECONDS", 0.2)
    with pytest.raises(SoulsAIError, match="timed out"):
        draw_apart(SNAPSHOT, tmp_path / "x.png")


def test_the_telemetry_node_holds_no_plotting_library():
    code = "import sys, soulsai.telemetry_node.node; sys.exit('matplotlib' in sys.modules)"
    subprocess.run([sys.executable, "-c", code], check=True)


def until(condition, seconds: float = 20.0) -> None:
    deadline = time.monotonic() + seconds
    tick = threading.Event()
    while not condition():
        assert time.monotonic() < deadline
        tick.wait(0.005)


def test_the_painter_rests_nine_times_as_long_as_it_draws(tmp_path: Path) -> None:
    now = [0.0]
    began, go = threading.Event(), threading.Event()

    def slowly(_: Snapshot, path: Path) -> None:
        began.set()
        assert go.wait(20)
        now[0] += 2.0
        path.write_bytes(b"")

    painter = Painter(tmp_path / "x.png", slowly, clock=lambda: now[0])
    assert painter.ready()
    painter.draw(SNAPSHOT)
    assert began.wait(20)
    assert not painter.ready()  # and it did not wait for the drawing
    go.set()
    until(painter._drawing.done)  # not until the file is there: the time is read after that
    assert (tmp_path / "x.png").exists()
    assert not painter.ready()
    now[0] = 2.0 + 17.9
    assert not painter.ready()
    now[0] = 2.0 + 18.0
    until(painter.ready)
    painter.close(None)


def test_the_last_snapshot_is_always_drawn(tmp_path: Path) -> None:
    titles = []

    def note(each: Snapshot, _: Path) -> None:
        titles.append(each.title)

    painter = Painter(tmp_path / "x.png", note)
    painter.draw(msgspec.structs.replace(SNAPSHOT, title="first"))
    painter.close(msgspec.structs.replace(SNAPSHOT, title="last"))
    assert titles == ["first", "last"]
    assert not any(thread.name.startswith("figure") for thread in threading.enumerate())


def test_a_failed_drawing_is_survived(tmp_path: Path, caplog) -> None:
    painter = Painter(tmp_path / "nowhere" / "x.png", clock=lambda: 0.0)
    painter.draw(SNAPSHOT)
    until(lambda: painter.ready() or "not drawn" in caplog.text)
    painter.close(SNAPSHOT)
    assert caplog.text.count("figure not drawn") == 2
