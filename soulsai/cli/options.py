"""The options that several commands share, and the settings that result from them."""

import os
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar

import click
import msgspec

from soulsai.config import Config, load
from soulsai.config.layers import unknown_variables

Command = TypeVar("Command", bound=Callable[..., Any])

_PATH = click.Path(path_type=Path)
_CONFIG = "File or folder of settings. Default: config."

config_argument = click.argument(
    "config", metavar="[CONFIG]", required=False, type=_PATH, help=_CONFIG
)
config_option = click.option("--config", type=_PATH, help=_CONFIG)
set_option = click.option(
    "--set",
    "sets",
    metavar="SECTION.KEY=VALUE",
    multiple=True,
    help="Override a setting; repeatable.",
)
redis_option = click.option("--redis", metavar="URL", default="", help="Server: redis://host:6379.")
secrets_option = click.option(
    "--secrets", metavar="DIR", default="", help="Folder that holds redis.secret."
)
secret_file_option = click.option(
    "--secret-file", type=_PATH, help="File with the server's password."
)
invite_option = click.option(
    "--invite", metavar="FILE|-", default="", help="File of the invite; - to type it in."
)
insecure_option = click.option(
    "--insecure", is_flag=True, help="Connect without TLS, on a network that you trust."
)
client_argument = click.argument("name", metavar="NAME", help="Name of the client.")
env_option = click.option(
    "--env", default="", help="Play this instead of the server's environment."
)
json_option = click.option(
    "--json", "as_json", is_flag=True, help="Answer with JSON on the last line."
)


def saves_option(default: str = "") -> Callable[[Command], Command]:
    """Return the option ``--saves`` with a default; without one, the settings name the folder."""
    return click.option(
        "--saves",
        metavar="DIR",
        default=default,
        show_default=bool(default),
        help="Folder of the runs.",
    )


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
            f"soulsai: nothing reads {', '.join(unknown)}; a setting is given as "
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
