"""The commands for secrets, and for the access of clients."""

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from soulsai import connect
from soulsai.cli.options import (
    ClientName,
    Json,
    Sets,
    SettingsOption,
    Url,
    print_json,
    server_settings,
)
from soulsai.config.schema import Config
from soulsai.wire.invite import to_line
from soulsai.wire.names import parse_version
from soulsai.wire.redis.server_settings import FILE
from soulsai.wire.secrets import server_for, write_file

if TYPE_CHECKING:
    from soulsai.identity.users import Enrolment

app = typer.Typer(
    help="Passwords, users and certificates of a server.", no_args_is_help=True,
)  # fmt: skip

Secrets = Annotated[
    str, typer.Option("--secrets", metavar="DIR", help="Folder that holds admin.secret.")
]


@app.callback()
def secrets() -> None:
    """Make the passwords, users and certificates of a server."""


@app.command()
def init(
    folder: Annotated[Path, typer.Argument(metavar="[DIR]")] = Path("config/secrets"),
    host: Annotated[list[str] | None, typer.Option(help="Server's name; repeatable.")] = None,
    port: Annotated[
        int | None, typer.Option(min=1, max=65535, help="Server's port: 6380 with TLS, else 6379.")
    ] = None,
    for_containers: Annotated[bool, typer.Option(help="Let containers read them.")] = False,
    enrolled_only: Annotated[bool, typer.Option(help="Make no shared redis.secret.")] = False,
    redis_conf: Annotated[bool, typer.Option(help="Write the server's settings.")] = True,
    server_version: Annotated[str, typer.Option(help="Oldest Redis to support.")] = "7.0",
    as_json: Json = False,
) -> None:
    """Make all missing secrets of a server in a folder."""
    # Imported here, because it loads the library of certificates, which clients do not need.
    from soulsai.identity import folder as secrets_folder

    made = secrets_folder.init(
        folder,
        hosts=host or [],
        port=port,
        now=datetime.now(UTC),
        version=parse_version(server_version),
        for_containers=for_containers,
        enrolled_only=enrolled_only,
        with_server=redis_conf,
    )
    if as_json:
        print_json(made)
        return
    typer.echo(f"{made.folder}: made {', '.join(made.made) or 'nothing'}")
    if made.kept:
        typer.echo(f"kept {', '.join(made.kept)}")
    if redis_conf:
        typer.echo(f"Next: redis-server {made.folder}/{FILE}")
    typer.echo(
        "Keep admin.secret and ca.key on this machine, and manifest.key with the training node."
    )


def enroll(
    name: ClientName,
    address: Annotated[str, typer.Option(help="Server's address for clients, as a URL.")] = "",
    out: Annotated[Path | None, typer.Option(help="File for the invite.")] = None,
    renew: Annotated[bool, typer.Option("--renew", help="Replace its password.")] = False,
    runs: Annotated[str, typer.Option(help="Runs it may join, like lab-*; else this one.")] = "",
    config: SettingsOption = None,
    redis: Url = "",
    secrets: Secrets = "",
    sets: Sets = None,
    as_json: Json = False,
) -> None:
    """Make a user for a client; print its invite, one line."""
    from soulsai.identity import users

    settings = server_settings(config, redis, secrets, sets)
    place = connect.find_server(settings)
    users.invite(place, settings.run.name, name, "", address)  # fails before anything is changed
    with _enrolment(settings) as enrolment:
        password = enrolment.enroll(name, run=runs or settings.run.name, renew=renew)
        lasting = enrolment.keep()
    line = to_line(users.invite(place, settings.run.name, name, password, address))
    if out is not None:
        write_file(out, f"{line}\n")
    if as_json:
        print_json({"client": name, "invite": str(out) if out else line, "lasting": lasting})
    else:
        typer.echo(f"{out}: written; give it to {name}" if out else line)
    _say_lasting(lasting)


def revoke(
    name: Annotated[str, typer.Argument(help="Name of the client.")] = "",
    shared: Annotated[bool, typer.Option("--shared", help="Revoke the shared secret.")] = False,
    foreign: Annotated[bool, typer.Option("--foreign", help="Delete streams of no run.")] = False,
    config: SettingsOption = None,
    redis: Url = "",
    secrets: Secrets = "",
    sets: Sets = None,
    as_json: Json = False,
) -> None:
    """Remove a client's user, and end its connections."""
    if bool(name) + shared + foreign != 1:
        raise typer.BadParameter("name one client, or give --shared or --foreign")
    settings = server_settings(config, redis, secrets, sets)
    if foreign:
        with _enrolment(settings) as enrolment:
            removed = enrolment.remove_foreign_streams()
        if as_json:
            print_json({"removed": removed})
        else:
            typer.echo(f"removed {', '.join(removed) or 'nothing'}")
        return
    with _enrolment(settings) as enrolment:
        enrolment.revoke(name)
        deleted = shared or enrolment.delete_streams(name)
        lasting = enrolment.keep()
    if as_json:
        print_json({"client": name, "revoked": True, "lasting": lasting})
    else:
        typer.echo(f"{name or 'the shared secret'}: revoked")
    if not deleted:
        sys.stderr.write(
            f"soulsai: the entries that {name} has sent remain, because the server's user admin "
            "may not delete them; start the server with users.acl made by this version\n"
        )
    _say_lasting(lasting)


def clients(
    config: SettingsOption = None,
    redis: Url = "",
    secrets: Secrets = "",
    sets: Sets = None,
    as_json: Json = False,
) -> None:
    """List enrolled clients and their connections."""
    with _enrolment(server_settings(config, redis, secrets, sets)) as enrolment:
        listed = enrolment.clients()
    if as_json:
        print_json(listed)
        return
    for one in listed:
        state = (
            f"{one.connections} connections, since {one.seconds} s, idle {one.idle} s"
            if one.connections
            else "not connected"
        )
        typer.echo(f"{one.client or '(the shared secret)'}  {state}")
    if not listed:
        typer.echo("no client is enrolled; make one with: soulsai enroll NAME")


@contextmanager
def _enrolment(settings: Config) -> Iterator["Enrolment"]:
    from soulsai.identity.users import Enrolment
    from soulsai.wire.redis.connection import RedisConnection

    redis = connect.find_server(settings)
    link = RedisConnection(server_for("admin", redis), "admin")
    try:
        yield Enrolment(link, Path(redis.secrets))
    finally:
        link.close()


def _say_lasting(lasting: bool) -> None:
    if not lasting:
        sys.stderr.write(
            "soulsai: a restart of the server forgets this, because it has no file of users "
            "(aclfile); see docs/security.md\n"
        )
