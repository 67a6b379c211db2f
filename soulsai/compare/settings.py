"""Where the settings of runs differ, and which runs are seeds of the same."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from soulsai.algorithms.registry import BUILT_IN
from soulsai.errors import CheckpointError
from soulsai.training_node.saving.run_folder import CONFIG

# Who and where says nothing of how a run learns; nor does its seed.
ASIDE = (
    "run.name",
    "run.saves",
    "run.seed",
    "redis.",
    "client.",
    "web.",
    "telemetry.",
    "checkpoint.",
)

Flat = dict[str, Any]  # settings by section.key


def settings(folder: Path) -> Flat:
    """Return a run's settings as far as they say how it learns; those of any version."""
    try:
        sections = json.loads((folder / CONFIG).read_bytes())
        flat = {
            f"{section}.{key}": value
            for section, entries in sections.items()
            for key, value in entries.items()
        }
    except (OSError, ValueError, AttributeError) as error:
        raise CheckpointError(f"{folder / CONFIG}: cannot be read: {error}") from error
    return {path: value for path, value in flat.items() if not path.startswith(ASIDE)}


def alike(runs: Mapping[Path, Flat]) -> list[list[Path]]:
    """Return the runs in groups of equal settings, in the order of their first."""
    groups: dict[str, list[Path]] = {}
    for folder, flat in runs.items():
        groups.setdefault(json.dumps(flat, sort_keys=True), []).append(folder)
    return list(groups.values())


def differences(several: Sequence[Flat]) -> dict[str, list[Any]]:
    """Return each setting that is not the same everywhere, with its value in each.

    A setting that a run does not know is ``None`` there; sections of algorithms that no run uses
    are left out.
    """
    used = {str(flat.get("algorithm.name")) for flat in several}
    paths = dict.fromkeys(path for flat in several for path in flat)
    found = {path: [flat.get(path) for flat in several] for path in paths}
    return {
        path: values
        for path, values in found.items()
        if any(value != values[0] for value in values) and _matters(path, used)
    }


def title(flat: Flat, differing: Mapping[str, Sequence[Any]]) -> str:
    """Return what to call runs of these settings among others."""
    words = [f"{path}={text(flat.get(path))}" for path in differing]
    name = f"{flat.get('environment.id')} {flat.get('algorithm.name')}"
    return ", ".join(words) or name


def text(value: Any) -> str:
    """Return a setting as it is written."""
    return value if isinstance(value, str) else json.dumps(value)


def _matters(path: str, used: set[str]) -> bool:
    section = path.partition(".")[0]
    return section not in {*BUILT_IN} - used
