"""The commands, one function each; what a command needs is imported when it runs."""

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated

import msgspec
import typer

from soulsai import __version__, connect, process
from soulsai.cli import compare as comparing
from soulsai.cli import identity as identity
from soulsai.cli import operator_commands
from soulsai.cli.operator_commands import (
    Json,
    Secrets,
    Sets,
    Settings,
    SettingsOption,
    Url,
    as_line,
    load_settings,
    overrides,
)
from soulsai.config import Config
from soulsai.config.yaml_file import defaults_yaml, dump
from soulsai.errors import ConfigError

app = typer.Typer(
    name="soulsai",
    help="Train one agent from many slow, remote, fragile environments.",
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
)
app.command("compare")(comparing.compare)
app.add_typer(identity.app, name="secrets")
app.command("enroll")(identity.enroll)
app.command("revoke")(identity.revoke)
app.command("clients")(identity.clients)
for order in (
    operator_commands.quicksave,
    operator_commands.stop,
    operator_commands.purge,
    operator_commands.pardon,
):
    app.command()(order)

Saves = Annotated[str, typer.Option(metavar="DIR", help="Where run folders are.")]
AUTO = "auto"  # what a container is told: it starts as often as it must, and begins only once
Resume = Annotated[str, typer.Option(metavar="RUN|latest", help="Go on with this run.")]

TRIED_STEPS = 20  # by check-env


def _version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"soulsai {__version__}")
        raise typer.Exit


@app.callback()
def soulsai(
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Say which this is.")
    ] = False,
) -> None:
    """Train one agent from many slow, remote, fragile environments."""
    del version


@app.command()
def train(
    config: Settings = None,
    clients: Annotated[int | None, typer.Option(min=0, help="Local clients.")] = None,
    algorithm: Annotated[str, typer.Option(help="Which algorithm learns.")] = "",
    env: Annotated[str, typer.Option(help='Gymnasium id, "module:Id" or "file.py:make".')] = "",
    max_env_steps: Annotated[
        int | None, typer.Option(min=0, help="End after so many env steps; 0: never.")
    ] = None,
    seed: Annotated[int | None, typer.Option(min=0, help="Of everything random.")] = None,
    saves: Saves = "",
    resume: Resume = "",
    redis: Url = "",
    sets: Sets = None,
    as_json: Json = False,
) -> None:
    """Run the whole system on this machine: server, both nodes, clients, and a live view."""
    from soulsai import runs
    from soulsai.cli import train

    named = {
        "run.clients": clients,
        "run.max_env_steps": max_env_steps,
        "run.seed": seed,
        "run.saves": saves,
        "algorithm.name": algorithm,
        "environment.id": env,
        "redis.url": redis,
    }
    settings = load_settings(config, named, sets)
    if resume:
        folder = runs.find(Path(settings.run.saves), resume)
        resume = folder.name
        if config is None:
            settings = runs.settings(folder, settings, os.environ, overrides(named, sets))
        settings = runs.kept_in(folder, settings)
    connect.need_server_extra()
    raise typer.Exit(train.train(settings, resume=resume, as_json=as_json))


@app.command()
def training_node(
    config: Settings = None,
    redis: Url = "",
    secrets: Secrets = "",
    saves: Saves = "",
    resume: Annotated[
        str,
        typer.Option(
            metavar="RUN|latest|auto",
            help="Go on with this run; auto: with the newest, if it is not finished.",
        ),
    ] = "",
    sets: Sets = None,
) -> None:
    """Learn: turn the clients' experience into weights, and publish them."""
    named = {"redis.url": redis, "redis.secrets": secrets, "run.saves": saves}
    if "TORCHELASTIC_RUN_ID" in os.environ:
        raise ConfigError("torchrun: a training node is one process; start it without torchrun")
    with process.StopSignal(process.parent()) as stop:
        settings = _node_settings(config, named, sets)
        connect.need_server_extra()
        from soulsai import runs
        from soulsai.client.environment import probe
        from soulsai.training_node.node import serve

        with connect.training(settings) as wire:
            environment = settings.environment
            file = environment.spec_file
            spec = connect.read_spec(Path(file)) if file else probe(environment)
            if resume == AUTO:
                resume = runs.unfinished(settings)
            serve(settings, spec, wire, resume=resume, stopped=stop)
    raise typer.Exit(stop.exit_code)


