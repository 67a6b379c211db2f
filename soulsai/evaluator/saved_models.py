"""The models of a run that wait for an evaluation, by the folders on the disk."""

import shutil
from collections.abc import Collection
from pathlib import Path

import msgspec
from msgspec import Struct

from soulsai.evaluations.record import FOLDER, POLICY, kept_policy

CHECKPOINTS, BEST = "checkpoints", "best_model"
FORGOTTEN = "forgotten.json"


class SavedModel(Struct, frozen=True):
    """A model to evaluate."""

    model: str  # a checkpoint's number, or ``best-<generation>-<version>``
    policy: Path
    generation: int
    version: int
    env_steps: int


class _Progress(Struct, frozen=True):
    """The part of ``progress.json``, ``about.json`` and ``best.json`` that names a version."""

    generation: int = 0
    version: int = 0
    env_steps: int = 0
    checkpoint: str = ""  # that the evaluator has played


class _Forgotten(Struct, frozen=True):
    """The part of ``forgotten.json`` that says since when the best is found anew."""

    position: str = "0-0"


def next_model(folder: Path, done: Collection[str], every: int) -> SavedModel | None:
    """Return the model to evaluate next, if there is one.

    That is the newest checkpoint, after ``best_model`` if that was chosen by a moving average or by
    an operator, and is therefore one to beat.

    Args:
        folder: The run's folder.
        done: The names of models that were evaluated, or given up.
        every: Only checkpoints whose number is a multiple of this.
    """
    newest = _newest(folder, every)
    if newest is None or newest.model in done:
        return None
    best = best_model(folder)
    return best if best is not None and best.model not in done else newest


def best_model(folder: Path) -> SavedModel | None:
    """Return ``best_model``, unless it is one that the evaluator has chosen."""
    about = _read(folder / BEST / "about.json")
    if about is None or about.checkpoint:
        return None
    name = f"best-{about.generation}-{about.version}"
    chosen = _read(folder / "best.json")  # by the telemetry node, which knows when
    if chosen and (chosen.generation, chosen.version) == (about.generation, about.version):
        about = chosen
    return _model(name, folder / BEST, about)


def keep_policy(folder: Path, model: SavedModel) -> Path:
    """Return the evaluator's own copy of a policy: checkpoints are removed as newer ones come.

    Args:
        folder: The run's folder.
        model: The model.

    Raises:
        OSError: The disk is full, or the checkpoint has just been removed.
    """
    place = kept_policy(folder, model.model)
    if not place.is_file():
        place.parent.mkdir(parents=True, exist_ok=True)
        part = place.with_name(f".{POLICY}.part")
        try:
            shutil.copyfile(model.policy, part)
            part.replace(place)
        finally:
            part.unlink(missing_ok=True)
    return place


def drop_policies(folder: Path, keep: Collection[str]) -> None:
    """Remove the folders of models that are not among those to keep.

    Args:
        folder: The run's folder.
        keep: Names of models.
    """
    for place in (folder / FOLDER).glob("*"):
        if place.name not in keep and place.is_dir():
            shutil.rmtree(place, ignore_errors=True)


def forgotten_at(folder: Path) -> float:
    """Return the Unix time up to which the best was forgotten by an operator; 0: never."""
    try:
        data = (folder / FORGOTTEN).read_bytes()
        position = msgspec.json.decode(data, type=_Forgotten).position
        return int(position.partition("-")[0]) / 1000
    except (OSError, ValueError, msgspec.MsgspecError):
        return 0.0


def _newest(folder: Path, every: int) -> SavedModel | None:
    numbers = [path.name for path in (folder / CHECKPOINTS).glob("*") if path.name.isdecimal()]
    for name in sorted(numbers, key=int, reverse=True):
        if int(name) % every == 0:
            place = folder / CHECKPOINTS / name
            about = _read(place / "progress.json")
            if about is not None:
                return _model(name, place, about)
    return None


def _model(name: str, place: Path, about: _Progress) -> SavedModel:
    return SavedModel(name, place / POLICY, about.generation, about.version, about.env_steps)


def _read(path: Path) -> _Progress | None:
    try:
        return msgspec.json.decode(path.read_bytes(), type=_Progress)
    except (OSError, msgspec.MsgspecError, UnicodeDecodeError):
        return None
