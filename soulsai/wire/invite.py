"""The invite: address and credentials of one enrolled client in one line."""

import base64
import binascii
import zlib

import msgspec
from msgspec import Struct

from soulsai.config.schema import RedisSettings
from soulsai.errors import ConfigError
from soulsai.wire.names import checked, user_name
from soulsai.wire.redis.url import check_encrypted, parse
from soulsai.wire.secrets import Server

PREFIX = "soulsai1:"
_LONGEST = 16_384
_CHECK_BYTES = 4


class Invite(Struct, frozen=True, forbid_unknown_fields=True):
    """Address of the server, credentials of one client, and keys to recognize the server."""

    url: str
    run: str
    client: str
    password: str
    ca: str = ""  # certificate of the server's authority; empty: the system's authorities
    key: str = ""  # public key of the training node; empty: nothing is signed

    def __repr__(self) -> str:
        return f"Invite({self.client!r} to {self.run!r} at {self.url})"

    def server(self, redis: RedisSettings) -> Server:
        """Return the server at the address in the settings, with this client's credentials."""
        check_encrypted(redis.url, insecure=redis.insecure)
        user = user_name("client", self.client)
        ca = "" if redis.ca_file else self.ca
        source = f"the invite of {self.client}"
        return Server(redis.url, user, self.password, redis.ca_file, ca, self.key, source=source)


def to_line(invite: Invite) -> str:
    """Return an invite as one line without spaces."""
    data = msgspec.json.encode(invite)
    check = zlib.crc32(data).to_bytes(_CHECK_BYTES, "big")
    return PREFIX + base64.urlsafe_b64encode(check + data).decode().rstrip("=")


def from_line(text: str, origin: str) -> Invite:
    """Return the invite in a line; raise ``ConfigError``, which names its origin, without one."""
    line = "".join(text.split())  # mail programs break lines
    if not line.startswith(PREFIX) or len(line) > _LONGEST:
        raise ConfigError(f"{origin}: is not an invite, which is one line like {PREFIX}...")
    body = line.removeprefix(PREFIX)
    try:
        raw = base64.b64decode(body + "=" * (-len(body) % 4), altchars=b"-_", validate=True)
    except (binascii.Error, ValueError):
        raw = b""
    check, data = raw[:_CHECK_BYTES], raw[_CHECK_BYTES:]
    if not data or zlib.crc32(data).to_bytes(_CHECK_BYTES, "big") != check:
        raise ConfigError(f"{origin}: a part of the invite is missing; copy the whole line")
    try:
        invite = msgspec.json.decode(data, type=Invite)
    except (msgspec.DecodeError, RecursionError):
        raise ConfigError(f"{origin}: the invite is of another version; update soulsai") from None
    checked("the invite's run", invite.run)
    checked("the invite's client", invite.client)
    parse(invite.url)
    return invite
