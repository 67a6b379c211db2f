"""Folders that are either whole or not there: written aside, flushed, then renamed.

Every folder holds a ``manifest.json`` with the size and the SHA-256 of each other file, so that
damage is found before anything is loaded.
"""

import hashlib
import json
import logging
import os
import shutil
from collections.abc import Collection, Iterable, Mapping
from pathlib import Path
from typing import Any

from soulsai.errors import CheckpointError

MANIFEST = "manifest.json"
TEMPORARY = ".writing-"
REPLACED = ".replaced-"

log = logging.getLogger(__name__)

Buffer = bytes | memoryview
Files = Mapping[str, Iterable[Buffer]]  # by name: the content, in pieces


def numbered(parent: Path) -> list[Path]:
    """Return the checkpoints in ``parent``, oldest first, whether valid or not."""
    if not parent.is_dir():
        return []
    found = [path for path in parent.iterdir() if path.name.isdecimal() and path.is_dir()]
    return sorted(found, key=lambda path: int(path.name))


def append(
    parent: Path, files: Files, keep: int, first: int = 1, pinned: Collection[str] = ()
) -> Path:
    """Write the next numbered checkpoint into a folder, and remove the oldest ones.

    Args:
        parent: The folder of the checkpoints; it is made if needed.
        files: Content by file name.
        keep: Checkpoints that remain.
        first: The number to begin with.
        pinned: Names of checkpoints that remain, whatever their age.
    """
    existing = numbered(parent)
    number = int(existing[-1].name) + 1 if existing else first
    target = parent / f"{number:06d}"
    _rename(_write_aside(target, files), target)
    try:
        for path in numbered(parent)[:-keep]:
            if path.name not in pinned:
                _remove(path)
    except OSError as error:  # what was to be written is written
        log.warning("old checkpoint not removed error=%s", error)
    return target


def replace(target: Path, files: Files) -> None:
    """Write the folder ``target`` anew; at every moment the old or the new one can be recovered."""
    aside = _write_aside(target, files)
    old = target.with_name(REPLACED + target.name)
    try:
        if target.exists():
            _remove(old)
            target.rename(old)
        _rename(aside, target)
    except OSError:
        _remove(aside)
        if old.exists() and not target.exists():
            old.rename(target)
        raise
    _remove(old)


def tidy(parent: Path) -> None:
    """Remove the files of an interrupted write in ``parent``, and put back moved folders."""
    if not parent.is_dir():
        return
    for path in list(parent.iterdir()):
        if path.name.startswith(TEMPORARY):
            _remove(path)
        elif path.name.startswith(REPLACED):
            target = path.with_name(path.name.removeprefix(REPLACED))
            if target.exists():
                _remove(path)
            else:
                path.rename(target)


def newest(candidates: Iterable[Path]) -> tuple[Path | None, list[str]]:
    """Return the first undamaged folder, if any, and a line about each damaged one before it."""
    faults: list[str] = []
    for path in candidates:
        fault = damage(path)
        if fault is None:
            return path, faults
        log.warning("checkpoint skipped path=%s fault=%r", path, fault)
        faults.append(f"{path.name}: {fault}")
    return None, faults


def damage(folder: Path) -> str | None:
    """Return the fault of a written folder in a few words, or ``None`` if it is whole.

    Files that the manifest does not name, such as ``.DS_Store``, do not count.
    """
    try:
        manifest = json.loads((folder / MANIFEST).read_bytes())
        files = {name: (entry["size"], entry["sha256"]) for name, entry in manifest.items()}
    except (OSError, ValueError, AttributeError, KeyError, TypeError):
        return "no readable manifest"
    try:
        for name, (size, sha256) in files.items():
            if _measure(folder / name) != (size, sha256):
                return f"{name} is damaged"
    except FileNotFoundError:
        return f"{name} is missing"
    except OSError as error:
        return str(error)
    return None


def copy_file(folder: Path, name: str, copy: Path) -> bool:
    """Copy one file of a written folder, which may be removed at any moment.

    Args:
        folder: The folder.
        name: The name of the file in it.
        copy: The file to write.

    Returns:
        Whether the copy is what the manifest says.
    """
    try:
        entry = json.loads((folder / MANIFEST).read_bytes())[name]
        shutil.copyfile(folder / name, copy)
        return _measure(copy) == (entry["size"], entry["sha256"])
    except (OSError, ValueError, KeyError, TypeError) as error:
        log.warning("file not copied path=%s error=%r", folder / name, error)
        return False


def names(folder: Path) -> list[str]:
    """Return the names of the files that a folder's manifest lists."""
    return list(json.loads(read(folder, MANIFEST)))


def read(folder: Path, name: str) -> bytes:
    """Return one file of a folder."""
    try:
        return (folder / name).read_bytes()
    except OSError as error:
        raise CheckpointError(f"{folder}: {error}") from error


def write_file(path: Path, data: bytes) -> None:
    """Replace one small file atomically."""
    aside = path.with_name(TEMPORARY + path.name)
    try:
        _write(aside, [data])
        aside.replace(path)
    finally:
        aside.unlink(missing_ok=True)
    _flush_folder(path.parent)


def _write_aside(target: Path, files: Files) -> Path:
    # Another process may be about to write the same: the one that we are to take over from.
    aside = target.with_name(f"{TEMPORARY}{target.name}-{os.getpid()}")
    _remove(aside)
    try:
        aside.mkdir(parents=True)
        manifest: dict[str, Any] = {}
        for name, content in files.items():
            size, sha256 = _write(aside / name, content)
            manifest[name] = {"size": size, "sha256": sha256}
        _write(aside / MANIFEST, [json.dumps(manifest, indent=1).encode()])
        _flush_folder(aside)
        _check_complete(aside, {*manifest, MANIFEST})
    except OSError:
        _remove(aside)
        raise
    return aside


def _check_complete(folder: Path, names: set[str]) -> None:
    if {path.name for path in folder.iterdir()} != names:
        raise OSError(f"{folder}: another process removed files")


def _write(path: Path, content: Iterable[Buffer]) -> tuple[int, str]:
    digest, size = hashlib.sha256(), 0
    with path.open("wb") as file:
        for piece in content:
            file.write(piece)
            digest.update(piece)
            size += memoryview(piece).nbytes
        file.flush()
        os.fsync(file.fileno())
    return size, digest.hexdigest()


def _measure(path: Path) -> tuple[int, str]:
    with path.open("rb") as file:
        digest = hashlib.file_digest(file, "sha256").hexdigest()
        return file.tell(), digest


def _rename(aside: Path, target: Path) -> None:
    try:
        aside.rename(target)
    except OSError:
        _remove(aside)
        raise
    _flush_folder(target.parent)


def _remove(path: Path) -> None:
    # A folder that is half removed must not look like a checkpoint, so it loses its name first.
    if not path.exists():
        return
    if path.name.isdecimal():
        doomed = path.with_name(TEMPORARY + path.name)
        path.rename(doomed)
        path = doomed
    shutil.rmtree(path, ignore_errors=True)


def _flush_folder(path: Path) -> None:
    if os.name != "posix":  # elsewhere folders cannot be opened, and renames are journalled
        return
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
