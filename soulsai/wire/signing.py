"""Ed25519 signatures of the data that the training node publishes.

The private key stays with the training node; clients pin the public one. Each kind of message is
signed together with its name, so that none can pass for another.
"""

import base64
import binascii
from pathlib import Path

from msgspec import Struct

from soulsai.errors import ConfigError, Forged
from soulsai.wire.secrets import read_secret

PRIVATE_KEY = "manifest.key"  # in a folder of secrets; only for the training node

_PREFIX = "ed25519:"
_BYTES = 32


class Signed(Struct, frozen=True):
    """Encoded data with a signature, which is empty without a key."""

    data: bytes
    signature: bytes = b""


class Manifest(Struct, frozen=True):
    """The digests of a run's spec and program."""

    run: str
    spec_sha256: str
    program_sha256: str


class Signer:
    """Signs with the run's private key."""

    def __init__(self, secret: bytes) -> None:
        # Imported only with a key, because it takes 7 MB.
        from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

        self._key = Ed25519PrivateKey.from_private_bytes(secret)

    def __repr__(self) -> str:
        return f"Signer({self.public})"

    @property
    def public(self) -> str:
        """The public key, as clients pin it."""
        return _PREFIX + _encode(self._key.public_key().public_bytes_raw())

    def sign(self, kind: str, message: bytes) -> bytes:
        """Return the signature of a message of one kind."""
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
        """Raise ``Forged`` unless the signature is valid.

        Args:
            kind: Name of the kind of message.
            message: The signed bytes.
            signature: The signature; empty if there is none.
        """
        from cryptography.exceptions import InvalidSignature

        try:
            self._key.verify(signature, _framed(kind, message))
        except InvalidSignature:
            why = "belongs to another key, or the data were changed" if signature else "is missing"
            raise Forged(
                f"the signature of the run's {kind} {why}; nothing of it is used. Ask the "
                "operator of the server; a new server needs a new invite"
            ) from None


def new_key() -> str:
    """Return a new private key as text for its file."""
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

    return _PREFIX + _encode(Ed25519PrivateKey.generate().private_bytes_raw())


def read_signer(path: Path) -> Signer:
    """Return the signer with the key in a file."""
    return Signer(_decode(read_secret(path), str(path)))


def signer_in(folder: Path) -> Signer | None:
    """Return the signer with the key in a folder of secrets, if there is one."""
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
