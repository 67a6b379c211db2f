"""``python -m benchmarks``: one subcommand per group of figures."""

import sys
from collections.abc import Iterable, Sequence
from pathlib import Path

import click
import msgspec

from benchmarks.figure import Figure, show
from benchmarks.ledger import Seed
from soulsai.errors import SoulsAIError
from soulsai.process import StopSignal

json_option = click.option("--json", "as_json", is_flag=True, help="One JSON object per line.")
seeds_option = click.option(
    "--seeds", type=click.IntRange(1), default=5, show_default=True, help="How many."
)
first_seed_option = click.option(
    "--first-seed",
    type=click.IntRange(0),
    default=10,
    show_default=True,
    help="The others follow it.",
)
parallel_option = click.option(
    "--parallel", type=click.IntRange(1), default=1, show_default=True, help="Runs at a time."
)
resume_option = click.option(
    "--resume", is_flag=True, help="Take over the seeds that are done already."
)
saves_option = click.option(
    "--saves",
    metavar="DIR",
    type=click.Path(path_type=Path),
    default=Path("saves/bench"),
    show_default=True,
    help="Where runs and results go.",
)
peers_option = click.option(
    "--peers",
    metavar="PYTHON",
    default=sys.executable,
    show_default="this one",
    help="Python in which the packages are installed that ours is compared with.",
)
set_option = click.option("--set", "sets", metavar="SECTION.KEY=VALUE", multiple=True)


@click.group()
def app() -> None:
    """Measure what is promised; ends with 1 if a promise is not kept."""


class Broken(SoulsAIError):
    """A figure missed its limit."""


@app.command()
@json_option
def wire(as_json: bool) -> None:
    """Bytes per transition; transitions per second from the server into replay."""
    from benchmarks import wire

    _show(wire.measure(), as_json=as_json)


@app.command()
@click.option("--clients", type=click.IntRange(1), default=1000, show_default=True)
@click.option(
    "--rate",
    type=click.FloatRange(0.1),
    default=20.0,
    show_default=True,
    help="Env steps/s of each.",
)
@click.option("--seconds", type=click.FloatRange(15), default=300.0, show_default=True)
@json_option
def fleet(clients: int, rate: float, seconds: float, as_json: bool) -> None:
    """Share of a core that many clients cost the training node, and the bytes of its weights."""
    from benchmarks import fleet

    _show(fleet.measure(clients, rate, seconds), as_json=as_json)


@app.command()
@click.option("--versions", type=click.IntRange(20), default=2000, show_default=True)
@json_option
def publish(versions: int, as_json: bool) -> None:
    """Delay from the publication of a version to its use; what several clients download."""
    from benchmarks import publish

    _show(publish.measure(versions), as_json=as_json)


@app.command()
@json_option
def admission(as_json: bool) -> None:
    """Price of checking a batch of experience in full."""
    from benchmarks import admission

    _show(admission.measure(), as_json=as_json)


@app.command()
@json_option
def discovery(as_json: bool) -> None:
    """Price of finding a client among a million keys of others."""
    from benchmarks import discovery

    _show(discovery.measure(), as_json=as_json)


@app.command()
@json_option
def client(as_json: bool) -> None:
    """Price of a client's step beyond the environment and the policy."""
    from benchmarks import client

    _show(client.measure(), as_json=as_json)


@app.command()
@json_option
def bridge(as_json: bool) -> None:
    """Rate of steps of a game in C behind the bridge; needs a C compiler."""
    from benchmarks import bridge

    _show(bridge.measure(), as_json=as_json)


@app.command()
@json_option
def vector(as_json: bool) -> None:
    """Env steps per second of a package's own vector environment, against single ones."""
    from benchmarks import vector

    _show(vector.measure(), as_json=as_json)


@app.command()
@peers_option
@json_option
def learner(peers: str, as_json: bool) -> None:
    """Rate of updates, against stable-baselines3, and SBX in another Python."""
    from benchmarks import learner

    _show(learner.measure(peers), as_json=as_json)


@app.command("on-policy")
@peers_option
@json_option
def on_policy(peers: str, as_json: bool) -> None:
    """Rate of env steps of PPO, against stable-baselines3 on the same cores."""
    from benchmarks import on_policy

    _show(on_policy.measure(peers), as_json=as_json)


@app.command()
@click.argument("env")
@click.option("--episodes", type=click.IntRange(1), default=10, show_default=True)
@click.option("--out", type=click.Path(path_type=Path), required=True, help="New folder.")
def experts(env: str, episodes: int, out: Path) -> None:
    """Episodes of a scripted expert, as demonstrations; prints their mean reward."""
    from benchmarks.experts import write_episodes

    click.echo(f"{write_episodes(env, episodes, out):.1f}")


