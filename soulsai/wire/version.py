"""Which versions of the protocol client and server have in common."""

from msgspec import Struct

from soulsai.errors import ProtocolError
from soulsai.types import OLDEST_PROTOCOL, PROTOCOL


class ProtocolRange(Struct, frozen=True):
    """What a server speaks: all of its spec that every version can be relied on to understand."""

    protocol: int
    oldest_protocol: int


def check_protocol(spoken: ProtocolRange) -> str:
    """Return a warning if the server will soon not understand us, else nothing.

    Raises:
        ProtocolError: There is no protocol in common; the message says who is to be updated.
    """
    theirs, oldest = spoken.protocol, spoken.oldest_protocol
    if oldest > PROTOCOL:
        raise ProtocolError(
            f"the server speaks protocol {oldest} to {theirs} and this client {PROTOCOL}; "
            "update the client"
        )
    if theirs < OLDEST_PROTOCOL:
        raise ProtocolError(
            f"the server speaks protocol {theirs} and this client {OLDEST_PROTOCOL} to {PROTOCOL}; "
            "update the server, or use an older client"
        )
    if theirs > PROTOCOL:
        return (
            f"the server speaks protocol {theirs} and this client {PROTOCOL}, which it still "
            "understands; update the client before it does not any more"
        )
    return ""
