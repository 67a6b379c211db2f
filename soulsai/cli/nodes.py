"""The commands that start one role each; a role's modules are imported when it starts."""

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import click
from click.exceptions import Exit

from soulsai import connect, process
from soulsai.cli.options import (
    config_argument,
    env_option,
    insecure_option,
    invite_option,
    load_settings,
    redis_option,
    saves_option,
    secret_file_option,
    secrets_option,
    set_option,
)
from soulsai.config import Config
from soulsai.errors import ConfigError

if TYPE_CHECKING:
    from soulsai.client.human_input import Device
    from soulsai.client.session import TakeOver

AUTO = "auto"  # for containers, which start again and again but begin a run only once


@click.command("training-node")
@config_argument
@redis_option
@secrets_option
@saves_option()
@click.option(
    "--resume",
    metavar="RUN|latest|auto",
    default="",
    help="Continue this run; auto: the newest unfinished one.",
)
@set_option
def training_node(
    config: Path | None, redis: str, secrets: str, saves: str, resume: str, sets: Sequence[str]
) -> None:
    """Learn from the clients' experience; publish weights."""
    if "TORCHELASTIC_RUN_ID" in os.environ:
        raise ConfigError("torchrun: a training node is one process; start it without torchrun")
    process.let_threads_sleep(os.environ)
    named = {"redis.url": redis, "redis.secrets": secrets, "run.saves": saves}
    with process.StopSignal(process.parent()) as stop:
        settings = connect.with_own_server(_node_settings(config, named, sets))
        connect.need_server_extra()
        from soulsai import runs
        from soulsai.client.side_by_side import probed
        from soulsai.training_node.node import serve

        with connect.training(settings) as wire:
            if resume == AUTO:
                resume = runs.unfinished(settings)
            settings, spec = probed(settings, runs.count(Path(settings.run.saves), resume))
            serve(settings, spec, wire, resume=resume, stopped=stop)
    raise Exit(stop.exit_code)


@click.command("telemetry-node")
@config_argument
@redis_option
@secrets_option
@set_option
def telemetry_node(config: Path | None, redis: str, secrets: str, sets: Sequence[str]) -> None:
    """Record episodes, serve the page, pick the best model."""
    with process.StopSignal(process.parent()) as stop:
        named = {"redis.url": redis, "redis.secrets": secrets}
        settings = connect.with_own_server(_node_settings(config, named, sets))
        connect.need_server_extra()
        from soulsai.identity.users import page_enroller
        from soulsai.telemetry_node.node import serve

        with connect.telemetry(settings) as wire:
            serve(settings, wire, stopped=stop, enroller=page_enroller(settings))
    raise Exit(stop.exit_code)


@click.command("evaluator")
@config_argument
@click.option("--run", default="", help="Run id or folder; empty: the run that saves checkpoints.")
@saves_option()
@set_option
def evaluator(config: Path | None, run: str, saves: str, sets: Sequence[str]) -> None:
    """Play a run's checkpoints, find the best, record it."""
    with process.StopSignal(process.parent()) as stop:
        settings = _node_settings(config, {"run.saves": saves}, sets)
        process.yield_cores()
        from soulsai.evaluator.node import follow

        follow(settings, run, stopped=stop)
    raise Exit(stop.exit_code)


@click.command("client")
@config_argument
@redis_option
@env_option
@click.option("--name", default="", help="Name of this client: a-z, 0-9, _ and -.")
@secrets_option
@secret_file_option
@invite_option
@insecure_option
@click.option("--count", type=click.IntRange(1), help="Environments side by side.")
@click.option("--seed", type=click.IntRange(0), help="Seed of the environment.")
@click.option(
    "--step-delay",
    type=click.FloatRange(0),
    default=0.0,
    show_default=True,
    help="Seconds to wait per step.",
)
@click.option(
    "--take-over",
    type=click.Choice(["keyboard", "gamepad"]),
    help="Let a person steer the first environment by this device.",
)
@click.option("--keys", default="", help="With --take-over: keys, as for record.")
@click.option("--video", metavar="DIR", default="", help="Record greedy episodes; keep the newest.")
@set_option
def client(
    config: Path | None,
    redis: str,
    env: str,
    name: str,
    secrets: str,
    secret_file: Path | None,
    invite: str,
    insecure: bool,
    count: int | None,
    seed: int | None,
    step_delay: float,
    take_over: "Device | None",
    keys: str,
    video: str,
    sets: Sequence[str],
) -> None:
    """Play for a run on a server; needs only an invite."""
    named = {
        "redis.url": redis,
        "redis.secrets": secrets,
        "client.name": name,
        "environment.count": count,
        "client.video": video,
        "redis.insecure": "true" if insecure else "",
    }
    with process.StopSignal(process.parent(), at_once=True) as stop:
        invited = connect.invitation(invite)
        if invited is not None and name not in ("", invited.client):
            raise ConfigError(f"--name: the invite is that of {invited.client!r}; leave --name out")
        settings = connect.invited(_node_settings(config, named, sets), invited)
        settings = connect.with_own_server(settings)
        _check_video(settings)
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
                take_over=_device(take_over, keys),
                spool=spool,
                stopped=stop,
            )
    raise Exit(stop.exit_code)


def _check_video(settings: Config) -> None:
    """Raise ``VideoFault`` if videos are wanted and cannot be made here."""
    if settings.client.video:
        from soulsai.client.video import check_codec

        check_codec(Path(settings.client.video) / "episode.webm")


def _device(device: "Device | None", keys: str) -> "TakeOver | None":
    """Return the function that opens a person's device, if one is named."""
    if device is None:
        return None
    from soulsai.client.human_input import open_input

    return lambda action, environment: open_input(
        device, action, keys, "soulsai: take over", environment
    )


@click.command("ray-clients")
@config_argument
@redis_option
@click.option(
    "--clients", type=click.IntRange(1), default=4, show_default=True, help="Number of clients."
)
@env_option
@click.option(
    "--address", default="", help="Address of a Ray cluster; empty: start one on this machine."
)
@click.option(
    "--cpus",
    type=click.FloatRange(0),
    default=1.0,
    show_default=True,
    help="CPU cores for one client.",
)
@secrets_option
@set_option
def ray_clients(
    config: Path | None,
    redis: str,
    clients: int,
    env: str,
    address: str,
    cpus: float,
    secrets: str,
    sets: Sequence[str],
) -> None:
    """Run clients that Ray places on a cluster."""
    settings = _node_settings(config, {"redis.url": redis, "redis.secrets": secrets}, sets)
    connect.need("ray", extra="ray")
    from soulsai.launch.ray_fleet import Fleet, connected

    with process.StopSignal() as stop, connected(address):
        Fleet(settings, clients, environment=env, cpus=cpus).run(stop)
    raise Exit(stop.exit_code)


def _node_settings(
    config: Path | None, named: Mapping[str, object], sets: Sequence[str] | None
) -> Config:
    """Return the settings of a node that runs by itself, and begin its log."""
    settings = load_settings(config, named, sets)
    connect.begin_log()
    return settings
