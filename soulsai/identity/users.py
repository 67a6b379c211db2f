"""Enrolled clients: each has its own user on the server, added and removed while it runs."""

import secrets
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, TypeVar

from msgspec import Struct

from soulsai import connect
from soulsai.config.schema import Config, RedisSettings, is_loopback
from soulsai.errors import AccessDenied, ConfigError, SoulsAIError, WireError
from soulsai.identity import folder as secrets_folder
from soulsai.wire.invite import Invite, to_line
from soulsai.wire.names import (
    CLIENT_USER,
    Version,
    checked,
    is_name,
    parse_version,
    user_line,
    user_name,
    user_rules,
)
from soulsai.wire.redis.connection import RedisConnection, scan
from soulsai.wire.redis.url import Tcp, parse
from soulsai.wire.secrets import CA, PUBLIC_KEY, file_of, read_secret, server_for

T = TypeVar("T")
SHARED = "client"  # the user of all clients with the common redis.secret


class NotEnrolled(SoulsAIError):
    """No client of that name is enrolled, or one is enrolled already."""


class Enrolled(Struct, frozen=True):
    """One client that may take part, with its open connections."""

    client: str  # empty: all clients that share the common secret
    connections: int
    seconds: int | None = None  # since the oldest connection was made
    idle: int | None = None  # since a connection was last used, in seconds


class Enrolment:
    """Changes the users of a running server and stores the changes for its next start."""

    def __init__(self, connection: RedisConnection, folder: Path) -> None:
        """Use a connection of the role ``admin`` and the server's folder of secrets, if present."""
        self._connection = connection
        self._users = folder / secrets_folder.USERS

    def enroll(self, client: str, *, run: str, renew: bool = False) -> str:
        """Create a user for a client and return its password, which is stored nowhere.

        Args:
            client: Name of the client.
            run: Name of the run it may take part in, or a pattern with ``*``.
            renew: Replace the user of a client that is enrolled already, ending its connections.

        Raises:
            NotEnrolled: Without ``renew``, the client is enrolled already.
        """
        name = user_name("client", checked("NAME", client))
        password = secrets.token_urlsafe(32)
        version = self._version()
        rules = user_rules("client", password, client, version, run)
        if name in self._names():
            if not renew:
                raise NotEnrolled(
                    f"{client} is enrolled already; revoke it first, or give it a new password, "
                    "which ends its connections, with --renew"
                )
            self._execute("ACL", "DELUSER", name)
        self._execute("ACL", "SETUSER", name, "reset", *rules)
        secrets_folder.replace_user(
            self._users, name, user_line("client", password, client, version, run)
        )
        return password

    def revoke(self, client: str) -> None:
        """Remove a client's user, which ends its connections at once.

        Args:
            client: Name of the client; empty for the user of the common secret.

        Raises:
            NotEnrolled: There is no such user.
        """
        name = user_name("client", checked("NAME", client)) if client else SHARED
        removed = self._execute("ACL", "DELUSER", name)
        secrets_folder.replace_user(self._users, name, None)
        if not removed:
            raise NotEnrolled(
                f"{client} is not enrolled; see `soulsai clients`"
                if client
                else "the common secret opens nothing already"
            )

    def delete_streams(self, client: str) -> bool:
        """Delete a client's entries in all runs; return whether the server's users permit it."""
        checked("NAME", client)
        try:
            for kind in ("exp", "notice", "received"):
                if keys := scan(self._connection, f"soulsai:{{*}}:{kind}:{client}"):
                    self._connection.execute("UNLINK", *keys)
        except AccessDenied:  # users of an earlier release
            return False
        return True

    def remove_foreign_streams(self) -> list[str]:
        """Delete the streams of unpublished runs; return their keys."""
        streams = foreign_streams(self._connection)
        if streams:
            self._execute("UNLINK", *streams)
        return streams

    def keep(self) -> bool:
        """Let the server save its users; return whether they will survive its restart."""
        try:
            self._connection.execute("ACL", "SAVE")
        except WireError:
            return self._users.is_file()
        return True

    def clients(self) -> list[Enrolled]:
        """Return all clients that may take part, the shared user last."""
        connections = list(_connections(self._execute("CLIENT", "LIST")))
        names = self._names()
        users = sorted(name for name in names if is_name(name.removeprefix(CLIENT_USER)))
        enrolled = [name for name in users if name.startswith(CLIENT_USER)]
        shared = [SHARED] if SHARED in names else []
        return [_enrolled(name, connections) for name in [*enrolled, *shared]]

    def _names(self) -> set[str]:
        return {name.decode("ascii", "replace") for name in self._execute("ACL", "USERS")}

    def _version(self) -> Version:
        info = _text(self._execute("INFO", "server"))
        return parse_version(info.partition("redis_version:")[2])

    def _execute(self, *words: str | bytes) -> Any:
        try:
            answer = self._connection.execute(*words)
        except AccessDenied as error:
            raise AccessDenied(
                f"{error}; run this on the server, where admin.secret is "
                "(made by `soulsai secrets init`)"
            ) from error
        return answer


