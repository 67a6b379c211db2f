"""What the page asks of the node that serves it: which run it follows, and that run's episodes."""

from types import TracebackType
from typing import Protocol, Self

from msgspec import Struct

from soulsai.web.tables import Episodes


class Live(Struct, frozen=True, eq=False):
    """The run that is followed now; its episodes grow while others read them."""

    run: str
    episodes: Episodes


class Source(Protocol):
    """A read-only view of a telemetry node, for other threads than its own."""

    def live(self) -> Live | None:
        """Return the run that is followed now, if any."""
        ...


class NoSource:
    """Follows nothing: for a page that only shows what is on disk."""

    def live(self) -> Live | None:
        """Return ``None``."""
        return None


class NoPage:
    """Stands where a page would be, if there is none."""

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None: ...

    def ring(self) -> None:
        """Do nothing."""
