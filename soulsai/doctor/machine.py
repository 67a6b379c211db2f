"""The machine: what is installed, how much room there is, and who can read the secrets."""

import importlib.metadata
import importlib.util
import os
import shutil
from collections.abc import Iterator, Sequence
from pathlib import Path

from soulsai.doctor.findings import CheckResult, failure, ok, warning
from soulsai.wire.secrets import read_secret

LOW_BYTES = 1_000_000_000
NO_BYTES = 50_000_000
_OURS_ALONE = ("admin.secret", "ca.key")  # whatever containers may read


def disk(folder: Path, purpose: str) -> CheckResult:
    """Examine how much room there is where something is kept, and whether we may write there."""
    place = next(each for each in (folder.absolute(), *folder.absolute().parents) if each.exists())
    free = shutil.disk_usage(place).free
    said = f"{free / 1e9:.1f} GB free for {purpose} in {folder}"
    if not place.is_dir() or not os.access(place, os.W_OK):
        mend = f"let this user write to {place}, or name another place"
        return failure("disk", f"{place} cannot be written", mend)
    if free < NO_BYTES:
        return failure("disk", said, "make room: nothing more can be kept")
    if free < LOW_BYTES:
        return warning("disk", said, "make room, or keep less (checkpoint.keep, checkpoint.replay)")
    return ok("disk", said)


def software(needed: Sequence[str], extra: str) -> CheckResult:
    """Examine whether packages are there; imports none of them."""
    missing = [name for name in needed if importlib.util.find_spec(name) is None]
    package = f'"soulsai[{extra}]"' if extra else "soulsai"
    if missing:
        return failure("software", f"{', '.join(missing)}: not installed", f"pip install {package}")
    found = ", ".join(f"{name} {importlib.metadata.version(name)}" for name in needed)
    return ok("software", found)


def secrets(folder: Path) -> Iterator[CheckResult]:
    """Examine who can read the secrets in a folder, and whether they are hard to guess."""
    closed = folder.is_dir() and not folder.stat().st_mode & 0o077
    files = [file for file in sorted(folder.glob("*")) if file.suffix in (".secret", ".key")]
    # Windows has no such modes; there a user's folder is his own.
    readable = [
        file.name
        for file in files
        if file.stat().st_mode & 0o077 and (not closed or file.name in _OURS_ALONE)
    ]
    if readable and os.name == "posix":
        names = ", ".join(readable)
        mend = f"chmod 700 {folder}; chmod 600 " + " ".join(f"{folder / name}" for name in readable)
        yield warning("secrets", f"others on this machine may read {names}", mend)
    weak = [file.name for file in files if file.suffix == ".secret" and len(read_secret(file)) < 16]
    if weak:
        mend = f"remove {weak[0]} and let `soulsai secrets init` make one, here and for the clients"
        yield warning("secrets", f"{', '.join(weak)}: short enough to be guessed", mend)
    if files and not readable and not weak:
        yield ok("secrets", f"{len(files)} in {folder}, for nobody else to read")