@app.command()
@json_option
def replay(as_json: bool) -> None:
    """Bytes of stacks of frames on the wire and in replay, and the time of a batch."""
    from benchmarks import replay

    _show(replay.measure(), as_json=as_json)


@app.command()
@peers_option
@json_option
def priorities(peers: str, as_json: bool) -> None:
    """Rate of drawing a batch and setting its priorities in a million rows, against cpprb."""
    from benchmarks import priorities

    _show(priorities.measure(peers), as_json=as_json)


@app.command()
@json_option
def evaluator(as_json: bool) -> None:
    """Cost of an evaluator to the learner on the same cores, and the time to a video."""
    from benchmarks import evaluator

    _show(evaluator.measure(), as_json=as_json)


@app.command()
@json_option
def start(as_json: bool) -> None:
    """Seconds to the first view and the first update, memory of a client, cost of resting."""
    from benchmarks import start

    _show(start.measure(), as_json=as_json)


@app.command()
@json_option
def memory(as_json: bool) -> None:
    """Print the resident memory of all processes of a run, and of each role."""
    from benchmarks import memory

    _show(memory.measure(), as_json=as_json)


@app.command()
@click.option(
    "--episodes",
    type=click.IntRange(1000),
    default=1000000,
    show_default=True,
    help="How long the run is.",
)
@json_option
def telemetry(episodes: int, as_json: bool) -> None:
    """Price of an episode, of the figure, and of memory, over a million episodes."""
    from benchmarks import telemetry

    _show(telemetry.measure(episodes), as_json=as_json)


@app.command()
@json_option
def experience(as_json: bool) -> None:
    """How much of what unthrottled clients play reaches replay while the learner is saturated."""
    from benchmarks import experience

    _show(experience.measure(), as_json=as_json)


@app.command()
@click.option(
    "--minutes", type=click.FloatRange(0.1), default=15.0, show_default=True, help="To play."
)
@click.option(
    "--faults-per-hour",
    type=click.FloatRange(0),
    default=16.0,
    show_default=True,
    help="Of each of 4 games.",
)
@json_option
def game(minutes: float, faults_per_hour: float, as_json: bool) -> None:
    """How much of a game in real time arrives while it hangs, crashes, lags and leaks."""
    from benchmarks import game

    _show(game.measure(minutes, faults_per_hour), as_json=as_json)


@app.command()
@click.option(
    "--targets", default="T1", show_default=True, help="Names, or ENV:ALGORITHM:STEPS; by commas."
)
@seeds_option
@first_seed_option
@parallel_option
@saves_option
@set_option
@resume_option
def learning(
    targets: str,
    seeds: int,
    first_seed: int,
    parallel: int,
    saves: Path,
    sets: Sequence[str],
    resume: bool,
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
        bench = learning.Bench(saves, parallel, tuple(sets), resume, stopped=stop, said=_say)
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
@click.argument(
    "of",
    default="faults,staleness,scaling",
    help="faults, staleness, games or scaling; several by commas.",
)
@seeds_option
@first_seed_option
@parallel_option
@saves_option
@set_option
@resume_option
@json_option
def tax(
    of: str,
    seeds: int,
    first_seed: int,
    parallel: int,
    saves: Path,
    sets: Sequence[str],
    resume: bool,
    as_json: bool,
) -> None:
    """Measure what trouble costs: env steps to a bar with it, against those without.

    Runs learning targets, and keeps their results where "learning" does.
    """
    from benchmarks import learning, tax

    chosen = tax.taxes(of)
    with StopSignal() as stop:
        bench = learning.Bench(
            saves, parallel, tuple(sets), resume, curves=True, stopped=stop, said=_say
        )
        figures = tax.measure(chosen, range(first_seed, first_seed + seeds), bench)
        _show(figures, as_json=as_json)


@app.command()
@click.argument(
    "of",
    default="cartpole,pendulum,lander,interventions,offline",
    help="cartpole, pendulum, lander, interventions or offline; several by commas.",
)
@seeds_option
@first_seed_option
@saves_option
@set_option
@resume_option
@json_option
def demonstrations(
    of: str,
    seeds: int,
    first_seed: int,
    saves: Path,
    sets: Sequence[str],
    resume: bool,
    as_json: bool,
) -> None:
    """Measure what demonstrations, interventions and data alone are worth.

    Runs with and without take turns, seed by seed; their results are kept where "learning" does.
    """
    from benchmarks import demonstrations, learning

    with StopSignal() as stop:
        bench = learning.Bench(saves, 1, tuple(sets), resume, curves=False, stopped=stop, said=_say)
        chosen = range(first_seed, first_seed + seeds)
        _show(demonstrations.measure(of, chosen, bench), as_json=as_json)


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
