"""``soulsai bridge``: a client for a game that has only a socket."""

from collections.abc import Sequence
from contextlib import closing
from pathlib import Path

import click
import msgspec
from click.exceptions import Exit

from soulsai import connect, process
from soulsai.cli.options import (
    config_argument,
    insecure_option,
    invite_option,
    load_settings,
    redis_option,
    secrets_option,
    set_option,
)
from soulsai.errors import ConfigError


@click.command()
@config_argument
@invite_option
@click.option(
    "--env",
    required=True,
    metavar="ID",
    help="The run's environment that the game plays; others are refused.",
)
@click.option(
    "--port",
    type=click.IntRange(0, 65535),
    default=6480,
    show_default=True,
    help="Port on this machine for the game; 0: any.",
)
@click.option(
    "--origin",
    "origins",
    metavar="URL",
    multiple=True,
    help="A web page's origin that may play, besides those of this machine; repeatable.",
)
@redis_option
@click.option("--name", default="", help="Name of this client: a-z, 0-9, _ and -.")
@secrets_option
@insecure_option
@set_option
def bridge(
    config: Path | None,
    invite: str,
    env: str,
    port: int,
    origins: Sequence[str],
    redis: str,
    name: str,
    secrets: str,
    insecure: bool,
    sets: Sequence[str],
) -> None:
    """Play with a game that connects to a port of this machine."""
    named = {
        "redis.url": redis,
        "redis.secrets": secrets,
        "client.name": name,
        "redis.insecure": "true" if insecure else "",
    }
    with process.StopSignal(process.parent(), at_once=True) as stop:
        invited = connect.invitation(invite)
        settings = connect.invited(load_settings(config, named, sets), invited)
        connect.begin_log()
        settings = connect.with_own_server(settings)
        spool = connect.spool_folder(settings)
        settings = connect.with_name(settings)
        own = msgspec.structs.replace(settings.client, environments=(env,))
        settings = msgspec.structs.replace(settings, client=own)
        from soulsai.client.bridge.door import Door
        from soulsai.client.bridge.environment import BridgedEnvironment
        from soulsai.client.session import serve

        try:
            door = Door(port, tuple(origins))
        except OSError as error:
            raise ConfigError(f"--port: {port} cannot be used: {error.strerror}") from None
        click.echo(f"bridge 127.0.0.1:{door.port}")
        with closing(door), connect.client(settings, None, invited) as wire:
            serve(
                settings,
                wire,
                spool=spool,
                stopped=stop,
                playable=lambda offer, spec: BridgedEnvironment(door, offer, spec, stop),
            )
    raise Exit(stop.exit_code)
