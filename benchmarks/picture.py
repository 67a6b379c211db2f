"""A target's picture: how its seeds learnt, and where each of them ended."""

import re
from pathlib import Path

import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from benchmarks.learning import Score
from soulsai.compare.curves import Curve, read
from soulsai.compare.picture import COLOURS, CurveGroup, draw_groups, plain
from soulsai.telemetry_node.figure import save

WINDOW = 20  # episodes in a curve's mean
GREEDY_WINDOW = 5  # they are rarer
LIMIT, FAINT = "#D55E00", "#555555"


def save_picture(score: Score, folder: Path) -> Path:
    """Draw a target's result into ``folder``, and return the file."""
    path = folder / f"{re.sub(r'[^A-Za-z0-9.-]+', '_', score.target)}.png"
    save(draw(score), path)
    return path


def draw(score: Score) -> Figure:
    """Return curves of exploring and of greedy episodes, and the seeds' scores as dots."""
    figure = Figure(figsize=(11, 5), dpi=110, layout="constrained")
    FigureCanvasAgg(figure)
    curves, dots = figure.subplots(1, 2, sharey=True, width_ratios=(4, 1))
    figure.suptitle(_title(score), fontsize=11)
    folders = [Path(run) for run in score.runs]
    exploring = [read(one, x="env_steps", kind="exploring", window=WINDOW) for one in folders]
    greedy = [_along(score, place) for place in range(len(folders))]
    groups = [CurveGroup("exploring episodes", exploring), CurveGroup("greedy episodes", greedy)]
    draw_groups(curves, groups, x="env_steps", middle="iqm")
    curves.set_ylabel("reward per episode")
    _draw_dots(dots, score)
    source = " ".join([*score.settings, *(f"at {one}" for one in score.revisions)])
    figure.supxlabel(source, fontsize=6, color=FAINT, x=0.01, ha="left")
    for axes in (curves, dots):
        _draw_limit(axes, score.bar, "-")
        _draw_limit(axes, score.floor, ":")
    return figure


def _along(score: Score, place: int) -> Curve:
    """Return how one seed did in greedy episodes: of its checkpoints, or else of its training."""
    run = Path(score.runs[place])
    if not score.curves[place]:
        return read(run, x="env_steps", kind="greedy", window=GREEDY_WINDOW)
    env_steps, scores = np.asarray(score.curves[place], np.float64).T
    return Curve(run.name, env_steps, scores)


def _title(score: Score) -> str:
    if score.iqm is None:
        return f"{score.target}: no seed reached its end"
    return (
        f"{score.target}: IQM {score.iqm:.4g} of {len(score.scores)} seeds "
        f"[{score.low:.4g}, {score.high:.4g}], worst {score.worst:.4g}"
    )


def _draw_dots(axes: Axes, score: Score) -> None:
    """Draw each seed's final score, beside their IQM and its interval."""
    spread = np.linspace(-0.3, 0.3, len(score.scores) + 2)[1:-1]
    axes.plot(spread, score.scores, "o", color=COLOURS[0], alpha=0.8)
    for place, seed, reached in zip(spread, score.seeds, score.scores, strict=True):
        axes.annotate(
            str(seed), (place, reached), (0, 5), textcoords="offset points", fontsize=7, ha="center"
        )
    if score.iqm is not None and score.low is not None and score.high is not None:
        axes.plot([0.6, 0.6], [score.low, score.high], color=COLOURS[0], linewidth=2)
        axes.plot([0.6], [score.iqm], "D", color=COLOURS[0], label="IQM, 95 % interval")
        axes.legend(loc="lower center", fontsize=8)
    axes.set_xlim(-0.5, 1.0)
    axes.set_xticks([])
    axes.set_xlabel("final checkpoints, by seed")
    plain(axes)


def _draw_limit(axes: Axes, value: float, style: str) -> None:
    if np.isfinite(value):
        axes.axhline(value, color=LIMIT if style == "-" else FAINT, linewidth=1, linestyle=style)
