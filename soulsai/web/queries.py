"""Turn requests of the page and of Grafana into rows."""

import csv
import io
import math
from collections.abc import Iterable
from datetime import UTC, datetime
from typing import Any, Literal

import msgspec
from msgspec import Struct

from soulsai.types import Status
from soulsai.web import metrics, series
from soulsai.web.run_store import RunStore
from soulsai.web.schemas import ClientRow, Row, VersionRow, iso
from soulsai.web.series import AXES, FEWEST_POINTS, MOST_POINTS, Axis, Columns, Kind, SeriesQuery
from soulsai.web.tables import NUMBER, TIME, Episodes, TableView, Tally

X = Literal["env_steps", "episode", "time"]
MOST_METRICS = 20  # asked for at once
LONGEST_WINDOW = 100_000
_NO_EPISODES = Tally()


class BadRequest(ValueError):
    """A parameter is invalid; the message names it."""


class Wanted(Struct, frozen=True):
    """The series of a request and their form."""

    run: str = "latest"
    metrics: tuple[str, ...] = ("reward",)
    x: X = "env_steps"
    points: int = 1000
    window: int = 20
    kind: Kind = "all"
    after: int = 0
    begin: float = -math.inf
    end: float = math.inf


def columns(store: RunStore, wanted: Wanted) -> Columns:
    """Return the requested columns over one ascending axis.

    Raises:
        UnknownRun, UnknownMetric, BadRequest: The request has no answer.
    """
    run = store.find(wanted.run)
    if len(wanted.metrics) > MOST_METRICS:
        raise BadRequest(f"metrics: at most {MOST_METRICS} at once")
    played = store.episodes(run).table.view()
    trained = store.journal(run).samples.view()
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
    """Return columns as rows; times are text, and NaN is ``None``."""
    texts = [_texts(name, column.tolist()) for name, column in found.items()]
    return [dict(zip(found, row, strict=True)) for row in zip(*texts, strict=True)]


def as_csv(found: Columns) -> str:
    """Return columns as CSV with a header."""
    return table_csv([list(found), *(list(row.values()) for row in rows(found))])


def table_csv(table: Iterable[Iterable[Any]]) -> str:
    """Return rows as CSV; no text in it is a formula for a spreadsheet."""
    file = io.StringIO()
    writer = csv.writer(file)
    writer.writerows(
        [_harmless(cell) if isinstance(cell, str) else cell for cell in row] for row in table
    )
    return file.getvalue()


def moment(text: str, name: str) -> float:
    """Return Unix seconds of a time in ISO 8601, Unix seconds or Unix milliseconds."""
    try:
        if text.isdecimal() and len(text) <= 16:
            return int(text) / (1 if len(text) <= 11 else 1000)
        time = datetime.fromisoformat(text)
        return (time if time.tzinfo else time.replace(tzinfo=UTC)).timestamp()
    except (ValueError, OverflowError, OSError):
        raise BadRequest(f"{name}: {text[:50]!r} is no time; write 2026-11-22T10:00:00Z") from None


def names(lists: Iterable[str]) -> tuple[str, ...]:
    """Return names that are repeated parameters, or separated by commas."""
    return tuple(name.strip() for some in lists for name in some.split(",") if name.strip())


def _texts(name: str, values: list[float]) -> list[Any]:
    if name == TIME:
        return [iso(value) for value in values]
    if name in (*AXES, "episode", "sample"):
        return [int(value) for value in values]
    return [value if math.isfinite(value) else None for value in values]


def _harmless(name: str) -> str:
    """Return a name that no spreadsheet reads as a formula."""
    return f"'{name}" if name[:1] in "=+-@\t\r" else name


def client_rows(status: Status, episodes: Episodes) -> list[ClientRow]:
    """Return the clients of a status with the tallies of their episodes."""
    rows = []
    for client in status.clients:
        tally = episodes.clients.get(client.client, _NO_EPISODES)
        rows.append(
            ClientRow(
                **msgspec.structs.asdict(client),
                episodes=tally.episodes,
                reward_mean=tally.reward_mean,
                recent_mean=tally.recent_mean,
                greedy_mean=tally.greedy_mean,
            )
        )
    return rows


def version_rows(episodes: Episodes, limit: int) -> list[VersionRow]:
    """Return the newest ``limit`` versions with finished episodes, oldest first."""
    return [
        VersionRow(
            generation=generation,
            version=version,
            env_steps=tally.env_steps,
            episodes=tally.episodes,
            reward_mean=tally.exploring_mean,
            greedy_episodes=tally.greedy_episodes,
            greedy_mean=tally.greedy_mean,
            steps_mean=tally.steps / tally.episodes,
        )
        for (generation, version), tally in sorted(episodes.versions.copy().items())[-limit:]
        if tally.episodes
    ]
