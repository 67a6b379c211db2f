"""Small structs as MessagePack: the run's spec, commands, the status, and everything like them."""

from typing import TypeVar

import msgspec
from msgspec import Struct

from soulsai.errors import WireError

T = TypeVar("T", bound=Struct)

_encoder = msgspec.msgpack.Encoder()


def encode(value: Struct) -> bytes:
    """Return the bytes of a struct; they depend on its content and the order of its dicts only."""
    return _encoder.encode(value)


def decode(data: bytes, kind: type[T]) -> T:
    """Return the struct in ``data``; raise ``WireError`` if it is not one of that kind."""
    try:
        return msgspec.msgpack.decode(data, type=kind)
    except Exception as error:  # bad UTF-8 and deep nesting raise what they like
        raise WireError(f"not a {kind.__name__}: {error}"[:200]) from error
