"""What trouble costs: env steps to a target's bar with it, against those without."""

import math
from collections.abc import Iterator, Sequence

import numpy as np
from msgspec import Struct
from msgspec.structs import replace

from benchmarks.faults import Faults
from benchmarks.figure import Figure, at_most
from benchmarks.learning import Bench, Score, run
from benchmarks.statistics import iqm
from benchmarks.targets import TARGETS, Target
from soulsai.errors import ConfigError

OLD = 2.0  # seconds
FRAME = 1 / 60  # seconds that a game takes for a step


class Tax(Struct, frozen=True):
    """The same target twice, and how many times as many env steps the second may take."""

    what: str
    without: Target
    burdened: Target
    limit: float


def _as_game(target: Target) -> Target:
    """Return a target whose clients play no faster than a game, so that 2 s are not many steps."""
    faults = Faults(slow_clients=target.clients, slow_seconds=FRAME)
    return replace(target, name=f"{target.name}-game", faults=faults)


def _staleness(target: Target, name: str) -> Tax:
    stale = replace(target, name=name, faults=replace(target.faults, weights_seconds=OLD))
    return Tax("weights 2 s late", target, stale, 1.15)


_T1, _CALM = TARGETS["T1"], TARGETS["T2-calm"]
TAXES = {
    "faults": (Tax("clients killed, slow, late and repeating", _CALM, TARGETS["T2"], 1.25),),
    "staleness": (_staleness(_T1, "T1-stale"), _staleness(_CALM, "T2-stale")),
    "games": tuple(_staleness(game, f"{game.name}-stale") for game in map(_as_game, (_T1, _CALM))),
    "scaling": (
        Tax(
            "8 clients for 1",
            replace(_T1, name="T1-1-client", clients=1),
            replace(_T1, name="T1-8-clients", clients=8),
            1.2,
        ),
    ),
}


def taxes(names: str) -> list[Tax]:
    """Return the taxes of that name, or of those names."""
    for name in names.split(","):
        if name not in TAXES:
            raise ConfigError(f"{name!r} is none of {', '.join(TAXES)}")
    return [tax for name in names.split(",") for tax in TAXES[name]]


def measure(chosen: Sequence[Tax], seeds: Sequence[int], bench: Bench) -> Iterator[Figure]:
    """Yield each tax: the IQM over seeds of the env steps to the bar, with and without."""
    for tax in chosen:
        without, burdened = (run(one, seeds, bench) for one in (tax.without, tax.burdened))
        yield at_most(
            f"tax: {tax.burdened.name}, {tax.what}",
            to_bar(burdened),
            "env steps to the bar",
            tax.limit * to_bar(without),
        )


def to_bar(score: Score) -> float:
    """Return the IQM of the env steps to the bar; infinite if too many seeds never got there."""
    steps = [math.inf if taken is None else taken for taken in score.to_bar]
    return middle([*steps, *[math.inf] * len(score.failed)])


def middle(steps: Sequence[float]) -> float:
    """Return the IQM of numbers; infinite if too many of them are."""
    ordered = np.sort(steps)
    cut = int(0.25 * len(ordered))
    return math.inf if math.isinf(ordered[len(ordered) - cut - 1]) else iqm(steps)
