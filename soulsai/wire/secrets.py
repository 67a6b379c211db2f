"""Address and credentials of the server, and the files that hold the secrets."""

import os
import sys
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from soulsai.config.schema import RedisSettings
from soulsai.errors import ConfigError
from soulsai.wire.names import Role
from soulsai.wire.redis.url import check_encrypted

PASSWORD_FILE = "SOULSAI_REDIS_PASSWORD_FILE"  # noqa: S105 - a variable's name
_CONTAINER_SECRET = Path("/run/secrets/redis_secret")
_MAX_BYTES = 4096
PUBLIC_KEY = "manifest.pub"  # in a folder of secrets: the training node's
DEMONSTRATORS = "demonstrators"  # in a folder of secrets: clients that demonstrate, one a line
CA = "ca.pem"  # in a folder of secrets: the authority that signed the server's certificate


@dataclass(frozen=True)
class Server:
    """A server with the user and password of one role; an empty password means no login."""

    url: str
    username: str = ""  # empty: the server's default user
    password: str = field(default="", repr=False)
    ca_file: str = ""
    ca_data: str = ""  # the same as text
    public_key: str = ""  # of the training node; data without its signature is then refused
    # Of the password: its file, or the places without one.
    source: str = field(default="", compare=False)


def server_for(role: Role, redis: RedisSettings, environ: Mapping[str, str] = os.environ) -> Server:
    """Return the configured server with the secret of a role, if there is one.

    A node has a secret of its own on the server's machine. Elsewhere, and for clients, it is the
    common ``redis.secret``.

    Args:
        role: Role to log in as.
        redis: The section ``redis`` of the settings.
        environ: Environment variables; one may name the file of the common secret.

    Raises:
        ConfigError: A file cannot be read, or the address would send the password in clear text.
    """
    folder = Path(redis.secrets)
    ca_file = redis.ca_file
    if not ca_file and redis.url.startswith("rediss:") and (folder / CA).is_file():
        ca_file = str(folder / CA)
    own = file_of(folder, role)
    if role != "client" and own.is_file():
        return Server(redis.url, role, read_secret(own), ca_file, source=str(own))
    key = ""
    if role == "client":
        check_encrypted(redis.url, insecure=redis.insecure)
        pinned = folder / PUBLIC_KEY
        key = read_secret(pinned) if pinned.is_file() else ""
    common = _common_secret(folder, environ)
    if common is None:
        places = dict.fromkeys((str(own), *map(str, _common_places(folder))))
        source = f"no file {' or '.join(places)}, and {PASSWORD_FILE} is not set"
        return Server(redis.url, ca_file=ca_file, public_key=key, source=source)
    user = "client" if role == "client" else ""
    password = read_secret(common)
    return Server(redis.url, user, password, ca_file, public_key=key, source=str(common))


def read_secret(path: Path) -> str:
    """Return the password in a file: one line, ``requirepass <password>`` or just the password."""
    try:
        data = path.read_bytes()
        text = data.decode().strip()
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"{path}: cannot be read as a secret ({type(error).__name__})") from None
    if len(data) > _MAX_BYTES or len(text.splitlines()) != 1 or "\0" in text:
        raise ConfigError(f"{path}: a secret is one line, `requirepass <password>`")
    word, _, rest = text.partition(" ")
    if word.lower() != "requirepass":
        return text
    rest = rest.strip()
    if len(rest) >= 2 and rest[0] == rest[-1] == '"':
        rest = rest[1:-1]
    if not rest:
        raise ConfigError(f"{path}: there is no password after `requirepass`")
    return rest


def write_secret(path: Path, password: str) -> None:
    """Write a secret that only this user can read."""
    write_file(path, f"requirepass {password}\n")


def write_file(
    path: Path, text: str, mode: int = 0o600, owner: tuple[int, int] | None = None
) -> None:
    """Replace a file atomically; nobody else can read it before it has its final mode.

    Args:
        path: The file.
        text: Its content.
        mode: Its permissions.
        owner: Its user and group id, if not those of this process.
    """
    # Not named by the process id: in a container a killed process leaves the name of the next one.
    descriptor, name = tempfile.mkstemp(prefix=f".{path.name}.", suffix=".new", dir=path.parent)
    new = Path(name)
    try:
        with os.fdopen(descriptor, "w", encoding="utf-8") as file:
            file.write(text)
            os.fsync(file.fileno())
        if sys.platform != "win32" and owner not in (None, (os.geteuid(), os.getegid())):
            os.chown(new, *owner)
        os.chmod(new, mode)
        new.replace(path)
    except BaseException:
        new.unlink(missing_ok=True)
        raise


def file_of(folder: Path, role: Role) -> Path:
    """Return the file of a role's secret; clients have the common one."""
    return folder / ("redis.secret" if role == "client" else f"{role}.secret")


def _common_secret(folder: Path, environ: Mapping[str, str]) -> Path | None:
    if named := environ.get(PASSWORD_FILE):
        if not Path(named).is_file():
            raise ConfigError(f"{PASSWORD_FILE}: there is no file {named}")
        return Path(named)
    check_shared(folder)
    found = [path for path in _common_places(folder) if path.is_file()]
    return found[0] if found else None


def check_shared(folder: Path) -> None:
    """Raise ``ConfigError`` if the folder and ``config/`` hold different common secrets."""
    both = [path for path in (file_of(folder, "client"), shared_file(folder)) if path.is_file()]
    if len({read_secret(path) for path in both}) > 1:
        raise ConfigError(
            f"{' and '.join(map(str, both))} hold different passwords; keep one of the files"
        )


def shared_file(folder: Path) -> Path:
    """Return ``config/redis.secret``, beside the folder of secrets, where a user may put it."""
    return folder.parent / file_of(folder, "client").name


def _common_places(folder: Path) -> tuple[Path, Path, Path]:
    return file_of(folder, "client"), shared_file(folder), _CONTAINER_SECRET
