"""The content of a report, read from a run's folder; the same folder gives the same content."""

import base64
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgspec
from msgspec import Struct

from soulsai.algorithms.registry import BUILT_IN
from soulsai.evaluations.record import FOLDER, EvaluationLine, Evaluations
from soulsai.report.pictures import evaluation_svg, reward_svg
from soulsai.types import Status
from soulsai.web.contributors import contributor_rows
from soulsai.web.journal import Note
from soulsai.web.run_store import VERSIONS, NoSource, RunStore, read_json
from soulsai.web.schemas import ContributorRow, RunRow, iso

MOST_EVALUATIONS = 60  # in the table, the newest and the best models
MOST_EVENTS = 100
MOST_CONTRIBUTORS = 100
LARGEST_VIDEO = 16_000_000  # bytes
FAULTS = ("notice", "node", "regression", "evaluator", "client")  # kinds of events


class Setting(Struct, frozen=True):
    """One setting of the run, and whether it is the default."""

    path: str
    value: str
    is_default: bool


class ReportContent(Struct, frozen=True):
    """Everything that a report shows."""

    run: RunRow
    facts: list[tuple[str, str]]
    rewards: str  # SVG, or empty
    evaluation: str  # SVG, or empty
    best: EvaluationLine | None
    evaluations: list[EvaluationLine]
    left_out: int  # evaluations that the table does not show
    video: str  # a data URL, or empty
    settings: list[Setting]
    versions: list[tuple[str, str]]
    faults: list[tuple[str, str]]
    events: list[tuple[str, Note]]  # with the time as text
    contributors: list[ContributorRow]


def content(folder: Path, defaults: dict[str, Any]) -> ReportContent:
    """Return the content of a run's report.

    Args:
        folder: The run's folder.
        defaults: All settings with their defaults.
    """
    store, run = RunStore(folder.parent, NoSource()), folder.name
    status, config = store.status(run), store.config(run)
    evaluations = store.evaluations(run)
    lines = sorted(evaluations.models.values(), key=lambda line: line.number)
    chosen = {line.number for line in (*lines[-MOST_EVALUATIONS:], *_bests(lines))}
    shown = [line for line in lines if line.number in chosen]
    return ReportContent(
        run=store.row(run, None),
        facts=list(_facts(store.row(run, None), status, store.best(run))),
        rewards=reward_svg(store.episodes(run)),
        evaluation=evaluation_svg(lines),
        best=evaluations.best,
        evaluations=shown[::-1],
        left_out=len(lines) - len(shown),
        video=_video(folder, evaluations),
        settings=list(_settings(config, defaults)),
        versions=list(_versions(folder)),
        faults=list(_faults(status)),
        events=[
            (iso(note.time), note)
            for note in [note for note in store.journal(run).notes if note.kind in FAULTS][
                -MOST_EVENTS:
            ]
        ],
        contributors=contributor_rows(store.contributions(run))[:MOST_CONTRIBUTORS],
    )


def _bests(lines: list[EvaluationLine]) -> list[EvaluationLine]:
    return [line for line in lines if line.is_best][-MOST_EVALUATIONS:]


def _facts(row: RunRow, status: Status | None, best: dict[str, Any]) -> Iterator[tuple[str, str]]:
    yield "environment", row.environment
    yield "algorithm", row.algorithm
    yield "seed", "" if row.seed is None else str(row.seed)
    yield "started", row.started
    yield "phase", row.phase
    yield (
        "env steps",
        f"{row.env_steps:,}" + (f" of {row.max_env_steps:,}" if row.max_env_steps else ""),
    )
    yield "updates", f"{row.updates:,}"
    yield "episodes", f"{row.episodes:,}"
    yield "hours", f"{row.seconds / 3600:.2f}"
    if status is not None:
        yield "replay ratio", f"{status.replay_ratio:.3f}"
    score = best.get("score")
    if isinstance(score, int | float):
        low, high = best.get("low"), best.get("high")
        known = isinstance(low, int | float) and isinstance(high, int | float)
        interval = f" (95 %: {low:.4g} to {high:.4g})" if known else " (a moving average)"
        yield (
            "best",
            f"{score:.4g}{interval}, version {best.get('generation')}-{best.get('version')}",
        )


def _settings(config: dict[str, Any], defaults: dict[str, Any]) -> Iterator[Setting]:
    """Yield all settings of the run but those of algorithms that it does not use."""
    algorithm = config.get("algorithm")
    used = algorithm.get("name") if isinstance(algorithm, dict) else ""
    for section, entries in config.items():
        usual = defaults.get(section, {})
        if not isinstance(entries, dict) or (section in BUILT_IN and section != used):
            continue
        for name, value in entries.items():
            text = msgspec.json.encode(value).decode()
            same = name in usual and msgspec.json.encode(usual[name]).decode() == text
            yield Setting(f"{section}.{name}", text, same)


def _versions(folder: Path) -> Iterator[tuple[str, str]]:
    """Yield the versions of the software that has trained the run last."""
    for name, version in sorted(read_json(folder / VERSIONS).items()):
        yield name, str(version)


def _faults(status: Status | None) -> Iterator[tuple[str, str]]:
    if status is None:
        return
    for reason, count in sorted(status.rejected.items()):
        yield f"messages not admitted: {reason}", f"{count:,}"
    for kind, count in sorted(status.faults.items()):
        yield f"faults of environments: {kind}", f"{count:,}"
    for name, count in (
        ("env steps lost on the way", status.lost),
        ("env steps dropped", status.dropped),
        ("messages that came twice", status.duplicates),
        ("restarts of environments", status.restarts),
        ("versions withheld", status.withheld),
        ("returns to an earlier checkpoint", status.rollbacks),
    ):
        yield name, f"{count:,}"


def _video(folder: Path, evaluations: Evaluations) -> str:
    """Return the first recorded episode of the best model as a data URL."""
    if evaluations.best is None:
        return ""
    for path in sorted((folder / FOLDER / evaluations.best.model).glob("*.webm")):
        if path.stat().st_size <= LARGEST_VIDEO:
            return "data:video/webm;base64," + base64.b64encode(path.read_bytes()).decode()
    return ""
