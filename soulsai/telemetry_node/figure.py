"""``python -m soulsai.telemetry_node.figure PATH``: draws the overview of a run.

The snapshot comes on standard input; see ``painter``.
"""

import os
import sys
from pathlib import Path

import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.ticker import EngFormatter

from soulsai import process
from soulsai.telemetry_node.painter import Snapshot, decode
from soulsai.telemetry_node.statistics import Best, History
from soulsai.types import Array, EpisodeKind

_COLOURS: dict[EpisodeKind, str] = {
    "exploring": "#0072B2",
    "greedy": "#D55E00",
    "intervened": "#009E73",
}
_NAMES: dict[EpisodeKind, str] = {"intervened": "taken over by a person"}
_BEST, _GREY = "#CC79A7", "#555555"


def save(figure: Figure, path: Path) -> None:
    """Write a PNG atomically: a reader sees the old figure or the new one."""
    unfinished = path.with_name(f".{path.name}.part")
    figure.savefig(unfinished, format="png")
    os.replace(unfinished, path)


def draw(snapshot: Snapshot) -> Figure:
    """Return the figure: reward, measure, episode length and throughput over env steps.

    Panels of constant values are left out, and the legend is outside of all panels.
    """
    kinds = [
        (_NAMES.get(kind, kind), _COLOURS[kind], _by_steps(rows))
        for kind, rows in snapshot.curves.items()
        if len(rows)
    ]
    every = np.vstack(list(snapshot.curves.values()))
    wanted = [("extra", snapshot.shown)] if snapshot.shown else []
    wanted.append(("steps", "episode length"))
    panels = [(column, label) for column, label in wanted if _varies(every, column)]
    heights = (4.0, *(1.2 for _ in panels), 1.2)
    figure = Figure(figsize=(9, 4.5 + 1.2 * len(heights)), dpi=110, layout="constrained")
    FigureCanvasAgg(figure)
    reward, *between, speed = figure.subplots(len(heights), 1, sharex=True, height_ratios=heights)
    _draw_title(figure, snapshot.title)
    for name, colour, rows in kinds:
        window = _smoothing(rows, snapshot.window)
        _draw_reward(reward, name, colour, rows, window)
        for axes, (column, _) in zip(between, panels, strict=True):
            _draw_mean(axes, colour, rows, window, column)
    if snapshot.best:
        _draw_best(reward, snapshot, snapshot.best)
    _draw_speed(speed, every)
    labels = ["reward per episode", *(label for _, label in panels), "env steps/s"]
    for axes, label in zip((reward, *between, speed), labels, strict=True):
        axes.set_ylabel(label)
        _style(axes, from_zero=axes is not reward)
    speed.set_xlabel("env steps")
    speed.xaxis.set_major_formatter(EngFormatter(sep=""))
    figure.align_ylabels()
    handles, names = reward.get_legend_handles_labels()
    if handles:
        figure.legend(handles, names, loc="outside lower left", fontsize=9, frameon=False)
    return figure


def _varies(rows: Array, name: str) -> bool:
    """Return whether the mean of a column per episode differs between bins."""
    if not len(rows):
        return False
    means = _column(rows, name) / _column(rows, "episodes")
    return bool(np.ptp(means) > 1e-9 * np.abs(means).max())


def _style(axes: Axes, *, from_zero: bool) -> None:
    axes.grid(visible=True, color="#e4e4e4", linewidth=0.6)
    axes.set_axisbelow(True)
    axes.spines[["top", "right"]].set_visible(False)
    axes.spines[["left", "bottom"]].set_color("#999999")
    axes.tick_params(colors="#444444", labelsize=9)
    axes.margins(x=0.01)
    if from_zero and axes.get_ylim()[0] >= -axes.get_ylim()[1] / 10:
        axes.set_ylim(bottom=0)


def _draw_title(figure: Figure, title: str) -> None:
    head, _, rest = title.partition("\n")
    figure.suptitle(f"{rest}\n{head}" if rest else head, fontsize=11, x=0.01, ha="left")


def _draw_best(axes: Axes, snapshot: Snapshot, best: Best) -> None:
    kind = "greedy" if best.greedy else "any"
    goal = "" if snapshot.goal == "reward" else f" {snapshot.goal}"
    label = (
        f"best mean{goal} of {snapshot.window} ({kind}): {best.score:.4g}, version {best.version}"
    )
    if goal:  # the score is not on the scale of rewards
        axes.axvline(best.env_steps, color=_BEST, linewidth=1.2, linestyle=":", label=label)
        return
    axes.plot(best.env_steps, best.score, "*", color=_BEST, markersize=15, label=label, zorder=5,
              markeredgecolor="white")  # fmt: skip
    axes.axhline(best.score, color=_BEST, linewidth=0.8, linestyle=":")


