"""Curves for plots: rolling means, an ascending axis, and a bounded number of points.

Pure functions of a table's rows. The down-sampling is LTTB, "largest triangle, three buckets"
(Steinarsson, 2013), which keeps the points that shape the curve.
"""

from collections.abc import Iterable, Mapping, Sequence
from typing import Literal

import numpy as np
from msgspec import Struct

from soulsai.types import INTERVENED, Array
from soulsai.web.tables import ENV_STEPS, NUMBER, TIME, TableView

Axis = Literal["env_steps", "number", "time"]
Kind = Literal["all", "exploring", "greedy", "intervened"]
Columns = dict[str, Array]

MEAN, LOW, HIGH = "_mean", "_low", "_high"  # after a metric's name: its mean, and one deviation off
AXES = (NUMBER, ENV_STEPS, TIME)
FEWEST_POINTS, MOST_POINTS = 2, 5000


class SeriesQuery(Struct, frozen=True):
    """The curves of one table and their form."""

    metrics: tuple[str, ...]
    x: Axis = "env_steps"
    points: int = 1000
    window: int = 20  # episodes in a rolling mean
    kind: Kind = "all"
    after: int = 0  # only rows with larger numbers
    begin: float = -np.inf  # Unix seconds
    end: float = np.inf


def has(columns: Iterable[str], metric: str) -> bool:
    """Return whether a metric is, or can be computed from, one of the columns."""
    names = set(columns)
    return metric in names or _base(names, metric) in names


def curves(view: TableView, query: SeriesQuery) -> Columns:
    """Return the three axes and the metrics of the query, strictly ascending in ``x``."""
    rows = _ordered(_wanted(view, query), query.x)
    rows[TIME] = np.round(rows[TIME], 3)  # the API's precision, so that no two rows look equal
    answer = {axis: rows[axis] for axis in AXES}
    rollings: dict[str, tuple[Array, Array]] = {}
    for metric in query.metrics:
        base = _base(rows, metric)
        if metric != base and base not in rollings:
            rollings[base] = rolling(rows[base], query.window)
        answer[metric] = rows[base] if metric == base else _rolled(metric, *rollings[base])
    fresh = (rows[NUMBER] > query.after) & (rows[TIME] >= query.begin) & (rows[TIME] <= query.end)
    answer = _merged({name: column[fresh] for name, column in answer.items()}, query.x)
    shapes: Columns = {}  # one metric for each column decides the points
    for metric in query.metrics:
        shapes.setdefault(_base(rows, metric), answer[metric])
    chosen = downsampled(answer[query.x], list(shapes.values()), query.points)
    return {name: column[chosen] for name, column in answer.items()}


def joined(parts: Sequence[Columns], x: Axis) -> Columns:
    """Return columns of several tables over one axis; missing values are NaN."""
    if len(parts) == 1:
        return parts[0]
    axis = np.unique(np.concatenate([part[x] for part in parts]))
    answer: Columns = {x: axis}
    for part in parts:
        places = np.searchsorted(axis, part[x])
        for name, column in part.items():
            if name in (x, NUMBER):
                continue
            whole = answer.setdefault(name, np.full(len(axis), np.nan))
            whole[places] = column
    return answer


def rolling(values: Array, window: int) -> tuple[Array, Array]:
    """Return mean and deviation of the last ``window`` values at each one, ignoring NaN."""
    known = np.isfinite(values)
    centre = float(values[known].mean()) if known.any() else 0.0
    shifted = np.where(known, values - centre, 0.0)  # squares of large numbers would cancel
    sums = np.cumsum(np.vstack([known, shifted, shifted * shifted]), axis=1, dtype=float)
    sums[:, window:] -= sums[:, :-window].copy()
    with np.errstate(invalid="ignore", divide="ignore"):
        mean = sums[1] / sums[0]
        deviation = np.sqrt(np.maximum(sums[2] / sums[0] - mean * mean, 0.0))
    return mean + centre, deviation


