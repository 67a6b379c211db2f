"""The versions of installed packages: gymnasium's, and those that had a part in an exception."""

import re
import sys
import traceback
from collections.abc import Iterator, Mapping
from importlib import metadata
from pathlib import Path

from soulsai.errors import ConfigError

OLDEST_GYMNASIUM = (1, 1)
MOST_NAMED = 8

_REQUIREMENT = re.compile(r"[A-Za-z0-9._-]+")


def check_gymnasium(installed: str) -> None:
    """Refuse a version of gymnasium that is too old, to which a package may have gone back.

    Args:
        installed: The version that is installed.

    Raises:
        ConfigError: It is too old.
    """
    found = tuple(int(number) for number in re.findall(r"\d+", installed)[:2])
    if found < OLDEST_GYMNASIUM:
        oldest = ".".join(map(str, OLDEST_GYMNASIUM))
        raise ConfigError(
            f"gymnasium {installed} is installed, and {oldest} is the oldest that works; pip "
            f'install "gymnasium>={oldest}" (a package of environments may have gone back to it)'
        )


def versions_behind(error: BaseException) -> str:
    """Return the installed packages whose code raised an exception, and what they require.

    Of the requirements only those that are imported are named.

    Args:
        error: The exception, with its traceback.

    Returns:
        Names and versions with commas between; empty if no installed package had a part.
    """
    files = [Path(frame.filename) for frame in traceback.extract_tb(error.__traceback__)]
    brought = metadata.packages_distributions()
    named: dict[str, str] = {}
    for name in _top_names(files):
        for distribution in brought.get(name, ()):
            if distribution == "soulsai":
                continue
            for each in (distribution, *_imported(distribution, brought)):
                named.setdefault(each, metadata.version(each))
    return ", ".join(f"{name} {version}" for name, version in list(named.items())[:MOST_NAMED])


def _top_names(files: list[Path]) -> Iterator[str]:
    """Yield the top-level module of each file below an import path, the last frame first."""
    folders = {Path(entry).resolve() for entry in sys.path if entry.endswith("-packages")}
    for file in reversed(files):
        for folder in folders & set(file.resolve().parents):
            yield file.resolve().relative_to(folder).parts[0].removesuffix(".py")


def _imported(distribution: str, brought: Mapping[str, list[str]]) -> Iterator[str]:
    """Yield the requirements of a distribution that are imported."""
    modules = {owner: name for name, owners in brought.items() for owner in owners}
    known = {_normal(owner): owner for owner in modules}
    for requirement in metadata.requires(distribution) or ():
        found = _REQUIREMENT.match(requirement)
        owner = known.get(_normal(found[0])) if found else None
        if owner is not None and owner != "soulsai" and modules[owner] in sys.modules:
            yield owner


def _normal(name: str) -> str:
    return re.sub(r"[-_.]+", "-", name).lower()
