"""The commands for secrets, and for the access of clients."""

import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING

import click

from soulsai import connect
from soulsai.cli.options import (
    client_argument,
    config_option,
    json_option,
    print_json,
    redis_option,
    server_settings,
    set_option,
)
from soulsai.config.schema import Config
from soulsai.wire.invite import to_line
from soulsai.wire.names import parse_version
from soulsai.wire.redis.server_settings import FILE
from soulsai.wire.secrets import server_for, write_file

if TYPE_CHECKING:
    from soulsai.identity.users import Enrolment

admin_secrets_option = click.option(
    "--secrets", metavar="DIR", default="", help="Folder that holds admin.secret."
)


@click.group("secrets")
def secrets_group() -> None:
    """Make the passwords, users and certificates of a server."""


@secrets_group.command()
@click.argument(
    "folder", metavar="[DIR]", default=Path("config/secrets"), type=click.Path(path_type=Path)
)
@click.option("--host", multiple=True, help="Server's name; repeatable.")
@click.option(
    "--port", type=click.IntRange(1, max=65535), help="Server's port: 6380 with TLS, else 6379."
)
@click.option(
    "--for-containers/--no-for-containers", default=False, help="Let containers read them."
)
@click.option(
    "--enrolled-only/--no-enrolled-only", default=False, help="Make no shared redis.secret."
)
@click.option("--redis-conf/--no-redis-conf", default=True, help="Write the server's settings.")
@click.option("--server-version", default="7.0", show_default=True, help="Oldest Redis to support.")
@json_option
def init(
    folder: Path,
    host: Sequence[str],
    port: int | None,
    for_containers: bool,
    enrolled_only: bool,
    redis_conf: bool,
    server_version: str,
    as_json: bool,
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
    click.echo(f"{made.folder}: made {', '.join(made.made) or 'nothing'}")
    if made.kept:
        click.echo(f"kept {', '.join(made.kept)}")
    if made.former_address:
        click.echo(f"New invites have the new address; earlier ones have {made.former_address}.")
    if redis_conf:
        click.echo(f"Next: redis-server {made.folder}/{FILE}")
    click.echo(
        "Keep admin.secret and ca.key on this machine, and manifest.key with the training node."
    )


@click.command()
@client_argument
@click.option("--address", default="", help="Server's address for clients, as a URL.")
@click.option("--out", type=click.Path(path_type=Path), help="File for the invite.")
@click.option("--renew", is_flag=True, help="Replace its password.")
@click.option("--runs", default="", help="Runs it may join, like lab-*; else this one.")
@click.option(
    "--role",
    type=click.Choice(["player", "demonstrator"]),
    default="player",
    show_default=True,
    help="demonstrator: its whole play is a demonstration.",
)
@config_option
@redis_option
@admin_secrets_option
@set_option
@json_option
def enroll(
    name: str,
    address: str,
    out: Path | None,
    renew: bool,
    runs: str,
    role: str,
    config: Path | None,
    redis: str,
    secrets: str,
    sets: Sequence[str],
    as_json: bool,
) -> None:
    """Make a user for a client; print its invite, one line."""
    from soulsai.identity import folder as secrets_folder
    from soulsai.identity import users

    settings = server_settings(config, redis, secrets, sets)
    place = connect.find_server(settings)
    users.invite(place, settings.run.name, name, "", address)  # fails before anything is changed
    with _enrolment(settings) as enrolment:
        password = enrolment.enroll(name, run=runs or settings.run.name, renew=renew)
        lasting = enrolment.keep()
    demonstrates = role == "demonstrator"
    secrets_folder.set_demonstrator(Path(settings.redis.secrets), name, demonstrates=demonstrates)
    line = to_line(users.invite(place, settings.run.name, name, password, address))
    if out is not None:
        write_file(out, f"{line}\n")
    if as_json:
        print_json({"client": name, "invite": str(out) if out else line, "lasting": lasting})
    else:
        click.echo(f"{out}: written; give it to {name}" if out else line)
    _say_lasting(lasting)


@click.command()
@click.argument("name", default="", help="Name of the client.")
@click.option("--shared", is_flag=True, help="Revoke the shared secret.")
@click.option("--foreign", is_flag=True, help="Delete streams of no run.")
@config_option
@redis_option
@admin_secrets_option
@set_option
@json_option
def revoke(
    name: str,
    shared: bool,
    foreign: bool,
    config: Path | None,
    redis: str,
    secrets: str,
    sets: Sequence[str],
    as_json: bool,
) -> None:
    """Remove a client's user, and end its connections."""
    from soulsai.identity import folder as secrets_folder

    if bool(name) + shared + foreign != 1:
        raise click.BadParameter("name one client, or give --shared or --foreign")
    settings = server_settings(config, redis, secrets, sets)
    if foreign:
        with _enrolment(settings) as enrolment:
            removed = enrolment.remove_foreign_streams()
        if as_json:
            print_json({"removed": removed})
        else:
            click.echo(f"removed {', '.join(removed) or 'nothing'}")
        return
    with _enrolment(settings) as enrolment:
        enrolment.revoke(name)
        deleted = shared or enrolment.delete_streams(name)
        if name:
            secrets_folder.set_demonstrator(Path(settings.redis.secrets), name, demonstrates=False)
        lasting = enrolment.keep()
    if as_json:
        print_json({"client": name, "revoked": True, "lasting": lasting})
    else:
        click.echo(f"{name or 'the shared secret'}: revoked")
    if not deleted:
        sys.stderr.write(
            f"soulsai: the entries that {name} has sent remain, because the server's user admin "
            "may not delete them; start the server with users.acl made by this version\n"
        )
    _say_lasting(lasting)


@click.command()
@config_option
@redis_option
@admin_secrets_option
@set_option
@json_option
def clients(
    config: Path | None, redis: str, secrets: str, sets: Sequence[str], as_json: bool
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
        click.echo(f"{one.client or '(the shared secret)'}  {state}")
    if not listed:
        click.echo("no client is enrolled; make one with: soulsai enroll NAME")


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
