"""Measures what we promise: every figure comes with its limit, or with a peer in the same run."""

import sys
from typing import Literal

import msgspec
from msgspec import Struct


class Figure(Struct, frozen=True):
    """One measured number, and what it is held against.

    ``ratio`` is value / limit; ``sense`` says whether a good value is ``most`` (at most the
    limit) or ``least`` (at least), or whether a peer is only shown beside it (``peer``).
    """

    figure: str
    value: float
    unit: str
    limit: float
    ratio: float
    sense: Literal["most", "least", "peer"]

    @property
    def held(self) -> bool:
        """Whether the promise is kept."""
        if self.sense == "peer":
            return True
        return self.ratio <= 1 if self.sense == "most" else self.ratio >= 1


def at_most(figure: str, value: float, unit: str, limit: float) -> Figure:
    """Return a figure that should not exceed its limit."""
    return Figure(figure, round(value, 4), unit, round(limit, 4), round(value / limit, 4), "most")


def at_least(figure: str, value: float, unit: str, limit: float) -> Figure:
    """Return a figure that should not fall below its limit."""
    return Figure(figure, round(value, 4), unit, round(limit, 4), round(value / limit, 4), "least")


def beside(figure: str, value: float, unit: str, peer: float) -> Figure:
    """Return a figure next to a peer's that does other work, so neither is a bar."""
    return Figure(figure, round(value, 4), unit, round(peer, 4), round(value / peer, 4), "peer")


def show(figure: Figure, *, json: bool) -> None:
    """Print one figure, for a program or for a person."""
    if json:
        line = msgspec.json.encode(figure).decode()
    else:
        word = "ok " if figure.held else "MISS"
        sign = {"most": "<=", "least": ">=", "peer": "peer"}[figure.sense]
        line = f"{word} {figure.figure}: {figure.value:g} {figure.unit} ({sign} {figure.limit:g})"
    sys.stdout.write(line + "\n")
    sys.stdout.flush()