@app.command()
def telemetry_node(
    config: Settings = None, redis: Url = "", secrets: Secrets = "", sets: Sets = None
) -> None:
    """Watch: keep the record of episodes, draw it, and say which model was the best."""
    with process.StopSignal(process.parent()) as stop:
        settings = _node_settings(config, {"redis.url": redis, "redis.secrets": secrets}, sets)
        connect.need_server_extra()
        from soulsai.identity.enroller import enroller
        from soulsai.telemetry_node.node import serve

        with connect.telemetry(settings) as wire:
            serve(settings, wire, stopped=stop, enroller=enroller(settings))
    raise typer.Exit(stop.exit_code)


@app.command()
def client(
    config: Settings = None,
    redis: Url = "",
    env: Annotated[str, typer.Option(help="Play this, whatever the server offers.")] = "",
    name: Annotated[str, typer.Option(help="Of this client: a-z, 0-9, _ and -.")] = "",
    secrets: Secrets = "",
    secret_file: Annotated[Path | None, typer.Option(help="Password of the server.")] = None,
    invite: Annotated[
        str, typer.Option(metavar="FILE|-", help="File of the invite; - to type it in.")
    ] = "",
    insecure: Annotated[
        bool, typer.Option("--insecure", help="Do without TLS, on a network that you trust.")
    ] = False,
    count: Annotated[int | None, typer.Option(min=1, help="Environments side by side.")] = None,
    seed: Annotated[int | None, typer.Option(min=0, help="Of the environment.")] = None,
    step_delay: Annotated[float, typer.Option(min=0, help="Seconds to wait per step.")] = 0.0,
    sets: Sets = None,
) -> None:
    """Play: needs only an invite, or the server's address and its secret."""
    named = {
        "redis.url": redis,
        "redis.secrets": secrets,
        "client.name": name,
        "environment.count": count,
        "redis.insecure": "true" if insecure else "",
    }
    with process.StopSignal(process.parent(), at_once=True) as stop:
        invited = connect.invitation(invite)
        settings = connect.invited(_node_settings(config, named, sets), invited)
        spool = connect.spools(settings)
        settings = connect.with_name(settings)
        from soulsai.client.session import serve

        with connect.client(settings, secret_file, invited) as wire:
            serve(
                settings,
                wire,
                environment=env,
                seed=seed,
                step_delay=step_delay,
                spool=spool,
                stopped=stop,
            )
    raise typer.Exit(stop.exit_code)


@app.command("ray-clients")
def ray_clients(
    config: Settings = None,
    redis: Url = "",
    clients: Annotated[int, typer.Option(min=1, help="How many.")] = 4,
    env: Annotated[str, typer.Option(help="Play this, whatever the server offers.")] = "",
    address: Annotated[
        str, typer.Option(help="Of a Ray cluster; empty: one on this machine, for as long.")
    ] = "",
    cpus: Annotated[float, typer.Option(min=0, help="That one client needs.")] = 1.0,
    secrets: Secrets = "",
    sets: Sets = None,
) -> None:
    """Play with clients that Ray places on a cluster, and restarts."""
    settings = _node_settings(config, {"redis.url": redis, "redis.secrets": secrets}, sets)
    connect.need("ray", extra="ray")
    from soulsai.train.ray_fleet import Fleet, connected

    with process.StopSignal() as stop, connected(address):
        Fleet(settings, clients, environment=env, cpus=cpus).run(stop)
    raise typer.Exit(stop.exit_code)


@app.command()
def status(
    config: Settings = None,
    redis: Url = "",
    secrets: Secrets = "",
    sets: Sets = None,
    watch: Annotated[bool, typer.Option("--watch", help="Go on until the run ends.")] = False,
    every: Annotated[float, typer.Option(min=0.1, help="Seconds between two looks.")] = 1.0,
    as_json: Json = False,
) -> None:
    """Say how a running training node is doing."""
    from soulsai.cli import status

    settings = operator_commands.settings_of(config, redis, secrets, sets)
    if not watch:
        status.once(settings, as_json=as_json)
        return
    with process.StopSignal(process.parent()) as stop:
        status.watch(settings, stop, every=every, as_json=as_json)


