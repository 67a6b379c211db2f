"""Who we are to the server: its address, our user and our password, and where those are kept."""

import os
import sys
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
PUBLIC_KEY = "manifest.pub"  # in a folder of secrets: of the training node
CA = "ca.pem"  # in a folder of secrets: the authority that vouches for the server


@dataclass(frozen=True)
class Server:
    """A server, and as whom to speak to it; without a password there is no authentication."""

    url: str
    username: str = ""  # empty: the server's default user
    password: str = field(default="", repr=False)
    ca_file: str = ""
    ca_data: str = ""  # the same as text
    public_key: str = ""  # of the training node; what is not signed with it is then refused


def server_for(role: Role, redis: RedisSettings, environ: Mapping[str, str] = os.environ) -> Server:
    """Return the configured server with the secret of a role, if there is one.

    A node has its own secret where it runs beside the server; elsewhere, and for all clients,
    the common ``redis.secret`` opens what the server grants for it.
    """
    folder = Path(redis.secrets)
    ca_file = redis.ca_file
    if not ca_file and redis.url.startswith("rediss:") and (folder / CA).is_file():
        ca_file = str(folder / CA)
    own = file_of(folder, role)
    if role != "client" and own.is_file():
        return Server(redis.url, role, read_secret(own), ca_file)
    common = _common_secret(folder, environ)
    key = ""
    if role == "client":
        check_encrypted(redis.url, insecure=redis.insecure)
        pinned = folder / PUBLIC_KEY
        key = read_secret(pinned) if pinned.is_file() else ""
    if common is None:
        return Server(redis.url, ca_file=ca_file, public_key=key)
    user = "client" if role == "client" else ""
    return Server(redis.url, user, read_secret(common), ca_file, public_key=key)


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
    """Write a secret that only we can read."""
    write_file(path, f"requirepass {password}\n")


def write_file(
    path: Path, text: str, mode: int = 0o600, owner: tuple[int, int] | None = None
) -> None:
    """Put a file in place in one go, readable from its beginning on by those meant, and nobody."""
    new = path.with_name(f".{path.name}.{os.getpid()}.new")
    descriptor = os.open(new, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
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
    """Return where the secret of a role is kept; clients have the run's common one."""
    return folder / ("redis.secret" if role == "client" else f"{role}.secret")


def _common_secret(folder: Path, environ: Mapping[str, str]) -> Path | None:
    if named := environ.get(PASSWORD_FILE):
        if not Path(named).is_file():
            raise ConfigError(f"{PASSWORD_FILE}: there is no file {named}")
        return Path(named)
    places = (file_of(folder, "client"), _CONTAINER_SECRET)
    return next((path for path in places if path.is_file()), None)
