"""The commands for secrets, and for who may take part."""

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from soulsai import connect
from soulsai.cli.operator_commands import Json, Sets, SettingsOption, Url, as_line, settings_of
from soulsai.config.schema import Config
from soulsai.wire.invite import to_line
from soulsai.wire.names import parse_version
from soulsai.wire.secrets import server_for, write_file

if TYPE_CHECKING:
    from soulsai.identity.users import Enrolment

app = typer.Typer(
    help="Passwords, users and certificates of a server.", no_args_is_help=True,
)  # fmt: skip

Name = Annotated[str, typer.Argument(help="Of the client: a-z, 0-9, _ and -.")]
Secrets = Annotated[str, typer.Option("--secrets", metavar="DIR", help="Holds admin.secret.")]


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
        as_line(made)
        return
    typer.echo(f"{made.folder}: made {', '.join(made.made) or 'nothing'}")
    if made.kept:
        typer.echo(f"kept {', '.join(made.kept)}")
    typer.echo(
        f"the server's users are in {secrets_folder.USERS}: give it as aclfile, never with "
        "requirepass; admin.secret and ca.key stay here, manifest.key with the training node"
    )


def enroll(
    name: Name,
    address: Annotated[
        str, typer.Option(metavar="URL", help="Where clients find the server, if not as usual.")
    ] = "",
    out: Annotated[
        Path | None, typer.Option(metavar="FILE", help="Write the invite there, not here.")
    ] = None,
    renew: Annotated[
        bool, typer.Option("--renew", help="Give a new password to one who is enrolled.")
    ] = False,
    config: SettingsOption = None,
    redis: Url = "",
    secrets: Secrets = "",
    sets: Sets = None,
    as_json: Json = False,
) -> None:
    """Let a client in: make its user on the running server, and print its invite, one line."""
    from soulsai.identity import users

    settings = settings_of(config, redis, secrets, sets)
    place = connect.place(settings)
    users.invite(place, settings.run.name, name, "", address)  # fails before anything is changed
    with _enrolment(settings) as enrolment:
        password = enrolment.enroll(name, renew=renew)
        lasting = enrolment.keep()
    line = to_line(users.invite(place, settings.run.name, name, password, address))
    if out is not None:
        write_file(out, f"{line}\n")
    if as_json:
        as_line({"client": name, "invite": str(out) if out else line, "lasting": lasting})
    else:
        typer.echo(f"{out}: written; give it to {name}" if out else line)
    _say_lasting(lasting)


def revoke(
    name: Annotated[str, typer.Argument(help="Of the client.")] = "",
    shared: Annotated[
        bool, typer.Option("--shared", help="Shut out all who have only the common secret.")
    ] = False,
    config: SettingsOption = None,
    redis: Url = "",
    secrets: Secrets = "",
    sets: Sets = None,
    as_json: Json = False,
) -> None:
    """Shut a client out at once: its user and its stream are removed, its connections end."""
    if bool(name) == shared:
        raise typer.BadParameter("name one client, or say --shared")
    settings = settings_of(config, redis, secrets, sets)
    with _enrolment(settings) as enrolment:
        enrolment.revoke(name)
        deleted = shared or enrolment.delete_stream(settings.run.name, name)
        lasting = enrolment.keep()
    if as_json:
        as_line({"client": name, "revoked": True, "lasting": lasting})
    else:
        typer.echo(f"{name or 'the common secret'}: revoked")
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
    """List who may take part, and who is connected."""
    with _enrolment(settings_of(config, redis, secrets, sets)) as enrolment:
        listed = enrolment.clients()
    if as_json:
        as_line(listed)
        return
    for one in listed:
        state = (
            f"{one.connections} connections, since {one.seconds} s, idle {one.idle} s"
            if one.connections
            else "not connected"
        )
        typer.echo(f"{one.client or '(the common secret)'}  {state}")
    if not listed:
        typer.echo("nobody is enrolled: soulsai enroll NAME")


@contextmanager
def _enrolment(settings: Config) -> Iterator["Enrolment"]:
    from soulsai.identity.users import Enrolment
    from soulsai.wire.redis.connection import RedisConnection

    redis = connect.place(settings)
    link = RedisConnection(server_for("admin", redis), "admin")
    try:
        yield Enrolment(link, Path(redis.secrets))
    finally:
        link.close()


def _say_lasting(lasting: bool) -> None:
    if not lasting:
        sys.stderr.write(
            "soulsai: this is forgotten when the server restarts: it has no file of users "
            "(aclfile); see docs/security.md\n"
        )