@app.command()
def evaluate(
    run: Annotated[str, typer.Argument(help="Run id, latest, a folder, or a policy.onnx.")],
    episodes: Annotated[int, typer.Option(min=1, help="To play.")] = 100,
    seed: Annotated[int, typer.Option(min=0, help="Of the first episode.")] = 1_000_000,
    env: Annotated[str, typer.Option(help="Play this, if the policy's own is not known.")] = "",
    saves: Saves = "saves",
    as_json: Json = False,
) -> None:
    """Play greedy episodes with the newest undamaged checkpoint of a run."""
    from soulsai import runs
    from soulsai.client.evaluate import evaluate as play

    policy = runs.policy(Path(saves), run)
    env = env or runs.environment(Path(saves), run)
    result = play(policy, episodes=episodes, seed=seed, environment=env)
    if as_json:
        as_line({
            "mean": result.mean, "iqm": result.iqm, "std": result.std,
            "episodes": result.episodes, "env_steps": result.env_steps,
        })  # fmt: skip
        return
    typer.echo(
        f"{result.mean:.1f} ± {result.std:.1f} (mean and deviation), IQM {result.iqm:.1f}, "
        f"{result.episodes} episodes, {result.env_steps} env steps"
    )


@app.command("config")
def show_config(
    config: Settings = None,
    defaults: Annotated[bool, typer.Option("--defaults", help="Ignore all settings.")] = False,
    sets: Sets = None,
) -> None:
    """Print the settings that result from all layers."""
    typer.echo(defaults_yaml() if defaults else dump(load_settings(config, {}, sets)), nl=False)


@app.command()
def check_env(
    env: Annotated[str, typer.Argument(metavar="ID", help='As in "train --env".')],
    save: Annotated[Path | None, typer.Option(help="Write what it looks like to FILE.")] = None,
    config: SettingsOption = None,
    sets: Sets = None,
) -> None:
    """Make an environment, try it, and say what it looks like."""
    from soulsai.client.environment import probe

    settings = load_settings(config, {"environment.id": env}, sets)
    spec = probe(settings.environment, steps=TRIED_STEPS)
    text = msgspec.json.format(msgspec.json.encode(spec), indent=2)
    if save is None:
        typer.echo(text.decode())
        return
    save.write_bytes(text + b"\n")
    typer.echo(f"{save}: written; name it as environment.spec_file")


@app.command()
def doctor(
    config: Settings = None,
    redis: Url = "",
    secrets: Secrets = "",
    secret_file: Annotated[Path | None, typer.Option(help="Password of the server.")] = None,
    invite: Annotated[
        str, typer.Option(metavar="FILE|-", help="File of the invite; - to type it in.")
    ] = "",
    insecure: Annotated[
        bool, typer.Option("--insecure", help="Do without TLS, on a network that you trust.")
    ] = False,
    env: Annotated[str, typer.Option(help="Play this, whatever the server offers.")] = "",
    server: Annotated[
        bool | None, typer.Option("--server/--client", help="Which end this is, if it is unclear.")
    ] = None,
    sets: Sets = None,
    as_json: Json = False,
) -> None:
    """Find out what is wrong between here and the server, and how to mend it."""
    named = {
        "redis.url": redis,
        "redis.secrets": secrets,
        "redis.insecure": "true" if insecure else "",
    }
    invited = connect.invitation(invite)
    settings = connect.invited(load_settings(config, named, sets), invited)
    from soulsai.doctor.command import run

    raise typer.Exit(
        run(settings, invited, env=env, secret_file=secret_file, as_server=server, as_json=as_json)
    )


@app.command("runs")
def list_runs(saves: Saves = "saves", as_json: Json = False) -> None:
    """List the runs in a folder, oldest first."""
    from soulsai import runs

    found = [(folder, runs.status(folder)) for folder in runs.every(Path(saves))]
    if as_json:
        as_line([{"run": str(folder), "status": state} for folder, state in found])
        return
    if not found:
        typer.echo(f"{saves}: no runs")
    for folder, state in found:
        typer.echo(runs.describe(folder, state))


def _node_settings(
    config: Path | None, named: Mapping[str, object], sets: Sequence[str] | None
) -> Config:
    """Return the settings of a node that runs by itself, and begin its log."""
    settings = load_settings(config, named, sets)
    connect.begin_log()
    return settings
