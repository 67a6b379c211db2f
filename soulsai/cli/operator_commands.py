"""The commands that operate a running training node."""

import sys
from collections.abc import Sequence
from pathlib import Path

import click

from soulsai import connect
from soulsai.cli.options import (
    client_argument,
    config_argument,
    config_option,
    json_option,
    print_json,
    redis_option,
    secrets_option,
    server_settings,
    set_option,
)
from soulsai.config import Config
from soulsai.errors import AccessDenied
from soulsai.types import Command, Pardon, Purge, Quicksave, Stop
from soulsai.wire.protocols import OperatorWire


@click.command()
@config_argument
@redis_option
@secrets_option
@click.option("--replay/--no-replay", default=True, help="Save the replay buffer, too.")
@set_option
@json_option
def quicksave(
    config: Path | None, redis: str, secrets: str, replay: bool, sets: Sequence[str], as_json: bool
) -> None:
    """Save a checkpoint now, under manual_save."""
    _command(server_settings(config, redis, secrets, sets), Quicksave(replay), as_json)


@click.command()
@config_argument
@redis_option
@secrets_option
@set_option
@json_option
def stop(config: Path | None, redis: str, secrets: str, sets: Sequence[str], as_json: bool) -> None:
    """End a run: save, dismiss the clients, stop."""
    _command(server_settings(config, redis, secrets, sets), Stop(), as_json)


@click.command()
@client_argument
@config_option
@redis_option
@secrets_option
@set_option
@json_option
def purge(
    name: str, config: Path | None, redis: str, secrets: str, sets: Sequence[str], as_json: bool
) -> None:
    """Forget a client's experience, and keep it out.

    Its steps are removed from the learner's memory and from the server; without a running training
    node, only from the server.
    """
    settings = server_settings(config, redis, secrets, sets)
    with connect.operator(settings) as wire:
        try:
            wire.forget(name)
        except AccessDenied:
            sys.stderr.write(
                f"soulsai: unread entries of {name} remain, because the server's user operator "
                "may not delete them; start the server with users.acl made by this version\n"
            )
        _send(wire, settings, Purge(name), as_json)


@click.command()
@client_argument
@config_option
@redis_option
@secrets_option
@set_option
@json_option
def pardon(
    name: str, config: Path | None, redis: str, secrets: str, sets: Sequence[str], as_json: bool
) -> None:
    """Admit a client again that is kept out."""
    _command(server_settings(config, redis, secrets, sets), Pardon(name), as_json)


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
        click.echo(answer.message)
    if not answer.done:
        raise connect.Refused(answer.message)
