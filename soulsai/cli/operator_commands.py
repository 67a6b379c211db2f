"""The commands that operate a running training node."""

import sys
from typing import Annotated

import typer

from soulsai import connect
from soulsai.cli.options import (
    ClientName,
    Json,
    Secrets,
    Sets,
    Settings,
    SettingsOption,
    Url,
    print_json,
    server_settings,
)
from soulsai.config import Config
from soulsai.errors import AccessDenied
from soulsai.types import Command, Pardon, Purge, Quicksave, Stop
from soulsai.wire.protocols import OperatorWire


def quicksave(
    config: Settings = None,
    redis: Url = "",
    secrets: Secrets = "",
    replay: Annotated[bool, typer.Option(help="Save the replay buffer, too.")] = True,
    sets: Sets = None,
    as_json: Json = False,
) -> None:
    """Save a checkpoint now, under manual_save."""
    _command(server_settings(config, redis, secrets, sets), Quicksave(replay), as_json)


def stop(
    config: Settings = None,
    redis: Url = "",
    secrets: Secrets = "",
    sets: Sets = None,
    as_json: Json = False,
) -> None:
    """End a run: save, dismiss the clients, stop."""
    _command(server_settings(config, redis, secrets, sets), Stop(), as_json)


def purge(
    client: ClientName,
    config: SettingsOption = None,
    redis: Url = "",
    secrets: Secrets = "",
    sets: Sets = None,
    as_json: Json = False,
) -> None:
    """Forget a client's experience, and keep it out.

    Its steps are removed from the learner's memory and from the server; without a running training
    node, only from the server.
    """
    settings = server_settings(config, redis, secrets, sets)
    with connect.operator(settings) as wire:
        try:
            wire.forget(client)
        except AccessDenied:
            sys.stderr.write(
                f"soulsai: unread entries of {client} remain, because the server's user operator "
                "may not delete them; start the server with users.acl made by this version\n"
            )
        _send(wire, settings, Purge(client), as_json)


def pardon(
    client: ClientName,
    config: SettingsOption = None,
    redis: Url = "",
    secrets: Secrets = "",
    sets: Sets = None,
    as_json: Json = False,
) -> None:
    """Admit a client again that is kept out."""
    _command(server_settings(config, redis, secrets, sets), Pardon(client), as_json)


def _command(settings: Config, command: Command, as_json: bool) -> None:
    with connect.operator(settings) as wire:
        _send(wire, settings, command, as_json)


def _send(wire: OperatorWire, settings: Config, command: Command, as_json: bool) -> None:
    now = wire.status()
    if now is None or now.phase in ("stopping", "ended"):
        raise connect.no_run(settings)
    answer = wire.command(command, timeout=60.0)
    if as_json:
        print_json(answer)
    elif answer.done:
        typer.echo(answer.message)
    if not answer.done:
        raise connect.Refused(answer.message)
