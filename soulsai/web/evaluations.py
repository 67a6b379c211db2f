"""The evaluations of a run and the recordings of its models, for the page."""

import re
from pathlib import Path

from soulsai.evaluations.record import FOLDER, EvaluationLine, Evaluations
from soulsai.web.models import UnknownModel
from soulsai.web.schemas import EvaluationRow, RecordingRow, iso

VIDEO, TRACE = ".webm", ".json"
MOST_RECORDINGS = 2000
FEWEST_ROWS, MOST_ROWS = 2, 5000

_MODEL = re.compile(r"[a-z0-9][a-z0-9-]{0,63}")
_FILE = re.compile(r"episode-(\d{1,12})\.(webm|json)")


def evaluation_rows(evaluations: Evaluations, points: int) -> list[EvaluationRow]:
    """Return the evaluations in the order of their env steps, thinned out for a screen.

    Args:
        evaluations: Those of a run.
        points: At most so many rows; the best models are the last that are left out.
    """
    lines = sorted(evaluations.models.values(), key=lambda line: (line.env_steps, line.number))
    points = min(max(points, FEWEST_ROWS), MOST_ROWS)
    if len(lines) > points:
        bests = [line for line in lines if line.is_best][-points // 2 :]
        others = [line for line in lines if not line.is_best]
        step = -(-len(others) // max(1, points - len(bests)))
        kept = {line.number for line in (*bests, *others[::-step])}
        lines = [line for line in lines if line.number in kept]
    return [_row(line) for line in lines]


def recording_rows(folder: Path, evaluations: Evaluations) -> list[RecordingRow]:
    """Return the recorded episodes, those of the newest models first.

    Args:
        folder: The run's folder.
        evaluations: Those of the run.
    """
    found: list[RecordingRow] = []
    for place in (folder / FOLDER).glob("*"):
        line = evaluations.models.get(place.name)
        if line is None or not _MODEL.fullmatch(place.name):
            continue
        found += [_recording(line, path) for path in place.glob(f"episode-*{VIDEO}")]
    found.sort(key=lambda row: (-row.number, row.seed))
    return found[:MOST_RECORDINGS]


def recording(folder: Path, model: str, name: str) -> Path:
    """Return the file of a recording; raise ``UnknownModel`` if there is none.

    Args:
        folder: The run's folder.
        model: The model that plays.
        name: ``episode-<seed>.webm`` or ``episode-<seed>.json``.
    """
    file = folder / FOLDER / model / name
    known = _MODEL.fullmatch(model) and _FILE.fullmatch(name)
    if not known or file.is_symlink() or not file.is_file():
        raise UnknownModel(f"there is no recording {name[:100]!r} of model {model[:100]!r}")
    return file


def _row(line: EvaluationLine) -> EvaluationRow:
    return EvaluationRow(
        number=line.number,
        model=line.model,
        time=iso(line.time),
        generation=line.generation,
        version=line.version,
        env_steps=line.env_steps,
        verdict=line.verdict,
        regressed=line.regressed,
        by=line.by,
        metric=line.metric,
        mean=line.mean,
        low=line.low,
        high=line.high,
        iqm=line.iqm,
        iqm_low=line.iqm_low,
        iqm_high=line.iqm_high,
        episodes=line.episodes,
    )


def _recording(line: EvaluationLine, path: Path) -> RecordingRow:
    found = _FILE.fullmatch(path.name)
    return RecordingRow(
        model=line.model,
        number=line.number,
        generation=line.generation,
        version=line.version,
        env_steps=line.env_steps,
        mean=line.mean,
        seed=int(found[1]) if found else 0,
        video=path.name,
        trace=path.with_suffix(TRACE).name,
    )
