"""The commands that start one role each; a role's modules are imported when it starts."""

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated

import typer

from soulsai import connect, process
from soulsai.cli.options import (
    Environment,
    Insecure,
    InviteFile,
    Saves,
    SecretFile,
    Secrets,
    Sets,
    Settings,
    Url,
    load_settings,
)
from soulsai.config import Config
from soulsai.errors import ConfigError

AUTO = "auto"  # for containers, which start again and again but begin a run only once


def training_node(
    config: Settings = None,
    redis: Url = "",
    secrets: Secrets = "",
    saves: Saves = "",
    resume: Annotated[
        str,
        typer.Option(
            metavar="RUN|latest|auto",
            help="Continue this run; auto: the newest unfinished one.",
        ),
    ] = "",
    sets: Sets = None,
) -> None:
    """Learn from the clients' experience; publish weights."""
    if "TORCHELASTIC_RUN_ID" in os.environ:
        raise ConfigError("torchrun: a training node is one process; start it without torchrun")
    named = {"redis.url": redis, "redis.secrets": secrets, "run.saves": saves}
    with process.StopSignal(process.parent()) as stop:
        settings = connect.with_own_server(_node_settings(config, named, sets))
        connect.need_server_extra()
        from soulsai import runs
        from soulsai.client.environment import probe
        from soulsai.training_node.node import serve

        with connect.training(settings) as wire:
            environment = settings.environment
            file = environment.spec_file
            spec = connect.read_spec(Path(file)) if file else probe(environment, settings.client)
            if resume == AUTO:
                resume = runs.unfinished(settings)
            serve(settings, spec, wire, resume=resume, stopped=stop)
    raise typer.Exit(stop.exit_code)


def telemetry_node(
    config: Settings = None, redis: Url = "", secrets: Secrets = "", sets: Sets = None
) -> None:
    """Record episodes, serve the page, pick the best model."""
    with process.StopSignal(process.parent()) as stop:
        named = {"redis.url": redis, "redis.secrets": secrets}
        settings = connect.with_own_server(_node_settings(config, named, sets))
        connect.need_server_extra()
        from soulsai.identity.users import page_enroller
        from soulsai.telemetry_node.node import serve

        with connect.telemetry(settings) as wire:
            serve(settings, wire, stopped=stop, enroller=page_enroller(settings))
    raise typer.Exit(stop.exit_code)


def client(
    config: Settings = None,
    redis: Url = "",
    env: Environment = "",
    name: Annotated[str, typer.Option(help="Name of this client: a-z, 0-9, _ and -.")] = "",
    secrets: Secrets = "",
    secret_file: SecretFile = None,
    invite: InviteFile = "",
    insecure: Insecure = False,
    count: Annotated[int | None, typer.Option(min=1, help="Environments side by side.")] = None,
    seed: Annotated[int | None, typer.Option(min=0, help="Seed of the environment.")] = None,
    step_delay: Annotated[float, typer.Option(min=0, help="Seconds to wait per step.")] = 0.0,
    sets: Sets = None,
) -> None:
    """Play for a run on a server; needs only an invite."""
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
        settings = connect.with_own_server(settings)
        spool = connect.spool_folder(settings)
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


def ray_clients(
    config: Settings = None,
    redis: Url = "",
    clients: Annotated[int, typer.Option(min=1, help="Number of clients.")] = 4,
    env: Environment = "",
    address: Annotated[
        str, typer.Option(help="Address of a Ray cluster; empty: start one on this machine.")
    ] = "",
    cpus: Annotated[float, typer.Option(min=0, help="CPU cores for one client.")] = 1.0,
    secrets: Secrets = "",
    sets: Sets = None,
) -> None:
    """Run clients that Ray places on a cluster."""
    settings = _node_settings(config, {"redis.url": redis, "redis.secrets": secrets}, sets)
    connect.need("ray", extra="ray")
    from soulsai.launch.ray_fleet import Fleet, connected

    with process.StopSignal() as stop, connected(address):
        Fleet(settings, clients, environment=env, cpus=cpus).run(stop)
    raise typer.Exit(stop.exit_code)


def _node_settings(
    config: Path | None, named: Mapping[str, object], sets: Sequence[str] | None
) -> Config:
    """Return the settings of a node that runs by itself, and begin its log."""
    settings = load_settings(config, named, sets)
    connect.begin_log()
    return settings
