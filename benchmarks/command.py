"""``python -m benchmarks``: one subcommand per group of figures."""

import sys
from collections.abc import Iterable
from pathlib import Path
from typing import Annotated

import msgspec
import typer

from benchmarks.figure import Figure, show
from benchmarks.ledger import Seed
from soulsai.errors import SoulsAIError
from soulsai.process import StopSignal

app = typer.Typer(help="Measure what is promised; ends with 1 if a promise is not kept.")

Json = Annotated[bool, typer.Option("--json", help="One JSON object per line.")]
Seeds = Annotated[int, typer.Option(min=1, help="How many.")]
FirstSeed = Annotated[int, typer.Option(min=0, help="The others follow it.")]
Parallel = Annotated[int, typer.Option(min=1, help="Runs at a time.")]
Resume = Annotated[
    bool, typer.Option("--resume", help="Take over the seeds that are done already.")
]
Saves = Annotated[Path, typer.Option(metavar="DIR", help="Where runs and results go.")]
Sets = Annotated[list[str] | None, typer.Option("--set", metavar="SECTION.KEY=VALUE")]


class Broken(SoulsAIError):
    """A figure missed its limit."""


@app.command()
def wire(as_json: Json = False) -> None:
    """Bytes per transition; transitions per second from the server into replay."""
    from benchmarks import wire

    _show(wire.measure(), as_json=as_json)


@app.command()
def admission(as_json: Json = False) -> None:
    """Price of checking a batch of experience in full."""
    from benchmarks import admission

    _show(admission.measure(), as_json=as_json)


@app.command()
def client(as_json: Json = False) -> None:
    """Price of a client's step beyond the environment and the policy."""
    from benchmarks import client

    _show(client.measure(), as_json=as_json)


@app.command()
def learner(as_json: Json = False) -> None:
    """Rate of updates, against stable-baselines3 in the same process."""
    from benchmarks import learner

    _show(learner.measure(), as_json=as_json)


@app.command()
def replay(as_json: Json = False) -> None:
    """Bytes of stacks of frames on the wire and in replay, and the time of a batch."""
    from benchmarks import replay

    _show(replay.measure(), as_json=as_json)


@app.command()
def start(as_json: Json = False) -> None:
    """Seconds to the first view and the first update, memory of a client, cost of resting."""
    from benchmarks import start

    _show(start.measure(), as_json=as_json)


@app.command()
def telemetry(
    episodes: Annotated[int, typer.Option(min=1000, help="How long the run is.")] = 1_000_000,
    as_json: Json = False,
) -> None:
    """Price of an episode, of the figure, and of memory, over a million episodes."""
    from benchmarks import telemetry

    _show(telemetry.measure(episodes), as_json=as_json)


@app.command()
def experience(as_json: Json = False) -> None:
    """How much of what unthrottled clients play reaches replay while the learner is saturated."""
    from benchmarks import experience

    _show(experience.measure(), as_json=as_json)


@app.command()
def game(
    minutes: Annotated[float, typer.Option(min=0.1, help="To play.")] = 15.0,
    faults_per_hour: Annotated[float, typer.Option(min=0, help="Of each of 4 games.")] = 16.0,
    as_json: Json = False,
) -> None:
    """How much of a game in real time arrives while it hangs, crashes, lags and leaks."""
    from benchmarks import game

    _show(game.measure(minutes, faults_per_hour), as_json=as_json)


@app.command()
def learning(
    targets: Annotated[str, typer.Option(help="Names, or ENV:ALGORITHM:STEPS; by commas.")] = "T1",
    seeds: Seeds = 5,
    first_seed: FirstSeed = 10,
    parallel: Parallel = 1,
    saves: Saves = Path("saves/bench"),
    sets: Sets = None,
    resume: Resume = False,
) -> None:
    """Train whole runs over seeds and judge them by greedy episodes; one JSON line per target.

    Each seed's result is kept in DIR/seeds.jsonl as it comes, each target's in DIR/targets.jsonl
    and DIR/TARGET.png.
    """
    from benchmarks import learning, picture
    from benchmarks.targets import target

    chosen = [target(name) for name in targets.split(",")]
    missed = []
    with StopSignal() as stop:
        bench = learning.Bench(saves, parallel, tuple(sets or ()), resume, stopped=stop, said=_say)
        for one in chosen:
            score = learning.run(one, range(first_seed, first_seed + seeds), bench)
            line = msgspec.json.encode(score).decode() + "\n"
            sys.stdout.write(line)
            sys.stdout.flush()
            with (saves / "targets.jsonl").open("a") as file:
                file.write(line)
            picture.save_picture(score, saves)
            missed += [] if score.held else [one.name]
    if missed:
        raise Broken(f"not reached: {', '.join(missed)}")


@app.command()
def tax(
    of: Annotated[
        str, typer.Argument(help="faults, staleness, games or scaling; several by commas.")
    ] = "faults,staleness,scaling",
    seeds: Seeds = 5,
    first_seed: FirstSeed = 10,
    parallel: Parallel = 1,
    saves: Saves = Path("saves/bench"),
    sets: Sets = None,
    resume: Resume = False,
    as_json: Json = False,
) -> None:
    """Measure what trouble costs: env steps to a bar with it, against those without.

    Runs learning targets, and keeps their results where "learning" does.
    """
    from benchmarks import learning, tax

    chosen = tax.taxes(of)
    with StopSignal() as stop:
        bench = learning.Bench(
            saves, parallel, tuple(sets or ()), resume, curves=True, stopped=stop, said=_say
        )
        figures = tax.measure(chosen, range(first_seed, first_seed + seeds), bench)
        _show(figures, as_json=as_json)


def _say(result: Seed) -> None:
    """Tell a person what a seed has come to."""
    came = result.fault or (
        f"{result.score:.4g} after {result.env_steps:,} env steps in {result.wall_seconds:.0f} s"
    )
    sys.stderr.write(f"{result.target} seed {result.seed}: {came}\n")
    sys.stderr.flush()


def _show(figures: Iterable[Figure], *, as_json: bool) -> None:
    held = True
    for figure in figures:
        show(figure, json=as_json)
        held = held and figure.held
    if not held:
        raise Broken("a figure missed its limit")
