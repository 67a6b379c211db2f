"""One run's curve: what its episodes earned, over env steps, wall time or episodes."""

from pathlib import Path
from typing import Literal

import numpy as np
from msgspec import Struct

from soulsai.types import Array
from soulsai.web.journal import RecordReader
from soulsai.web.series import Kind, bands, rolling
from soulsai.web.tables import ENV_STEPS, NUMBER, TIME

Axis = Literal["env_steps", "wall_time", "episodes"]
Middle = Literal["iqm", "median"]

POINTS = 200  # of a band


class Curve(Struct, frozen=True, eq=False):
    """What one run's episodes earned, on the mean of a window, in ascending order of ``x``."""

    run: str
    x: Array
    y: Array


class Band(Struct, frozen=True, eq=False):
    """What several curves have in common; ``low`` and ``high`` are the quartiles."""

    x: Array
    n: Array  # curves that reach this place
    middle: Array
    low: Array
    high: Array


def read(folder: Path, *, x: Axis, kind: Kind, window: int, metric: str = "reward") -> Curve:
    """Return the curve of a run's record; empty if nothing of that kind is recorded.

    Wall time counts from the start of the first episode.
    """
    columns = RecordReader(folder).read().table.view().columns
    values = columns.get(metric, np.full(len(columns[NUMBER]), np.nan))
    wanted = np.isfinite(values)
    if kind != "all" and "greedy" in columns:
        wanted &= (columns["greedy"] > 0) == (kind == "greedy")
    axis = _axis(columns, x)[wanted]
    values = values[wanted]
    # Env steps go back when a run resumes from a checkpoint.
    order = np.argsort(axis, kind="stable")
    axis, mean = axis[order], rolling(values[order], window)[0]
    last = np.append(np.diff(axis) > 0, True)[: len(axis)]  # one value at one place
    return Curve(folder.name, axis[last], mean[last])


def band(curves: list[Curve], middle: Middle) -> Band:
    """Return what curves have in common, over one grid."""
    columns = bands([(curve.x, curve.y) for curve in curves], POINTS)
    return Band(columns["x"], columns["n"], columns[middle], columns["low"], columns["high"])


def _axis(columns: dict[str, Array], x: Axis) -> Array:
    if x == "env_steps":
        return np.asarray(columns[ENV_STEPS])
    if x == "episodes":
        return np.asarray(columns[NUMBER])
    ends = columns[TIME]
    if not len(ends):
        return np.asarray(ends)
    return np.asarray(ends - (ends[0] - columns["seconds"][0]))
