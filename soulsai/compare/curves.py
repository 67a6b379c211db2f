"""Read one run's curve: a metric of its episodes over env steps, wall time or episodes."""

from pathlib import Path
from typing import Literal

import numpy as np
from msgspec import Struct

from soulsai.types import Array
from soulsai.web.journal import RecordReader
from soulsai.web.series import Kind, of_kind, rolling
from soulsai.web.tables import ENV_STEPS, NUMBER, TIME

Axis = Literal["env_steps", "wall_time", "episodes"]
Middle = Literal["iqm", "median"]


class Curve(Struct, frozen=True, eq=False):
    """The rolling mean of a metric, in ascending order of ``x``; both of shape ``(n,)``."""

    run: str
    x: Array
    y: Array


def read(folder: Path, *, x: Axis, kind: Kind, window: int, metric: str = "reward") -> Curve:
    """Return the curve of a run's record; empty without such episodes.

    Args:
        folder: The run's folder.
        x: The axis; wall time counts in seconds from the start of the first episode.
        kind: Which episodes; see ``series.of_kind``.
        window: Episodes in the rolling mean.
        metric: A column of the record.
    """
    columns = RecordReader(folder).read().table.view().columns
    values = columns.get(metric, np.full(len(columns[NUMBER]), np.nan))
    wanted = np.isfinite(values) & of_kind(columns, kind)
    axis = columns[{"env_steps": ENV_STEPS, "episodes": NUMBER, "wall_time": TIME}[x]]
    if x == "wall_time" and len(axis):
        axis = axis - (axis[0] - columns["seconds"][0])
    axis, values = axis[wanted], values[wanted]
    # Env steps go back when a run resumes from a checkpoint.
    order = np.argsort(axis, kind="stable")
    axis, mean = axis[order], rolling(values[order], window)[0]
    last = np.append(np.diff(axis) > 0, True)[: len(axis)]  # one value for each x
    return Curve(folder.name, axis[last], mean[last])
