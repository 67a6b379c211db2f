"""The folder of secrets on the server: one file per role, and the server's file of users."""

import os
import re
import secrets
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from datetime import datetime
from pathlib import Path

from msgspec import Struct

from soulsai.errors import ConfigError
from soulsai.identity import certificates
from soulsai.wire.names import CLIENT_USER, OLDEST_SERVER, ROLES, Role, Version, acl
from soulsai.wire.redis import server_settings
from soulsai.wire.secrets import (
    DEMONSTRATORS,
    PUBLIC_KEY,
    check_shared,
    file_of,
    read_secret,
    shared_file,
    write_file,
)
from soulsai.wire.signing import PRIVATE_KEY, new_key, read_signer

USERS = "users.acl"
DATA = "data"  # of the server
PLAIN_PORT, TLS_PORT = 6379, 6380  # many machines have a server without TLS on the first one
ADDRESS = "address"  # URL of the server in invites
PRIVATE, READABLE = 0o600, 0o644

_LINE = re.compile(rf"user {CLIENT_USER}[a-z0-9][a-z0-9_-]{{0,63}} on [^\r\n]+")


class Made(Struct, frozen=True):
    """The names of the new and the existing files in a folder of secrets."""

    folder: str
    made: tuple[str, ...]
    kept: tuple[str, ...]
    enrolled: tuple[str, ...]  # clients with their own users
    former_address: str = ""  # URL in earlier invites, if this call has changed it


def init(
    folder: Path,
    *,
    hosts: Sequence[str] = (),
    port: int | None = None,
    now: datetime,
    version: Version = OLDEST_SERVER,
    for_containers: bool = False,
    enrolled_only: bool = False,
    with_server: bool = True,
    password: Callable[[], str] = lambda: secrets.token_urlsafe(32),
) -> Made:
    """Create the missing files of a folder of secrets; existing ones stay as they are.

    A ``redis.secret`` beside the folder, in ``config/``, becomes the common secret.

    Args:
        folder: Created if missing, readable by this user only.
        hosts: Names of the server in its certificate; the first one is its address.
        port: Of that address; ``None``: 6380 with TLS, 6379 without.
        now: With a time zone.
        version: Version of the server.
        for_containers: Make the files readable by all users. The folder stays private, but a
            container may run as another user and have one of the files mounted.
        enrolled_only: Create no common secret, so that only enrolled clients have access.
        with_server: Write the server's settings, ``redis.conf``, and make the folder of its data.
        password: Returns a new password.

    Raises:
        ConfigError: Both files of the common secret are there, with different passwords.
    """
    _make_private(folder)
    check_shared(folder)
    mode = READABLE if for_containers else PRIVATE
    made: list[str] = []
    passwords: dict[Role, str] = {}
    for role in ROLES:
        path = file_of(folder, role)
        if not path.is_file():
            if role == "client" and enrolled_only:
                continue
            beside = shared_file(folder)
            given = role == "client" and beside.is_file()
            word = read_secret(beside) if given else password()
            write_file(path, f"requirepass {word}\n", mode)
            made.append(path.name)
        path.chmod(PRIVATE if role == "admin" else mode)
        passwords[role] = read_secret(path)
    made += _make_keys(folder, mode)
    made += certificates.issue(folder, hosts, now, mode)
    former = ""
    if hosts:
        made.append(ADDRESS)
        if (folder / ADDRESS).is_file():
            former = (folder / ADDRESS).read_text("utf-8").strip()
        address = f"rediss://{_bracketed(hosts[0])}:{port or TLS_PORT}\n"
        write_file(folder / ADDRESS, address, READABLE)
    users = folder / USERS
    with _locked(folder):
        enrolled = list(_enrolled_lines(users))
        write_file(users, acl(passwords, version) + "".join(f"{line}\n" for line in enrolled), mode)
    if with_server and _make_server_settings(folder, port):
        made.append(server_settings.FILE)
    kept = sorted({file_of(folder, role).name for role in passwords} - set(made))
    names = (line.split()[1].removeprefix(CLIENT_USER) for line in enrolled)
    changed = former if hosts and former != address.strip() else ""
    return Made(str(folder), tuple(made), tuple(kept), tuple(names), changed)