def rolling(rows: Array, window: int, other: str = "steps") -> tuple[Array, Array, Array]:
    """Return mean and deviation of the reward, and the mean of another column.

    Args:
        rows: Bins of a ``History``, shape ``(bins, columns)``.
        window: Episodes in the mean; a window holds whole bins, at least one.
        other: Name of the other column.

    Returns:
        Three arrays with one value for each bin.
    """
    sums = np.cumsum(np.vstack([np.zeros(rows.shape[1]), rows]), axis=0)
    count, reward, squared, more = (
        sums[:, History.COLUMNS.index(name)]
        for name in ("episodes", "reward", "reward_squared", other)
    )
    ends = np.arange(1, len(rows) + 1)
    starts = np.searchsorted(count, count[1:] - window, side="left")
    starts = np.minimum(starts, ends - 1)
    n = count[ends] - count[starts]
    mean = (reward[ends] - reward[starts]) / n
    variance = (squared[ends] - squared[starts]) / n - mean**2
    return mean, np.sqrt(np.maximum(variance, 0.0)), (more[ends] - more[starts]) / n


def throughput(rows: Array, points: int = 120) -> tuple[Array, Array]:
    """Return env steps, and env steps per second of wall time, at ``points`` places at most."""
    rows = rows[np.argsort(_column(rows, "time"), kind="stable")]
    times, taken = _column(rows, "time"), np.cumsum(_column(rows, "steps"))
    if len(rows) < 2 or times[-1] <= times[0]:
        return np.zeros(0), np.zeros(0)
    marks = np.unique(np.searchsorted(times, np.linspace(times[0], times[-1], points + 1)))
    # Episodes of many clients end within a millisecond, and those of a vector at one instant: the
    # rate over such a span says nothing, so that each span lasts half of its share at least.
    least = (times[-1] - times[0]) / points / 2
    apart = [marks[0]]
    for mark in marks[1:]:
        if times[mark] - times[apart[-1]] >= least:
            apart.append(mark)
    marks = np.array(apart)
    rates = np.diff(taken[marks]) / np.diff(times[marks])
    return _column(rows, "env_steps")[marks[1:]], rates


def _column(rows: Array, name: str) -> Array:
    return np.asarray(rows[:, History.COLUMNS.index(name)])


def _by_steps(rows: Array) -> Array:
    """Sort by env steps, which go back when a run resumes from a checkpoint."""
    return np.asarray(rows[np.argsort(_column(rows, "env_steps"), kind="stable")])


def _smoothing(rows: Array, window: int) -> int:
    """Return the episodes in the mean; short runs get a shorter window."""
    return int(np.clip(_column(rows, "episodes").sum() // 10, min(5, window), window))


def _draw_reward(axes: Axes, name: str, colour: str, rows: Array, window: int) -> None:
    x = _column(rows, "env_steps")
    mean, deviation, _ = rolling(rows, window)
    single = _column(rows, "reward") / _column(rows, "episodes")
    size = 6 if len(rows) < 200 else 3
    axes.plot(x, single, ".", color=colour, alpha=0.35, markersize=size, markeredgewidth=0)
    axes.fill_between(x, mean - deviation, mean + deviation, color=colour, alpha=0.15, linewidth=0)
    count = int(_column(rows, "episodes").sum())
    label = f"{name}: mean of {window} episodes ± deviation ({count:,} episodes)"
    axes.plot(x, mean, color=colour, linewidth=1.6, label=label)


def _draw_mean(axes: Axes, colour: str, rows: Array, window: int, name: str) -> None:
    mean = rolling(rows, window, name)[2]
    axes.plot(_column(rows, "env_steps"), mean, color=colour, linewidth=1.3)


def _draw_speed(axes: Axes, rows: Array) -> None:
    x, rates = throughput(rows)
    axes.plot(x, rates, color=_GREY, linewidth=1.2, drawstyle="steps")


if __name__ == "__main__":
    with process.StopSignal(process.parent(), at_once=True):
        save(draw(decode(sys.stdin.buffer.read())), Path(sys.argv[1]))
