"""The options that several commands share, and the settings that result from them."""

import os
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated

import msgspec
import typer

from soulsai.config import Config, load
from soulsai.config.layers import unknown_variables

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
Url = Annotated[str, typer.Option("--redis", metavar="URL", help="Server: redis://host:6379.")]
Secrets = Annotated[
    str, typer.Option("--secrets", metavar="DIR", help="Folder that holds redis.secret.")
]
SecretFile = Annotated[Path | None, typer.Option(help="File with the server's password.")]
InviteFile = Annotated[
    str, typer.Option("--invite", metavar="FILE|-", help="File of the invite; - to type it in.")
]
Insecure = Annotated[
    bool, typer.Option("--insecure", help="Connect without TLS, on a network that you trust.")
]
ClientName = Annotated[str, typer.Argument(metavar="NAME", help="Name of the client.")]
Environment = Annotated[
    str, typer.Option("--env", help="Play this instead of the server's environment.")
]
Saves = Annotated[str, typer.Option(metavar="DIR", help="Folder of the runs.")]
Json = Annotated[bool, typer.Option("--json", help="Answer with JSON on the last line.")]


def load_settings(
    config: Path | None, named: Mapping[str, object], sets: Sequence[str] | None
) -> Config:
    """Return the settings of a command, and warn of variables that nothing reads.

    Args:
        config: A file or folder of settings; ``None``: the folder ``config``.
        named: Options of the command by the settings that they override.
        sets: The words of ``--set``.
    """
    if unknown := unknown_variables(os.environ):
        sys.stderr.write(
            f"soulsai: nothing reads the variables {', '.join(unknown)}; a setting is given as "
            "SOULSAI__SECTION__KEY, with two underscores each\n"
        )
    return load(config, os.environ, overrides(named, sets))


def server_settings(
    config: Path | None, redis: str, secrets: str, sets: Sequence[str] | None
) -> Config:
    """Return the settings of a command that only needs to find the server.

    Args:
        config: A file or folder of settings; ``None``: the folder ``config``.
        redis: The value of ``--redis``.
        secrets: The value of ``--secrets``.
        sets: The words of ``--set``.
    """
    return load_settings(config, {"redis.url": redis, "redis.secrets": secrets}, sets)


def overrides(named: Mapping[str, object], sets: Sequence[str] | None) -> list[str]:
    """Return options as overrides of settings, those of ``--set`` last and thus strongest."""
    given = [f"{path}={value}" for path, value in named.items() if value not in (None, "")]
    return [*given, *(sets or [])]


def print_json(value: object) -> None:
    """Print a value as one line of JSON."""
    sys.stdout.write(msgspec.json.encode(value).decode() + "\n")
    sys.stdout.flush()