def _make_keys(folder: Path, mode: int) -> list[str]:
    private, public = folder / PRIVATE_KEY, folder / PUBLIC_KEY
    written: list[str] = []
    if not private.is_file():
        write_file(private, f"{new_key()}\n", mode)
        written.append(private.name)
    private.chmod(mode)
    text = f"{read_signer(private).public}\n"
    if not public.is_file() or public.read_text("ascii") != text:
        write_file(public, text, READABLE)
        written.append(public.name)
    return written


def _make_server_settings(folder: Path, port: int | None) -> bool:
    """Write the server's settings, unless a user has changed them; return whether it has."""
    (folder / DATA).mkdir(mode=0o700, exist_ok=True)
    here = folder.resolve()
    paths = {"data": here / DATA, "users": here / USERS}
    certificate = (here / certificates.SERVER, here / certificates.SERVER_KEY)
    tls = certificate[0].is_file()
    file = folder / server_settings.FILE
    if file.is_file():
        try:
            text, url = file.read_text("utf-8"), server_settings.local_url(file)
        except (ConfigError, UnicodeDecodeError):
            return False
        before = int(url.rpartition(":")[2])
        ours = [server_settings.shared(**paths, port=before, certificate=each)
                for each in (None, certificate)]  # fmt: skip
        if text not in ours:
            return False
        if port is None and url.startswith("rediss:") == tls:
            port = before
    new = server_settings.shared(
        **paths,
        port=port or (TLS_PORT if tls else PLAIN_PORT),
        certificate=certificate if tls else None,
    )
    if file.is_file() and file.read_text("utf-8") == new:
        return False
    write_file(file, new)
    return True


def _bracketed(host: str) -> str:
    return f"[{host}]" if ":" in host else host


def _make_private(folder: Path) -> None:
    """Create a folder that only this user can read."""
    try:
        folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        if folder.stat().st_uid == os.geteuid():
            folder.chmod(0o700)
    except (FileExistsError, NotADirectoryError):
        raise ConfigError(f"{folder}: is not a folder") from None


def replace_user(users: Path, name: str, line: str | None) -> None:
    """Replace the line of a user in the server's file of users, if that file exists.

    Args:
        users: The file.
        name: Name of the user.
        line: Its new line, or ``None`` to remove the user.
    """
    if not users.is_file():
        return
    with _locked(users.parent):
        before, owner = users.read_text("ascii"), users.stat()
        lines = [each for each in before.splitlines() if each.split()[:2] != ["user", name]]
        text = "".join(f"{each}\n" for each in [*lines, *([line] if line else [])])
        if text != before:
            # The server may run as another user, and reads and writes this file, too.
            write_file(users, text, owner.st_mode & 0o777, (owner.st_uid, owner.st_gid))


def set_demonstrator(folder: Path, client: str, *, demonstrates: bool) -> None:
    """Add a client to those whose whole play is a demonstration, or remove it.

    Args:
        folder: The folder of secrets.
        client: Name of the client.
        demonstrates: Whether it is one of them from now on.
    """
    file = folder / DEMONSTRATORS
    if not demonstrates and not file.is_file():
        return
    with _locked(folder):
        before = set(file.read_text("ascii").split()) if file.is_file() else set()
        names = before | {client} if demonstrates else before - {client}
        if names != before:
            write_file(file, "".join(f"{name}\n" for name in sorted(names)))


@contextmanager
def _locked(folder: Path) -> Iterator[None]:
    """Hold the lock of a folder of secrets, so that two changes of the users are both kept."""
    if sys.platform == "win32":
        raise ConfigError(f"{folder}: users are made where the server is; on Windows, in WSL2")
    import fcntl

    descriptor = os.open(folder, os.O_RDONLY)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield
    finally:
        os.close(descriptor)


def _enrolled_lines(users: Path) -> Iterator[str]:
    """Yield the lines of enrolled clients in an ACL file."""
    try:
        text = users.read_text("ascii")
    except FileNotFoundError:
        return
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"{users}: cannot be read ({type(error).__name__})") from None
    for line in text.splitlines():
        if _LINE.fullmatch(line):
            yield line
