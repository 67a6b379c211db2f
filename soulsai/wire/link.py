"""What the roles stand on: commands with replies, and channels one can wait on.

The roles are written once, in the server's own commands; ``redis.py`` carries them out on a real
server and ``memory.py`` in this process.
"""

from collections.abc import Sequence
from typing import Any, NamedTuple, Protocol

from soulsai.errors import WireError

Word = bytes | str | int
Command = Sequence[Word]


class OldId(WireError):
    """An entry's id is not greater than the newest of its stream."""


class Heard(NamedTuple):
    """What was said on a channel; ``None``: listening begins, what was said before was missed."""

    channel: str
    data: bytes | None


class Link(Protocol):
    """One connection, made and made again as needed; safe between threads."""

    def ask(self, *command: Word) -> Any:
        """Return the server's reply to one command; raise what it refuses as a ``WireError``."""
        ...

    def ask_all(self, commands: Sequence[Command]) -> list[Any]:
        """Send all at once; return each one's reply, a refused one's error standing in its place.

        Raises ``Unreachable`` if any reply is missing: which were carried out is then unknown.
        """
        ...

    def close(self) -> None:
        """Let go of the connection; later calls raise ``Unreachable``."""
        ...


class Ear(Protocol):
    """Channels listened to by one thread; only ``wake`` and ``close`` may come from others."""

    def listen(self, timeout: float) -> list[Heard]:
        """Sleep until something is said, ``wake`` is called, or ``timeout`` seconds have passed.

        Without a connection it sleeps just so, and then raises ``Unreachable``.
        """
        ...

    def wake(self) -> None:
        """End a ``listen`` now, or the next one at once."""
        ...

    def close(self) -> None:
        """Let go of the connection."""
        ...


class Access(Protocol):
    """A server, and who we are to it."""

    def link(self) -> Link:
        """Return a new connection for commands."""
        ...

    def ear(self, *channels: str) -> Ear:
        """Return a new connection that listens to those channels."""
        ...


def raise_first(replies: Sequence[Any]) -> None:
    """Raise the first error among the replies, if there is one."""
    for reply in replies:
        if isinstance(reply, WireError):
            raise reply
