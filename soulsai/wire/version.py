"""Check that client and server share a version of the protocol."""

from msgspec import Struct

from soulsai.errors import ProtocolError
from soulsai.types import OLDEST_PROTOCOL, PROTOCOL


class ProtocolRange(Struct, frozen=True):
    """The protocol versions of a server: the part of its spec that every client can decode."""

    protocol: int
    oldest_protocol: int


def check_protocol(server: ProtocolRange) -> str:
    """Return a warning if the server may soon stop supporting this client, else an empty text.

    Raises:
        ProtocolError: There is no common protocol; the message names the side to update.
    """
    theirs, oldest = server.protocol, server.oldest_protocol
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
