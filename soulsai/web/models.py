"""The saved models of a run by their manifests, and their files as downloads."""

import os
import tarfile
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any, BinaryIO, Literal

import numpy as np

from soulsai.web.run_store import RunStore, read_json
from soulsai.web.schemas import File, Model, iso
from soulsai.web.series import of_kind, rolling
from soulsai.web.tables import ENV_STEPS, TableView

MANIFEST = "manifest.json"
BEST, MANUAL, CHECKPOINTS = "best_model", "manual_save", "checkpoints"
WINDOW = 20  # episodes in a checkpoint's score
_PIECE = 1 << 18

Kind = Literal["best", "checkpoint", "manual"]


class UnknownModel(LookupError):
    """No model, or no file of a model, has this name."""


def models(store: RunStore, run: str) -> list[Model]:
    """Return the best model, the quicksave, and the checkpoints of a run, newest first."""
    folder = store.path(run)
    view = store.episodes(run).table.view()
    found: list[tuple[str, Kind]] = [(BEST, "best"), (MANUAL, "manual")]
    numbered = [path.name for path in folder.glob(f"{CHECKPOINTS}/*") if path.name.isdecimal()]
    found += [(name, "checkpoint") for name in sorted(numbered, key=int, reverse=True)]
    rows = (_model(folder, name, kind, store.best(run), view) for name, kind in found)
    return [row for row in rows if row is not None]


def place(folder: Path, model: str) -> Path:
    """Return the folder of a model; raise ``UnknownModel`` if there is none."""
    if model in (BEST, MANUAL):
        path = folder / model
    elif model.isdecimal() and model.isascii() and len(model) <= 12:
        path = folder / CHECKPOINTS / model
    else:
        raise UnknownModel(f"there is no model {model[:100]!r}")
    if not (path / MANIFEST).is_file():
        raise UnknownModel(f"there is no model {model[:100]!r}")
    return path


def download(folder: Path, model: str, name: str) -> Path:
    """Return the path of one file of a model.

    Args:
        folder: The run's folder.
        model: ``best_model``, ``manual_save`` or a checkpoint's number.
        name: A file in the model's manifest, or the manifest.

    Raises:
        UnknownModel: The model or the file does not exist, or the file is a link.
    """
    path = place(folder, model)
    if name != MANIFEST and name not in _manifest(path):
        raise UnknownModel(f"model {model}: there is no file {name[:100]!r}")
    file = path / name
    if file.is_symlink() or not file.is_file():
        raise UnknownModel(f"model {model}: there is no file {name[:100]!r}")
    return file


def archive(folder: Path, model: str) -> Iterator[bytes]:
    """Return a model as a tar archive in pieces; open files survive a later deletion."""
    names = [MANIFEST, *sorted(_manifest(place(folder, model)))]
    with ExitStack() as opened:
        files = [
            (name, opened.enter_context(download(folder, model, name).open("rb"))) for name in names
        ]
        keep = opened.pop_all()
    return _tar(model, files, keep)


def _tar(model: str, files: Sequence[tuple[str, BinaryIO]], opened: ExitStack) -> Iterator[bytes]:
    with opened:
        for name, file in files:
            state = os.fstat(file.fileno())
            info = tarfile.TarInfo(f"{model}/{name}")
            info.size = state.st_size
            yield info.tobuf()
            left = info.size
            while left > 0 and (piece := file.read(min(left, _PIECE))):
                left -= len(piece)
                yield piece
            yield bytes(left + -info.size % tarfile.BLOCKSIZE)
        yield bytes(2 * tarfile.BLOCKSIZE)


def _model(
    folder: Path, name: str, kind: Kind, best: dict[str, Any], view: TableView
) -> Model | None:
    try:
        path = place(folder, name)
        time = (path / MANIFEST).stat().st_mtime
    except (UnknownModel, OSError):
        return None
    files = tuple(_manifest(path).values())
    about = read_json(path / ("about.json" if kind == "best" else "progress.json"))
    env_steps = _whole(about, "env_steps")
    score = _score(view, env_steps)
    if kind == "best":
        score = about.get("score")
        if all(best.get(key) == about.get(key) for key in ("generation", "version", "score")):
            env_steps = _whole(best, "env_steps")
    return Model(
        model=name,
        kind=kind,
        time=iso(time),
        generation=_whole(about, "generation"),
        version=_whole(about, "version"),
        env_steps=env_steps,
        updates=_whole(about, "updates"),
        score=float(score) if isinstance(score, int | float) else None,
        bytes=sum(file.bytes for file in files),
        fault=_fault(path, files),
        files=files,
    )


def _score(view: TableView, env_steps: int | None) -> float | None:
    """Return the mean reward up to ``env_steps``, of greedy episodes if there are enough."""
    if env_steps is None or "reward" not in view.columns:
        return None
    before = view.columns[ENV_STEPS] <= env_steps
    alone = before & ~of_kind(view.columns, "intervened")
    rewards = view.columns["reward"][alone]
    greedy = view.columns["reward"][before & of_kind(view.columns, "greedy")]
    some = (greedy if len(greedy) >= WINDOW else rewards)[-WINDOW:]
    return float(rolling(some, WINDOW)[0][-1]) if len(some) and np.isfinite(some).any() else None


def _fault(path: Path, files: tuple[File, ...]) -> str:
    """Return the first visible fault of the files; their digests are not checked."""
    if not files:
        return "its manifest cannot be read"
    for file in files:
        try:
            size = (path / file.name).stat().st_size
        except OSError:
            return f"{file.name} is missing"
        if size != file.bytes:
            return f"{file.name} has {size} bytes"
    return ""


def _manifest(path: Path) -> dict[str, File]:
    entries = read_json(path / MANIFEST)
    found = {}
    for name, entry in entries.items():
        about = entry if isinstance(entry, dict) else {}
        size, digest = about.get("size"), about.get("sha256")
        if isinstance(size, int) and isinstance(digest, str) and Path(name).name == name:
            found[name] = File(name, size, digest)
    return found


def _whole(about: dict[str, Any], key: str) -> int | None:
    value = about.get(key)
    return value if isinstance(value, int) else None
