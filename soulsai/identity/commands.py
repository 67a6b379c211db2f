"""The commands for secrets."""

import sys
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated

import msgspec
import typer

from soulsai.wire.names import parse_version

app = typer.Typer(
    help="Passwords, users and certificates of a server.", no_args_is_help=True,
)  # fmt: skip

Json = Annotated[bool, typer.Option("--json", help="Answer with JSON on the last line.")]


@app.callback()
def secrets() -> None:
    """Make the passwords, users and certificates of a server."""


@app.command()
def init(
    folder: Annotated[Path, typer.Argument(metavar="[DIR]")] = Path("config/secrets"),
    host: Annotated[
        list[str] | None,
        typer.Option(help="Make certificates for this name of the server; repeatable."),
    ] = None,
    port: Annotated[int, typer.Option(min=1, max=65535, help="That clients connect to.")] = 6379,
    for_containers: Annotated[
        bool, typer.Option(help="Let containers that run as anybody read what they are given.")
    ] = False,
    enrolled_only: Annotated[
        bool, typer.Option(help="Make no common redis.secret: clients are enrolled one by one.")
    ] = False,
    server_version: Annotated[
        str, typer.Option(help="Oldest Redis that these users must be understood by.")
    ] = "7.0",
    as_json: Json = False,
) -> None:
    """Make what is missing in a folder of secrets; what is there is kept."""
    # Not for clients, who have these commands, too: it loads what makes certificates.
    from soulsai.identity import folder as secrets_folder

    made = secrets_folder.init(
        folder,
        hosts=host or [],
        port=port,
        now=datetime.now(UTC),
        version=parse_version(server_version),
        for_containers=for_containers,
        enrolled_only=enrolled_only,
    )
    if as_json:
        sys.stdout.write(msgspec.json.encode(made).decode() + "\n")
        return
    typer.echo(f"{made.folder}: made {', '.join(made.made) or 'nothing'}")
    if made.kept:
        typer.echo(f"kept {', '.join(made.kept)}")
    typer.echo(
        f"the server's users are in {secrets_folder.USERS}: give it as aclfile, never with "
        "requirepass; admin.secret and ca.key stay here, manifest.key with the training node"
    )