def downsampled(x: Array, curves: Sequence[Array], points: int) -> Array:
    """Return ascending indices of the points that keep the shape of all curves.

    Args:
        x: The axis, shape ``(n,)``.
        curves: Values over it, each of shape ``(n,)``; NaN is ignored.
        points: The largest number of indices.
    """
    if len(x) <= points or not curves:
        return np.arange(min(len(x), points))
    each = max(FEWEST_POINTS, points // len(curves))
    chosen = [_finite_lttb(x, curve, each) for curve in curves]
    return np.unique(np.concatenate(chosen))[:points]


def lttb(x: Array, y: Array, points: int) -> Array:
    """Return the indices of the points that keep the shape of a curve (LTTB).

    Args:
        x: The axis, ascending, shape ``(n,)``.
        y: The values without NaN, shape ``(n,)``.
        points: The number of indices.
    """
    n = len(x)
    if points >= n or points < 3:
        return np.unique(np.linspace(0, n - 1, min(points, n)).astype(int)) if n else np.arange(0)
    edges = np.linspace(1, n - 1, points - 1).astype(int)
    lengths = np.diff(edges)
    middle_x = np.append(np.add.reduceat(x[:-1], edges[:-1])[1:] / lengths[1:], x[-1])
    middle_y = np.append(np.add.reduceat(y[:-1], edges[:-1])[1:] / lengths[1:], y[-1])
    chosen = np.zeros(points, int)
    chosen[-1] = n - 1
    last = 0
    for i in range(points - 2):
        begin, end = edges[i], edges[i + 1]
        dx, dy = middle_x[i] - x[last], middle_y[i] - y[last]
        area = np.abs((x[begin:end] - x[last]) * dy - (y[begin:end] - y[last]) * dx)
        last = begin + int(area.argmax())
        chosen[i + 1] = last
    return chosen


def bands(runs: Sequence[tuple[Array, Array]], points: int) -> Columns:
    """Return statistics of the curves of several seeds over one grid.

    Args:
        runs: The curves ``(x, y)``.
        points: Places of the grid.

    Returns:
        Columns of shape ``(points,)``: ``x``, the number ``n`` of curves that reach it, their
        ``median``, quartiles ``low`` and ``high``, and interquartile mean ``iqm``.
    """
    runs = [(x[np.isfinite(y)], y[np.isfinite(y)]) for x, y in runs]
    runs = [(x, y) for x, y in runs if len(x)]
    if not runs:
        return {name: np.zeros(0) for name in ("x", "n", "median", "low", "high", "iqm")}
    grid = np.linspace(min(x[0] for x, _ in runs), max(x[-1] for x, _ in runs), points)
    values = np.array([np.interp(grid, x, y, left=np.nan, right=np.nan) for x, y in runs])
    known = np.isfinite(values).any(axis=0)
    grid, values = grid[known], values[:, known]
    low, median, high = np.nanquantile(values, [0.25, 0.5, 0.75], axis=0)
    n = np.isfinite(values).sum(axis=0)
    iqm = _middle_half(np.sort(values, axis=0), n)
    return {"x": grid, "n": n, "median": median, "low": low, "high": high, "iqm": iqm}


def _middle_half(ascending: Array, n: Array) -> Array:
    """Return the mean of each column's middle half; values at its edge count in part."""
    place = np.arange(len(ascending))[:, None]
    share = np.minimum(place + 1, 0.75 * n) - np.maximum(place, 0.25 * n)
    weighted = np.where(share > 0, np.maximum(share, 0) * ascending, 0.0)
    return np.asarray(weighted.sum(axis=0) / (0.5 * n))


def of_kind(columns: Mapping[str, Array], kind: Kind) -> Array:
    """Return whether each row is an episode of a kind; rows of other tables are of any.

    Args:
        columns: The columns of a table.
        kind: Episodes with steps that a person chose are of their own kind, and of no other.
    """
    every = np.ones(len(columns[NUMBER]), np.bool_)
    if kind == "all" or "greedy" not in columns:
        return every
    intervened: Array = columns[INTERVENED] > 0 if INTERVENED in columns else ~every
    if kind == "intervened":
        return intervened
    greedy: Array = columns["greedy"] > 0
    return np.asarray(~intervened & (greedy == (kind == "greedy")))


def _wanted(view: TableView, query: SeriesQuery) -> Columns:
    """Return the rows of the query's kind, as far back as a rolling mean reaches."""
    columns = view.columns
    rows = np.flatnonzero(of_kind(columns, query.kind))
    if query.after:
        first = int(np.searchsorted(columns[NUMBER][rows], query.after, side="right"))
        rows = rows[max(0, first - query.window) :]
    bases = {_base(columns, metric) for metric in query.metrics}
    unknown = np.full(len(rows), np.nan)
    return {name: columns[name][rows] if name in columns else unknown for name in {*AXES, *bases}}


def _ordered(rows: Columns, x: Axis) -> Columns:
    """Sort by ``x``; env steps go back when a run resumes from a checkpoint."""
    axis = rows[x]
    if len(axis) < 2 or bool(np.all(axis[1:] >= axis[:-1])):
        return rows
    order = np.argsort(axis, kind="stable")
    return {name: column[order] for name, column in rows.items()}


def _merged(columns: Columns, x: Axis) -> Columns:
    """Return one row for each ``x``: the last of axes and rolling means, the mean of others."""
    axis = columns[x]
    starts = np.flatnonzero(np.diff(axis, prepend=-np.inf))
    if len(starts) == len(axis):
        return columns
    ends = np.append(starts[1:], len(axis)) - 1
    rollings = tuple(name for name in columns if name.endswith((MEAN, LOW, HIGH)))
    answer: Columns = {}
    for name, column in columns.items():
        if name in AXES or name in rollings:
            answer[name] = column[ends]
            continue
        known = np.isfinite(column)
        sums = np.add.reduceat(np.where(known, column, 0.0), starts)
        counts = np.add.reduceat(known.astype(float), starts)
        answer[name] = np.where(counts > 0, sums / np.maximum(counts, 1.0), np.nan)
    return answer


def _rolled(metric: str, mean: Array, deviation: Array) -> Array:
    if metric.endswith(MEAN):
        return mean
    return mean - deviation if metric.endswith(LOW) else mean + deviation


def _base(names: Iterable[str] | Mapping[str, Array], metric: str) -> str:
    """Return the name of the column behind a metric."""
    if metric in names:
        return metric
    for suffix in (MEAN, LOW, HIGH):
        if metric.endswith(suffix):
            return metric.removesuffix(suffix)
    return metric


def _finite_lttb(x: Array, y: Array, points: int) -> Array:
    known = np.flatnonzero(np.isfinite(y))
    return known[lttb(x[known], y[known], points)]
