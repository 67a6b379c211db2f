"""Draw groups of curves: each run as a thin line, the group's statistics as a thick one."""

from collections.abc import Sequence

from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.ticker import EngFormatter
from msgspec import Struct

from soulsai.compare.curves import Axis, Curve, Middle
from soulsai.types import Array
from soulsai.web.series import bands

# The colours of Okabe and Ito, which colour-blind readers can distinguish.
COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000")
LABELS = {"env_steps": "env steps", "wall_time": "seconds", "episodes": "episodes"}
POINTS = 200  # of a band


class CurveGroup(Struct, frozen=True, eq=False):
    """Runs that differ in their seed only, and their name in the legend."""

    name: str
    curves: list[Curve]

    def band(self) -> dict[str, Array]:
        """Return the statistics of the curves over one grid, as ``soulsai.web.series.bands``."""
        return bands([(curve.x, curve.y) for curve in self.curves], POINTS)


def draw(groups: Sequence[CurveGroup], *, x: Axis, middle: Middle, y: str) -> Figure:
    """Return a figure of all groups.

    Args:
        groups: The groups, each with a colour of its own.
        x: The axis of the curves.
        middle: The statistic of the thick line.
        y: The label of the vertical axis.
    """
    figure = Figure(figsize=(9, 5.5), dpi=110, layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.subplots()
    draw_groups(axes, groups, x=x, middle=middle)
    axes.set_ylabel(y)
    return figure


def draw_groups(axes: Axes, groups: Sequence[CurveGroup], *, x: Axis, middle: Middle) -> None:
    """Draw every group in a colour of its own, with a legend.

    Args:
        axes: The axes to draw on.
        groups: The groups.
        x: The axis of the curves.
        middle: The statistic of the thick line.
    """
    for number, group in enumerate(groups):
        _draw_group(axes, group, COLOURS[number % len(COLOURS)], middle)
    axes.set_xlabel(LABELS[x])
    axes.xaxis.set_major_formatter(EngFormatter(sep=""))
    plain(axes)
    if axes.get_legend_handles_labels()[0]:
        axes.legend(loc="best", fontsize=9, framealpha=0.8)


def plain(axes: Axes) -> None:
    """Draw a faint grid, and remove the upper and right borders."""
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
    band = group.band()
    axes.fill_between(band["x"], band["low"], band["high"], color=colour, alpha=0.15, linewidth=0)
    label = f"{group.name}: {middle.upper() if middle == 'iqm' else middle} of {len(curves)} runs"
    axes.plot(band["x"], band[middle], color=colour, linewidth=2.0, label=label)
