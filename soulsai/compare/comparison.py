"""The report of ``soulsai compare``: groups of runs, their curves, and differing settings."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from msgspec import Struct
from rich.console import Console
from rich.table import Table

from soulsai.compare import curves
from soulsai.compare.curves import Axis, Middle
from soulsai.compare.picture import CurveGroup, draw
from soulsai.errors import CheckpointError, ConfigError
from soulsai.telemetry_node.figure import save
from soulsai.web.comparison import SEED, Flat, alike, differences, flat_settings
from soulsai.web.run_store import CONFIG
from soulsai.web.series import Kind


class CurveQuery(Struct, frozen=True):
    """The curves of a comparison."""

    x: Axis
    middle: Middle
    kind: Kind
    metric: str
    window: int  # episodes in the rolling mean


class ComparedGroup(Struct, frozen=True):
    """Runs that differ in their seed only, and the statistics of their curves."""

    name: str
    runs: list[str]
    x: list[float]
    count: list[int]  # runs that reach this place
    middle: list[float]
    low: list[float]  # quartiles
    high: list[float]


class ComparisonReport(Struct, frozen=True):
    """The result of a comparison."""

    axis: Axis
    middle: Middle
    metric: str
    groups: list[ComparedGroup]
    differences: dict[str, list[Any]]  # by setting, one value for each group
    figure: str


def compare(folders: Sequence[Path], query: CurveQuery, out: Path) -> ComparisonReport:
    """Compare runs and draw them.

    Args:
        folders: The folders of the runs.
        query: The curves.
        out: The PNG file to write.

    Raises:
        CheckpointError: A run's settings cannot be read.
        ConfigError: No run has such episodes.
    """
    flat = {folder: settings(folder) for folder in folders}
    members = alike(flat)
    firsts = [flat[folders[0]] for folders in members]
    differing = differences(firsts)
    groups = [
        CurveGroup(_title(first, differing), [_curve(folder, query) for folder in folders])
        for first, folders in zip(firsts, members, strict=True)
    ]
    if not any(len(curve.x) for group in groups for curve in group.curves):
        raise ConfigError(f"none of these runs has {query.kind} episodes with {query.metric!r} yet")
    out.parent.mkdir(parents=True, exist_ok=True)
    y = f"{query.metric}, mean of {query.window} {query.kind} episodes"
    save(draw(groups, x=query.x, middle=query.middle, y=y), out)
    compared = [
        _compared(group, folders, query.middle)
        for group, folders in zip(groups, members, strict=True)
    ]
    return ComparisonReport(query.x, query.middle, query.metric, compared, differing, str(out))


def settings(folder: Path) -> Flat:
    """Return the settings of a run that influence learning, without its seed."""
    try:
        flat = flat_settings(json.loads((folder / CONFIG).read_bytes()))
    except (OSError, ValueError, AttributeError) as error:
        raise CheckpointError(f"{folder / CONFIG}: cannot be read: {error}") from error
    flat.pop(SEED, None)
    return flat


def show(report: ComparisonReport) -> None:
    """Print the differing settings and the last value of each group."""
    letters = [chr(ord("A") + place) for place in range(len(report.groups))]
    rows = Table("setting", *letters)
    for path, values in report.differences.items():
        rows.add_row(path, *(_text(value) for value in values))
    rows.add_section()
    rows.add_row("runs", *(str(len(group.runs)) for group in report.groups))
    rows.add_row(
        f"last {report.metric} ({report.middle})",
        *(f"{group.middle[-1]:.4g}" if group.middle else "none" for group in report.groups),
    )
    console = Console(soft_wrap=True)
    console.print(rows)
    for letter, group in zip(letters, report.groups, strict=True):
        names = ", ".join(Path(run).name for run in group.runs)
        console.print(f"{letter}: {names}", markup=False, highlight=False)
    console.print(f"{report.figure}: written", markup=False, highlight=False)


def _curve(folder: Path, query: CurveQuery) -> curves.Curve:
    return curves.read(folder, x=query.x, kind=query.kind, window=query.window, metric=query.metric)


def _compared(group: CurveGroup, folders: list[Path], middle: Middle) -> ComparedGroup:
    band = group.band()
    return ComparedGroup(
        name=group.name,
        runs=[str(folder) for folder in folders],
        x=band["x"].tolist(),
        count=band["n"].tolist(),
        middle=band[middle].tolist(),
        low=band["low"].tolist(),
        high=band["high"].tolist(),
    )


def _title(flat: Flat, differing: dict[str, list[Any]]) -> str:
    words = [f"{path}={_text(flat.get(path))}" for path in differing]
    return ", ".join(words) or f"{flat.get('environment.id')} {flat.get('algorithm.name')}"


def _text(value: Any) -> str:
    return value if isinstance(value, str) else json.dumps(value)
