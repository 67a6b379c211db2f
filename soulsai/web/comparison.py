"""Group runs by their settings, and compare the curves of the groups."""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any, TypeVar

import msgspec

from soulsai.algorithms.registry import BUILT_IN
from soulsai.web import series
from soulsai.web.queries import BadRequest, Wanted, columns, rows
from soulsai.web.run_store import RunStore
from soulsai.web.schemas import Difference, RunComparison, SeedGroup
from soulsai.web.series import FEWEST_POINTS, MOST_POINTS
from soulsai.web.tables import TIME

MOST_RUNS = 20  # in one comparison
SEED = "run.seed"
# These settings have no influence on learning.
IGNORED = ("run.name", "run.saves", "redis.", "client.", "web.", "telemetry.", "checkpoint.")

Flat = dict[str, Any]  # settings by section.key
Name = TypeVar("Name")


def flat_settings(config: Mapping[str, Any]) -> Flat:
    """Return the settings that influence learning, of any version, by ``section.key``."""
    return {path: value for path, value in _flat(config) if not path.startswith(IGNORED)}


def alike(runs: Mapping[Name, Flat]) -> list[list[Name]]:
    """Return the runs in groups of equal settings except the seed, in the order of the first."""
    groups: dict[str, list[Name]] = {}
    for name, flat in runs.items():
        settings = sorted((path, value) for path, value in flat.items() if path != SEED)
        groups.setdefault(repr(settings), []).append(name)
    return list(groups.values())


def differences(several: Sequence[Flat]) -> dict[str, list[Any]]:
    """Return each setting that differs, with its value in each of ``several``.

    A setting that a run does not have is ``None``. A section of the algorithm that no run uses is
    left out.
    """
    used = {str(flat.get("algorithm.name")) for flat in several}
    paths = dict.fromkeys(path for flat in several for path in flat)
    found = {path: [flat.get(path) for flat in several] for path in paths}
    return {
        path: values
        for path, values in found.items()
        if any(value != values[0] for value in values) and not _unused(path, used)
    }


def compare(
    store: RunStore, runs: Sequence[str], wanted: Wanted, *, grouped: bool
) -> RunComparison:
    """Return the curves of several runs over one grid, and their differing settings.

    Args:
        store: All runs.
        runs: Names of runs.
        wanted: One metric, and the form of its curves.
        grouped: Whether runs that differ in their seed only become one group.

    Raises:
        BadRequest: There are too few or too many runs or metrics.
    """
    found = list(dict.fromkeys(store.find(run) for run in runs))
    if not found:
        raise BadRequest("runs: name at least one")
    if len(found) > MOST_RUNS or len(wanted.metrics) != 1:
        raise BadRequest(f"runs: at most {MOST_RUNS} at once, and one metric")
    flat = {run: flat_settings(store.config(run)) for run in found}
    groups = alike(flat) if grouped else [[run] for run in found]
    return RunComparison(
        metric=wanted.metrics[0],
        x=wanted.x,
        groups=[_group(store, members, wanted) for members in groups],
        differences=[
            Difference(setting, dict(zip(found, values, strict=True)))
            for setting, values in sorted(differences(list(flat.values())).items())
        ],
    )


def _group(store: RunStore, members: list[str], wanted: Wanted) -> SeedGroup:
    curves = []
    for run in members:
        found = columns(store, msgspec.structs.replace(wanted, run=run, points=MOST_POINTS))
        x = found[wanted.x]
        curves.append((x - x[0] if wanted.x == TIME and len(x) else x, found[wanted.metrics[0]]))
    points = min(max(wanted.points, FEWEST_POINTS), 1000)
    return SeedGroup(tuple(members), rows(series.bands(curves, points)))


def _flat(config: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    for key, value in config.items():
        path = f"{prefix}{key}"
        if isinstance(value, dict) and value and path.count(".") < 8:
            yield from _flat(value, f"{path}.")
        else:
            yield path, value


def _unused(path: str, used: set[str]) -> bool:
    return path.partition(".")[0] in {*BUILT_IN} - used
