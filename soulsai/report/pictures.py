"""The curves of a report as SVG; the same numbers give the same bytes."""

from collections.abc import Sequence
from io import StringIO

import matplotlib as mpl
import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_svg import FigureCanvasSVG
from matplotlib.figure import Figure
from matplotlib.ticker import EngFormatter

from soulsai.evaluations.record import EvaluationLine
from soulsai.types import Array
from soulsai.web.series import Kind, SeriesQuery, curves
from soulsai.web.tables import Episodes

POINTS = 400
WINDOW = 50  # episodes in a rolling mean
EXPLORING, GREEDY, BEST = "#0072B2", "#D55E00", "#009E73"
KINDS: tuple[tuple[Kind, str], ...] = (("exploring", EXPLORING), ("greedy", GREEDY))
SALT = "soulsai"  # of the ids in the picture, which are random otherwise


def reward_svg(episodes: Episodes) -> str:
    """Return the rolling mean of rewards over env steps, or an empty text without episodes."""
    view = episodes.table.view()
    if len(view) < 2:
        return ""
    figure, axes = _figure("mean reward")
    for kind, colour in KINDS:
        query = SeriesQuery(
            ("reward_mean", "reward_low", "reward_high"), points=POINTS, window=WINDOW, kind=kind
        )
        found = curves(view, query)
        if len(found["env_steps"]) < 2:
            continue
        x = found["env_steps"]
        axes.plot(x, found["reward_mean"], color=colour, label=f"{kind}, mean of {WINDOW}")
        axes.fill_between(x, found["reward_low"], found["reward_high"], color=colour, alpha=0.15)
    return _svg(figure, axes)


def evaluation_svg(lines: Sequence[EvaluationLine]) -> str:
    """Return the mean of evaluations with its interval, or an empty text without evaluations.

    Args:
        lines: The last line of each model.
    """
    if not lines:
        return ""
    some = sorted(lines, key=lambda line: (line.env_steps, line.number))
    figure, axes = _figure("mean of an evaluation")
    x, mean = _column(some, "env_steps"), _column(some, "mean")
    axes.fill_between(x, _column(some, "low"), _column(some, "high"), color=GREEDY, alpha=0.2)
    axes.plot(x, mean, color=GREEDY, marker=".", label="mean and 95 % interval")
    best = np.array([line.is_best for line in some])
    axes.plot(x[best], mean[best], "*", color=BEST, markersize=11, label="a new best")
    return _svg(figure, axes)


def _column(lines: Sequence[EvaluationLine], name: str) -> Array:
    return np.array([float(getattr(line, name)) for line in lines])


def _figure(label: str) -> tuple[Figure, Axes]:
    figure = Figure(figsize=(8.5, 3.6), layout="constrained")
    FigureCanvasSVG(figure)
    axes = figure.subplots()
    axes.set_xlabel("env steps")
    axes.set_ylabel(label)
    axes.xaxis.set_major_formatter(EngFormatter(sep=""))
    axes.grid(alpha=0.3)
    return figure, axes


def _svg(figure: Figure, axes: Axes) -> str:
    if axes.get_legend_handles_labels()[0]:
        axes.legend(frameon=False)
    file = StringIO()
    with mpl.rc_context({"svg.hashsalt": SALT, "svg.fonttype": "none"}):
        figure.savefig(file, format="svg", metadata={"Date": None, "Creator": None})
    text = file.getvalue()
    return text[text.index("<svg") :]
