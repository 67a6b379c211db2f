"""Enrolled clients: each a user of its own on the server, added and removed while it runs."""

import secrets
from collections.abc import Iterator
from pathlib import Path

from msgspec import Struct

from soulsai.config.schema import RedisSettings, is_loopback
from soulsai.errors import AccessDenied, ConfigError, SoulsAIError, WireError
from soulsai.identity import folder as secrets_folder
from soulsai.wire.invite import Invite
from soulsai.wire.names import (
    CLIENT_USER,
    Keys,
    Version,
    checked,
    is_name,
    parse_version,
    user_line,
    user_name,
    user_rules,
)
from soulsai.wire.redis.connection import RedisConnection
from soulsai.wire.redis.url import Tcp, parse
from soulsai.wire.secrets import CA, PUBLIC_KEY, read_secret

SHARED = "client"  # the user of all who have only the common redis.secret


class NotEnrolled(SoulsAIError):
    """There is no such client, or there is one already."""


class Enrolled(Struct, frozen=True):
    """One client that may take part."""

    client: str  # empty: all those who share the common secret
    connections: int
    seconds: int | None = None  # since the oldest of them was made
    idle: int | None = None  # seconds since one of them was used


class Enrolment:
    """Changes the users of a running server, and keeps the changes where it finds them again."""

    def __init__(self, link: RedisConnection, folder: Path) -> None:
        """``folder`` holds the secrets of the server, if this is its machine."""
        self._link = link
        self._users = folder / secrets_folder.USERS

    def enroll(self, client: str, *, renew: bool = False) -> str:
        """Give a client a user of its own and return its password, which is kept nowhere."""
        name = user_name("client", checked("NAME", client))
        if name in self._names():
            if not renew:
                raise NotEnrolled(
                    f"{client} is enrolled already; revoke it first, or give it a new password, "
                    "which ends its connections, with --renew"
                )
            self._ask("ACL", "DELUSER", name)
        password = secrets.token_urlsafe(32)
        version = self._version()
        rules = user_rules("client", password, client, version)
        self._ask("ACL", "SETUSER", name, "reset", *rules)
        secrets_folder.replace_user(
            self._users, name, user_line("client", password, client, version)
        )
        return password

    def revoke(self, client: str) -> None:
        """Remove a client's user, which ends its connections at once; no name: the shared one."""
        name = user_name("client", checked("NAME", client)) if client else SHARED
        removed = self._ask("ACL", "DELUSER", name)
        secrets_folder.replace_user(self._users, name, None)
        if not removed:
            raise NotEnrolled(
                f"{client} is not enrolled; see `soulsai clients`"
                if client
                else "the common secret opens nothing already"
            )

    def delete_stream(self, run: str, client: str) -> bool:
        """Delete the entries that a client has sent to a run; return whether that was allowed."""
        try:
            self._link.execute("UNLINK", Keys(run).experience(checked("NAME", client)))
        except AccessDenied:  # by users that an older version has made
            return False
        return True

    def keep(self) -> bool:
        """Let the server write down its users; return whether they will survive its restart."""
        try:
            self._link.execute("ACL", "SAVE")
        except WireError:
            return self._users.is_file()
        return True

    def clients(self) -> list[Enrolled]:
        """Return who may take part, the shared user last, and whether they are connected."""
        connections = list(_connections(self._ask("CLIENT", "LIST")))
        names = self._names()
        users = sorted(name for name in names if is_name(name.removeprefix(CLIENT_USER)))
        enrolled = [name for name in users if name.startswith(CLIENT_USER)]
        shared = [SHARED] if SHARED in names else []
        return [_enrolled(name, connections) for name in [*enrolled, *shared]]

    def _names(self) -> set[str]:
        return {name.decode("ascii", "replace") for name in self._ask("ACL", "USERS")}

    def _version(self) -> Version:
        info = _text(self._ask("INFO", "server"))
        return parse_version(info.partition("redis_version:")[2])

    def _ask(self, *words: str) -> list[bytes]:
        try:
            answer: list[bytes] = self._link.execute(*words)
        except AccessDenied as error:
            raise AccessDenied(
                f"{error}; run this on the server, where admin.secret is "
                "(made by `soulsai secrets init`)"
            ) from error
        return answer


def invite(redis: RedisSettings, run: str, client: str, password: str, address: str = "") -> Invite:
    """Return the invite of an enrolled client; raise ``ConfigError`` without an address to give."""
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
        ca=authority.read_text() if url.startswith("rediss:") and authority.is_file() else "",
        key=read_secret(key) if key.is_file() else "",
    )


def _address(redis: RedisSettings, folder: Path) -> str:
    known = folder / secrets_folder.ADDRESS
    if known.is_file():
        return read_secret(known)
    place = parse(redis.url)
    if isinstance(place, Tcp) and not is_loopback(place.host):
        return redis.url
    raise ConfigError(
        f"clients on other machines cannot come in by {redis.url}; say where they find the "
        "server, as --address rediss://train.example.org:6379"
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
