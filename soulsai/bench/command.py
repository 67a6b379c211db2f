"""``soulsai bench``: one subcommand per group of figures."""

import sys
from collections.abc import Iterable
from pathlib import Path
from typing import Annotated

import msgspec
import typer

from soulsai.bench import Figure, show
from soulsai.errors import SoulsAIError

app = typer.Typer(help="Measure what is promised; ends with 1 if a promise is not kept.")

Json = Annotated[bool, typer.Option("--json", help="One JSON object per line.")]


class Broken(SoulsAIError):
    """A figure missed its limit."""


@app.command()
def wire(as_json: Json = False) -> None:
    """Bytes per transition; transitions per second from the server into replay."""
    from soulsai.bench import wire

    _show(wire.measure(), as_json=as_json)


@app.command()
def client(as_json: Json = False) -> None:
    """Price of a client's step beyond the environment and the policy."""
    from soulsai.bench import client

    _show(client.measure(), as_json=as_json)


@app.command()
def learner(as_json: Json = False) -> None:
    """Rate of updates, against stable-baselines3 in the same process."""
    from soulsai.bench import learner

    _show(learner.measure(), as_json=as_json)


@app.command()
def start(as_json: Json = False) -> None:
    """Seconds to the first view and the first update, memory of a client, cost of resting."""
    from soulsai.bench import start

    _show(start.measure(), as_json=as_json)


@app.command()
def experience(as_json: Json = False) -> None:
    """How much of what unthrottled clients play reaches replay while the learner is saturated."""
    from soulsai.bench import experience

    _show(experience.measure(), as_json=as_json)


@app.command()
def learning(
    targets: Annotated[str, typer.Option(help="Names, or ENV:ALGORITHM:STEPS; by commas.")] = "T1",
    seeds: Annotated[int, typer.Option(min=1, help="How many.")] = 5,
    first_seed: Annotated[int, typer.Option(min=0, help="The others follow it.")] = 10,
    parallel: Annotated[int, typer.Option(min=1, help="Runs at a time.")] = 1,
    saves: Annotated[Path, typer.Option(metavar="DIR")] = Path("saves/bench"),
    sets: Annotated[list[str] | None, typer.Option("--set", metavar="SECTION.KEY=VALUE")] = None,
) -> None:
    """Train whole runs over seeds and judge them by greedy episodes; one JSON line per target."""
    from soulsai.bench import learning

    chosen = [learning.target(name) for name in targets.split(",")]
    chosen_seeds = range(first_seed, first_seed + seeds)
    held = True
    for one in chosen:
        score = learning.run(one, chosen_seeds, saves, parallel=parallel, overrides=sets or ())
        sys.stdout.write(msgspec.json.encode(score).decode() + "\n")
        sys.stdout.flush()
        held = held and score.held
    if not held:
        raise Broken("a target was not reached")


def _show(figures: Iterable[Figure], *, as_json: bool) -> None:
    held = True
    for figure in figures:
        show(figure, json=as_json)
        held = held and figure.held
    if not held:
        raise Broken("a figure missed its limit")
