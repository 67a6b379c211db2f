"""Groups of curves on one pair of axes: each run thin, what they have in common thick."""

from collections.abc import Sequence

from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.ticker import EngFormatter
from msgspec import Struct

from soulsai.compare.curves import Axis, Curve, Middle, band

# Okabe and Ito's colours, which the colour-blind can tell apart.
COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000")
LABELS = {"env_steps": "env steps", "wall_time": "seconds", "episodes": "episodes"}


class CurveGroup(Struct, frozen=True, eq=False):
    """Runs that differ in nothing but their seed, and what to call them."""

    name: str
    curves: list[Curve]


def draw(groups: Sequence[CurveGroup], *, x: Axis, middle: Middle, y: str) -> Figure:
    """Return a figure of all groups."""
    figure = Figure(figsize=(9, 5.5), dpi=110, layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.subplots()
    draw_groups(axes, groups, x=x, middle=middle)
    axes.set_ylabel(y)
    return figure


def draw_groups(axes: Axes, groups: Sequence[CurveGroup], *, x: Axis, middle: Middle) -> None:
    """Draw every group in a colour of its own, with a legend."""
    for number, group in enumerate(groups):
        _draw_group(axes, group, COLOURS[number % len(COLOURS)], middle)
    axes.set_xlabel(LABELS[x])
    axes.xaxis.set_major_formatter(EngFormatter(sep=""))
    plain(axes)
    if axes.get_legend_handles_labels()[0]:
        axes.legend(loc="best", fontsize=9, framealpha=0.8)


def plain(axes: Axes) -> None:
    """Leave out what nobody reads."""
    axes.grid(visible=True, color="#dddddd", linewidth=0.6)
    axes.set_axisbelow(True)
    axes.spines[["top", "right"]].set_visible(False)


def _draw_group(axes: Axes, group: CurveGroup, colour: str, middle: Middle) -> None:
    curves = [curve for curve in group.curves if len(curve.x)]
    if not curves:
        return
    if len(curves) == 1:
        axes.plot(curves[0].x, curves[0].y, color=colour, linewidth=1.6, label=group.name)
        return
    for curve in curves:
        axes.plot(curve.x, curve.y, color=colour, linewidth=0.6, alpha=0.35)
    common = band(curves, middle)
    axes.fill_between(common.x, common.low, common.high, color=colour, alpha=0.15, linewidth=0)
    label = f"{group.name}: {middle.upper() if middle == 'iqm' else middle} of {len(curves)} runs"
    axes.plot(common.x, common.middle, color=colour, linewidth=2.0, label=label)