def foreign_streams(connection: RedisConnection) -> list[str]:
    """Return the keys of streams in runs that no training node has published."""
    published = {key.removesuffix("spec") for key in scan(connection, "soulsai:{*}:spec")}
    streams = scan(connection, "soulsai:{*}:exp:*")
    return [key for key in streams if key.partition("exp:")[0] not in published]


class PageEnroller:
    """Enrolls and revokes for the page, over a new connection per request."""

    def __init__(self, config: Config) -> None:
        self._config = config

    def can_enroll(self) -> bool:
        """Return whether an invite can name the address of the server."""
        try:
            invite(connect.find_server(self._config), self._config.run.name, "client", "")
        except SoulsAIError:  # a server for this machine only
            return False
        return True

    def enroll(self, client: str) -> str:
        """Return the invite of a new client."""
        redis, run = connect.find_server(self._config), self._config.run.name
        invite(redis, run, client, "")  # fails before anything is changed
        password = self._with(lambda enrolment: enrolment.enroll(client, run=run))
        return to_line(invite(redis, run, client, password))

    def revoke(self, client: str) -> str:
        """Revoke a client at once and delete its entries; return a line for the page."""

        def act(enrolment: Enrolment) -> None:
            enrolment.revoke(client)
            enrolment.delete_streams(client)

        self._with(act)
        return f"{client} is shut out"

    def _with(self, act: Callable[[Enrolment], T]) -> T:
        redis = connect.find_server(self._config)
        connection = RedisConnection(server_for("admin", redis), "admin")
        try:
            enrolment = Enrolment(connection, Path(redis.secrets))
            result = act(enrolment)
            enrolment.keep()
            return result
        finally:
            connection.close()


def page_enroller(config: Config) -> PageEnroller | None:
    """Return the page's enroller, or ``None`` on a node without ``admin.secret``."""
    has_secret = file_of(Path(config.redis.secrets), "admin").is_file()
    return PageEnroller(config) if has_secret else None


def invite(redis: RedisSettings, run: str, client: str, password: str, address: str = "") -> Invite:
    """Return the invite of an enrolled client.

    Args:
        redis: The server and its folder of secrets.
        run: Name of the run.
        client: Name of the client.
        password: Password of the client's user.
        address: URL of the server as clients reach it; empty for the one in the folder or in
            ``redis``.

    Raises:
        ConfigError: Clients on other machines have no address.
    """
    checked("NAME", client)
    folder = Path(redis.secrets)
    url = address or _address(redis, folder)
    parse(url)
    authority, key = folder / CA, folder / PUBLIC_KEY
    return Invite(
        url=url,
        run=run,
        client=client,
        password=password,
        ca=authority.read_text("ascii")
        if url.startswith("rediss:") and authority.is_file()
        else "",
        key=read_secret(key) if key.is_file() else "",
    )


def _address(redis: RedisSettings, folder: Path) -> str:
    known = folder / secrets_folder.ADDRESS
    if known.is_file():
        return read_secret(known)
    place = parse(redis.url)
    if isinstance(place, Tcp) and not is_loopback(place.host):
        return redis.url
    if redis.url.startswith("unix:"):
        raise ConfigError(
            "the server of this run is for this machine alone; begin one for others with "
            "`soulsai serve --host NAME`"
        )
    raise ConfigError(
        f"clients on other machines cannot come in by {redis.url}; say where they find the "
        "server, as --address rediss://train.example.org:6380"
    )


def _connections(listed: object) -> Iterator[dict[str, str]]:
    for line in _text(listed).splitlines():
        pairs = (word.partition("=") for word in line.split())
        yield {name: value for name, _, value in pairs}


def _enrolled(user: str, connections: list[dict[str, str]]) -> Enrolled:
    own = [one for one in connections if one.get("user") == user]
    client = "" if user == SHARED else user.removeprefix(CLIENT_USER)
    if not own:
        return Enrolled(client, 0)
    ages, idle = ([int(one.get(key, "0")) for one in own] for key in ("age", "idle"))
    return Enrolled(client, len(own), max(ages), min(idle))


def _text(reply: object) -> str:
    return reply.decode("utf-8", "replace") if isinstance(reply, bytes) else ""
