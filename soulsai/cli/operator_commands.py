"""The commands that ask a running training node for something, and the options of all commands."""

import os
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated

import msgspec
import typer

from soulsai import connect
from soulsai.config import Config, load
from soulsai.config.layers import unknown_variables
from soulsai.errors import AccessDenied
from soulsai.types import Command, Pardon, Purge, Quicksave, Stop
from soulsai.wire.protocols import OperatorWire

Settings = Annotated[
    Path | None,
    typer.Argument(metavar="[CONFIG]", help="File or folder of settings. Default: config."),
]
SettingsOption = Annotated[
    Path | None, typer.Option("--config", help="File or folder of settings. Default: config.")
]
Sets = Annotated[
    list[str] | None,
    typer.Option("--set", metavar="SECTION.KEY=VALUE", help="Override a setting; repeatable."),
]
Url = Annotated[str, typer.Option("--redis", metavar="URL", help="As redis://host:6379.")]
Secrets = Annotated[str, typer.Option("--secrets", metavar="DIR", help="Holds redis.secret.")]
ClientName = Annotated[str, typer.Argument(metavar="NAME", help="Of the client.")]
Json = Annotated[bool, typer.Option("--json", help="Answer with JSON on the last line.")]


def quicksave(
    config: Settings = None,
    redis: Url = "",
    secrets: Secrets = "",
    replay: Annotated[bool, typer.Option(help="Save the replay buffer, too.")] = True,
    sets: Sets = None,
    as_json: Json = False,
) -> None:
    """Save a running training node now, under manual_save."""
    _command(settings_of(config, redis, secrets, sets), Quicksave(replay), as_json)


def stop(
    config: Settings = None,
    redis: Url = "",
    secrets: Secrets = "",
    sets: Sets = None,
    as_json: Json = False,
) -> None:
    """End a run: the training node saves, tells the clients, and stops."""
    _command(settings_of(config, redis, secrets, sets), Stop(), as_json)


def purge(
    client: ClientName,
    config: SettingsOption = None,
    redis: Url = "",
    secrets: Secrets = "",
    sets: Sets = None,
    as_json: Json = False,
) -> None:
    """Remove one client's experience from the learner's memory and the server; keep it out.

    Without a running training node, only the entries on the server are removed.
    """
    settings = settings_of(config, redis, secrets, sets)
    with connect.operator(settings) as wire:
        try:
            wire.forget(client)
        except AccessDenied:
            sys.stderr.write(
                f"soulsai: unread entries of {client} remain, because the server's user operator "
                "may not delete them; start the server with users.acl made by this version\n"
            )
        _ask(wire, settings, Purge(client), as_json)


def pardon(
    client: ClientName,
    config: SettingsOption = None,
    redis: Url = "",
    secrets: Secrets = "",
    sets: Sets = None,
    as_json: Json = False,
) -> None:
    """Let a client in again that is kept out."""
    _command(settings_of(config, redis, secrets, sets), Pardon(client), as_json)


def _command(settings: Config, command: Command, as_json: bool) -> None:
    with connect.operator(settings) as wire:
        _ask(wire, settings, command, as_json)


def _ask(wire: OperatorWire, settings: Config, command: Command, as_json: bool) -> None:
    now = wire.status()
    if now is None or now.phase in ("stopping", "ended"):
        raise connect.nobody(settings)
    answer = wire.command(command, timeout=60.0)
    if as_json:
        as_line(answer)
    elif answer.done:
        typer.echo(answer.message)
    if not answer.done:
        raise connect.Refused(answer.message)


def settings_of(
    config: Path | None, redis: str, secrets: str, sets: Sequence[str] | None
) -> Config:
    """Return the settings of a command that only needs to find the server."""
    return load_settings(config, {"redis.url": redis, "redis.secrets": secrets}, sets)


def load_settings(
    config: Path | None, named: Mapping[str, object], sets: Sequence[str] | None
) -> Config:
    """Return the settings of a command, and warn of variables that nothing reads."""
    if unknown := unknown_variables(os.environ):
        sys.stderr.write(
            f"soulsai: nothing reads the variables {', '.join(unknown)}; a setting is given as "
            "SOULSAI__SECTION__KEY, with two underscores each\n"
        )
    return load(config, os.environ, overrides(named, sets))


def overrides(named: Mapping[str, object], sets: Sequence[str] | None) -> list[str]:
    """Return options as overrides of settings, those with ``--set`` last."""
    given = [f"{path}={value}" for path, value in named.items() if value not in (None, "")]
    return [*given, *(sets or [])]


def as_line(value: object) -> None:
    """Print a value as one line of JSON."""
    sys.stdout.write(msgspec.json.encode(value).decode() + "\n")
