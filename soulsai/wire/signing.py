"""Signatures: what the training node publishes is told from what others may have written there.

The private key stays with the training node; clients pin the public one. Ed25519, and each kind
of message is signed under a name of its own, so that none can be passed off as another.
"""

import base64
import binascii
from pathlib import Path

from msgspec import Struct

from soulsai.errors import ConfigError, Forged
from soulsai.wire.secrets import read_secret

PRIVATE_KEY = "manifest.key"  # in a folder of secrets; the training node's alone

_PREFIX = "ed25519:"
_BYTES = 32


class Signed(Struct, frozen=True):
    """Something as bytes, with its signature, which is empty where there is no key."""

    data: bytes
    signature: bytes = b""


class Manifest(Struct, frozen=True):
    """What belongs to a run, by digest."""

    run: str
    spec_sha256: str
    program_sha256: str


class Signer:
    """Signs with the run's private key."""

    def __init__(self, secret: bytes) -> None:
        # Imported only where there is a key: it takes 7 MB.
        from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

        self._key = Ed25519PrivateKey.from_private_bytes(secret)

    def __repr__(self) -> str:
        return f"Signer({self.public})"

    @property
    def public(self) -> str:
        """The public key, as clients pin it."""
        return _PREFIX + _encode(self._key.public_key().public_bytes_raw())

    def sign(self, kind: str, message: bytes) -> bytes:
        """Return the signature of a message of some kind."""
        return self._key.sign(_framed(kind, message))


class Verifier:
    """Checks against a pinned public key."""

    def __init__(self, public: str) -> None:
        from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey

        self._public = public
        self._key = Ed25519PublicKey.from_public_bytes(_decode(public, "the run's public key"))

    def __repr__(self) -> str:
        return f"Verifier({self._public})"

    def check(self, kind: str, message: bytes, signature: bytes) -> None:
        """Raise ``Forged`` unless the holder of the private key has signed exactly this."""
        from cryptography.exceptions import InvalidSignature

        try:
            self._key.verify(signature, _framed(kind, message))
        except InvalidSignature:
            why = "is of somebody else, or it was changed on its way" if signature else "is missing"
            raise Forged(
                f"the signature of the run's {kind} {why}; nothing of it is used. Ask whoever "
                "runs the server; a new server needs a new invite"
            ) from None


def new_key() -> str:
    """Return a new private key, as it is kept in its file."""
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

    return _PREFIX + _encode(Ed25519PrivateKey.generate().private_bytes_raw())


def read_signer(path: Path) -> Signer:
    """Return the signer whose key is in a file."""
    return Signer(_decode(read_secret(path), str(path)))


def signer_in(folder: Path) -> Signer | None:
    """Return the signer whose key is in a folder of secrets, if there is one."""
    path = folder / PRIVATE_KEY
    return read_signer(path) if path.is_file() else None


def _framed(kind: str, message: bytes) -> bytes:
    return b"soulsai 1 " + kind.encode() + b"\0" + message


def _encode(data: bytes) -> str:
    return base64.urlsafe_b64encode(data).decode().rstrip("=")


def _decode(text: str, where: str) -> bytes:
    try:
        data = base64.b64decode(text.removeprefix(_PREFIX) + "=", altchars=b"-_", validate=True)
    except (binascii.Error, ValueError):
        data = b""
    if not text.startswith(_PREFIX) or len(data) != _BYTES:
        raise ConfigError(f"{where}: is not a key like {_PREFIX}<43 letters>")
    return data
