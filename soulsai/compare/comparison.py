"""A comparison of runs: grouped by their settings, drawn, and told."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from msgspec import Struct
from rich.console import Console
from rich.table import Table

from soulsai.compare import curves, settings
from soulsai.compare.curves import Axis, Middle
from soulsai.compare.picture import CurveGroup, draw
from soulsai.errors import ConfigError
from soulsai.telemetry_node.figure import save
from soulsai.web.series import Kind


class CurveQuery(Struct, frozen=True):
    """What of the runs is compared."""

    x: Axis
    middle: Middle
    kind: Kind
    metric: str
    window: int


class Compared(Struct, frozen=True):
    """A group of runs that differ in nothing but their seed, and what they have in common."""

    name: str
    runs: list[str]
    x: list[float]
    count: list[int]  # runs that reach this place
    middle: list[float]
    low: list[float]  # quartiles
    high: list[float]


class ComparisonReport(Struct, frozen=True):
    """What the command found."""

    axis: Axis
    middle: Middle
    metric: str
    groups: list[Compared]
    differences: dict[str, list[Any]]  # by setting, one value for each group
    figure: str


def compare(folders: Sequence[Path], query: CurveQuery, out: Path) -> ComparisonReport:
    """Compare runs, and draw them into ``out``."""
    flat = {folder: settings.settings(folder) for folder in folders}
    alike = settings.alike(flat)
    differing = settings.differences([flat[members[0]] for members in alike])
    groups = [
        CurveGroup(
            settings.title(flat[members[0]], differing),
            [_curve(folder, query) for folder in members],
        )
        for members in alike
    ]
    if not any(len(curve.x) for group in groups for curve in group.curves):
        raise ConfigError(f"none of these runs has {query.kind} episodes with {query.metric!r} yet")
    out.parent.mkdir(parents=True, exist_ok=True)
    y = f"{query.metric}, mean of {query.window} {query.kind} episodes"
    save(draw(groups, x=query.x, middle=query.middle, y=y), out)
    compared = [
        _compared(group, members, query.middle)
        for group, members in zip(groups, alike, strict=True)
    ]
    return ComparisonReport(query.x, query.middle, query.metric, compared, differing, str(out))


def show(found: ComparisonReport) -> None:
    """Print where settings differ, and where each group ended."""
    rows = Table("setting", *(f"{chr(65 + place)}" for place in range(len(found.groups))))
    for path, values in found.differences.items():
        rows.add_row(path, *(settings.text(value) for value in values))
    rows.add_section()
    rows.add_row("runs", *(str(len(group.runs)) for group in found.groups))
    rows.add_row(
        f"last {found.metric} ({found.middle})",
        *(f"{group.middle[-1]:.4g}" if group.middle else "none" for group in found.groups),
    )
    console = Console(soft_wrap=True)
    console.print(rows)
    for place, group in enumerate(found.groups):
        names = ", ".join(Path(run).name for run in group.runs)
        console.print(f"{chr(65 + place)}: {names}", markup=False, highlight=False)
    console.print(f"{found.figure}: written", markup=False, highlight=False)


def _curve(folder: Path, query: CurveQuery) -> curves.Curve:
    return curves.read(folder, x=query.x, kind=query.kind, window=query.window, metric=query.metric)


def _compared(group: CurveGroup, members: list[Path], middle: Middle) -> Compared:
    band = curves.band(group.curves, middle)
    return Compared(
        name=group.name,
        runs=[str(folder) for folder in members],
        x=band.x.tolist(),
        count=band.n.tolist(),
        middle=band.middle.tolist(),
        low=band.low.tolist(),
        high=band.high.tolist(),
    )
