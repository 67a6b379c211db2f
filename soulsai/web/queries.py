"""Requests of the page and of Grafana turned into rows: what both APIs share."""

import csv
import io
import math
from collections.abc import Iterable, Iterator, Sequence
from datetime import UTC, datetime
from typing import Any, Literal

import msgspec
from msgspec import Struct

from soulsai.web import metrics, series
from soulsai.web.run_store import Folders
from soulsai.web.schemas import Difference, Row, RunComparison, SeedGroup, iso
from soulsai.web.series import AXES, FEWEST_POINTS, MOST_POINTS, Axis, Columns, Kind, SeriesQuery
from soulsai.web.tables import NUMBER, TIME, TableView

X = Literal["env_steps", "episode", "time"]
MOST_RUNS = 20  # compared at once
MOST_METRICS = 20  # asked for at once
LONGEST_WINDOW = 100_000
UNRELATED = ("redis", "client", "web")  # sections that are no part of an experiment
UNRELATED_RUN = ("seed", "name", "saves", "clients")


class BadRequest(ValueError):
    """A parameter makes no sense; says which and why."""


class Wanted(Struct, frozen=True):
    """Which series are wanted, and how."""

    run: str = "latest"
    metrics: tuple[str, ...] = ("reward",)
    x: X = "env_steps"
    points: int = 1000
    window: int = 20
    kind: Kind = "all"
    after: int = 0
    begin: float = -math.inf
    end: float = math.inf


def columns(folders: Folders, wanted: Wanted) -> Columns:
    """Return the columns that are wanted, over one ascending axis.

    Raises:
        UnknownRun, UnknownMetric, BadRequest: There is nothing to show.
    """
    run = folders.find(wanted.run)
    if len(wanted.metrics) > MOST_METRICS:
        raise BadRequest(f"metrics: at most {MOST_METRICS} at once")
    played = folders.episodes(run).table.view()
    trained = folders.journal(run).samples.view()
    of_episodes, of_training = metrics.split(wanted.metrics, played, trained)
    if of_episodes and of_training and wanted.after:
        raise BadRequest("after: the metrics are numbered differently; ask for them one by one")
    if of_training and wanted.x == "episode":
        raise BadRequest("x: the training is not counted in episodes; choose env_steps or time")
    points = min(max(wanted.points, FEWEST_POINTS), MOST_POINTS)
    if of_episodes and of_training:
        half = max(points // 2, FEWEST_POINTS)
        parts = [
            _curves(played, of_episodes, wanted, half, wanted.kind),
            _curves(trained, of_training, wanted, half, "all"),
        ]
        return series.joined(parts, _axis(wanted.x))
    if of_training:
        return _named(_curves(trained, of_training, wanted, points, "all"), "sample")
    return _named(_curves(played, of_episodes, wanted, points, wanted.kind), "episode")


def _curves(
    view: TableView, names: tuple[str, ...], wanted: Wanted, points: int, kind: Kind
) -> Columns:
    window = min(max(wanted.window, 1), LONGEST_WINDOW)
    query = SeriesQuery(
        names, _axis(wanted.x), points, window, kind, wanted.after, wanted.begin, wanted.end
    )
    return series.curves(view, query)


def _axis(x: X) -> Axis:
    return "number" if x == "episode" else x


def _named(found: Columns, number: str) -> Columns:
    return {number if name == NUMBER else name: column for name, column in found.items()}


def rows(found: Columns) -> list[Row]:
    """Return columns as rows; times as text, and what is not a number as ``None``."""
    texts = [_texts(name, column.tolist()) for name, column in found.items()]
    return [dict(zip(found, row, strict=True)) for row in zip(*texts, strict=True)]


def as_csv(found: Columns) -> str:
    """Return columns as comma-separated values with a head."""
    file = io.StringIO()
    writer = csv.writer(file)
    writer.writerow(_harmless(name) for name in found)
    writer.writerows(row.values() for row in rows(found))
    return file.getvalue()


def compare(
    folders: Folders, runs: Sequence[str], wanted: Wanted, *, grouped: bool
) -> RunComparison:
    """Return runs side by side: those that differ in their seed only as one, if ``grouped``."""
    found = list(dict.fromkeys(folders.find(run) for run in runs))
    if not found:
        raise BadRequest("runs: name at least one")
    if len(found) > MOST_RUNS or len(wanted.metrics) != 1:
        raise BadRequest(f"runs: at most {MOST_RUNS} at once, and one metric")
    flat = {run: dict(_flat(folders.config(run))) for run in found}
    groups: dict[str, list[str]] = {}
    for run in found:
        groups.setdefault(_experiment(flat[run]) if grouped else run, []).append(run)
    return RunComparison(
        metric=wanted.metrics[0],
        x=wanted.x,
        groups=[_group(folders, members, wanted) for members in groups.values()],
        differences=_differences(flat),
    )


def moment(text: str, name: str) -> float:
    """Return ISO 8601, or Unix seconds or milliseconds as Grafana gives them, as Unix seconds."""
    try:
        if text.isdecimal() and len(text) <= 16:
            return int(text) / (1 if len(text) <= 11 else 1000)
        time = datetime.fromisoformat(text)
        return (time if time.tzinfo else time.replace(tzinfo=UTC)).timestamp()
    except (ValueError, OverflowError, OSError):
        raise BadRequest(f"{name}: {text[:50]!r} is no time; write 2026-11-22T10:00:00Z") from None


def names(lists: Iterable[str]) -> tuple[str, ...]:
    """Return names that were given one by one, or several with commas between."""
    return tuple(name.strip() for some in lists for name in some.split(",") if name.strip())


def _group(folders: Folders, members: list[str], wanted: Wanted) -> SeedGroup:
    each = msgspec.structs.replace(wanted, points=MOST_POINTS)
    metric = wanted.metrics[0]
    curves = []
    for run in members:
        found = columns(folders, msgspec.structs.replace(each, run=run))
        x = found[wanted.x]
        curves.append((x - x[0] if wanted.x == TIME and len(x) else x, found[metric]))
    points = min(max(wanted.points, FEWEST_POINTS), 1000)
    return SeedGroup(tuple(members), rows(series.bands(curves, points)))


def _texts(name: str, values: list[float]) -> list[Any]:
    if name == TIME:
        return [iso(value) for value in values]
    if name in (*AXES, "episode", "sample"):
        return [int(value) for value in values]
    return [value if math.isfinite(value) else None for value in values]


def _harmless(name: str) -> str:
    """Return a name that no spreadsheet takes for a formula."""
    return f"'{name}" if name[:1] in "=+-@\t\r" else name


def _flat(config: dict[str, Any], path: str = "") -> Iterator[tuple[str, Any]]:
    for key, value in config.items():
        inner = f"{path}{key}"
        if inner in UNRELATED or inner in (
            f"run.{name}" for name in UNRELATED_RUN if name != "seed"
        ):
            continue
        if isinstance(value, dict) and value and path.count(".") < 8:
            yield from _flat(value, f"{inner}.")
        else:
            yield inner, value


def _experiment(flat: dict[str, Any]) -> str:
    rest = {key: value for key, value in flat.items() if key != "run.seed"}
    return repr(sorted(rest.items()))


def _differences(flat: dict[str, dict[str, Any]]) -> list[Difference]:
    settings = sorted({key for settings in flat.values() for key in settings})
    answer = []
    for setting in settings:
        values = {run: settings.get(setting) for run, settings in flat.items()}
        if len({repr(value) for value in values.values()}) > 1:
            answer.append(Difference(setting, values))
    return answer
