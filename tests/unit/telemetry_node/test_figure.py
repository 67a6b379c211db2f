"""The figure: right curves, whole on disk."""

import time
from pathlib import Path

import numpy as np
import pytest

from soulsai.telemetry_node.figure import draw, rolling, save, throughput
from soulsai.telemetry_node.painter import Snapshot
from soulsai.telemetry_node.statistics import Best, History
from soulsai.types import Array

PNG = b"\x89PNG"
BEST = Best(3.5, 1, 7, 400, 40, greedy=True, time=1e9)


def rows(rewards: list[float], *, width: int = 1) -> Array:
    """Bins of ``width`` episodes of 10 steps, ten env steps and half a second apart."""
    made = []
    for end in range(width, len(rewards) + 1, width):
        part = np.array(rewards[end - width : end])
        made.append((width, 10 * end, part.sum(), (part**2).sum(), 10 * width, 100 + end / 2, 0))
    return np.array(made, float).reshape(-1, len(History.COLUMNS))


def snapshot(count: int = 50) -> Snapshot:
    rewards = list(np.sin(np.arange(count)))
    curves = {"exploring": rows(rewards), "greedy": rows(rewards[::7]), "intervened": rows([])}
    return Snapshot("run\ndqn on Toy", 20, curves, BEST)


@pytest.mark.parametrize("window", [1, 3, 20, 500])
def test_rolling_is_mean_and_deviation_of_the_last_episodes(window: int) -> None:
    rewards = list(np.random.default_rng(1).normal(size=60))
    mean, deviation, steps = rolling(rows(rewards), window)
    for end in range(1, 61):
        part = rewards[max(0, end - window) : end]
        assert mean[end - 1] == pytest.approx(np.mean(part))
        assert deviation[end - 1] == pytest.approx(np.std(part), abs=1e-6)
    assert steps == pytest.approx(np.full(60, 10.0))


def test_rolling_over_wide_bins_takes_whole_ones() -> None:
    rewards = list(np.arange(64.0))
    mean, _, _ = rolling(rows(rewards, width=8), 20)
    assert mean[-1] == pytest.approx(np.mean(rewards[-16:]))
    mean, _, _ = rolling(rows(rewards, width=32), 20)
    assert mean == pytest.approx([15.5, 47.5])


def test_throughput_counts_steps_by_the_clock() -> None:
    at, rates = throughput(rows([0.0] * 500))
    assert rates == pytest.approx(np.full(len(rates), 20.0))
    assert at[-1] == 5000
    assert throughput(rows([0.0]))[1].size == 0
    assert throughput(np.zeros((0, 7)))[1].size == 0
    assert throughput(np.ones((3, 7)))[1].size == 0


@pytest.mark.parametrize("apart", [0.0, 1e-6, 1e-3])
def test_episodes_that_end_almost_together_are_one_span_of_throughput(apart: float) -> None:
    """Eight episodes end at a time, each time within milliseconds, at 160 env steps/s."""
    made = rows([0.0] * 800)
    made[:, History.COLUMNS.index("time")] = [100 + i // 8 / 2 + i % 8 * apart for i in range(800)]
    rates = throughput(made)[1]
    assert len(rates) > 50
    assert rates.max() < 400
    assert np.median(rates) == pytest.approx(160, rel=0.02)


def test_the_figure_shows_both_kinds_and_the_best() -> None:
    shown = snapshot()
    shown.curves["exploring"][:, History.COLUMNS.index("steps")] += np.arange(50)
    drawn = draw(shown)
    reward, steps, speed = drawn.axes
    labels = [text.get_text() for text in drawn.legends[0].get_texts()]
    assert [label.split(":")[0] for label in labels] == [
        "exploring",
        "greedy",
        "best mean of 20 (greedy)",
    ]
    assert reward.get_ylabel() == "reward per episode"
    assert len(steps.lines) == 2
    assert len(speed.lines) == 1
    assert speed.get_xlabel() == "env steps"


def test_the_figure_shows_what_a_person_took_over_apart() -> None:
    shown = snapshot()
    curves = {**shown.curves, "intervened": rows([3.0] * 30)}
    drawn = draw(Snapshot(shown.title, 20, curves, BEST))
    labels = [text.get_text() for text in drawn.legends[0].get_texts()]
    assert labels[2].startswith("taken over by a person")


def test_the_legend_covers_no_panel() -> None:
    drawn = draw(snapshot())
    drawn.canvas.draw()
    legend = drawn.legends[0].get_window_extent()
    assert not any(legend.overlaps(axes.get_tightbbox()) for axes in drawn.axes)


def test_panels_whose_metric_never_changed_are_left_out() -> None:
    one = snapshot()
    constant = Snapshot(one.title, 20, one.curves, BEST, shown="win")
    assert [axes.get_ylabel() for axes in draw(constant).axes] == [
        "reward per episode",
        "env steps/s",
    ]
    constant.curves["exploring"][:5, History.COLUMNS.index("extra")] = 1.0
    assert [axes.get_ylabel() for axes in draw(constant).axes] == [
        "reward per episode",
        "win",
        "env steps/s",
    ]


@pytest.mark.parametrize("count", [0, 1, 2])
def test_few_episodes_can_be_drawn(tmp_path: Path, count: int) -> None:
    few = Snapshot("run", 20, {"exploring": rows([1.0] * count), "greedy": rows([])}, None)
    save(draw(few), tmp_path / "few.png")
    assert (tmp_path / "few.png").read_bytes().startswith(PNG)


def test_a_long_run_is_drawn_within_a_second(tmp_path: Path) -> None:
    long = snapshot(4096)
    began = time.thread_time()
    save(draw(long), tmp_path / "long.png")
    assert time.thread_time() - began < 1.0


def test_a_reader_never_sees_half_a_figure(tmp_path: Path) -> None:
    path = tmp_path / "telemetry.png"
    save(draw(snapshot()), path)
    assert [file.name for file in tmp_path.iterdir()] == ["telemetry.png"]
