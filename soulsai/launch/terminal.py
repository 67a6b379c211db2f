"""A run on a terminal: a live view, or plain lines where the output is a file or a pipe."""

from importlib.util import find_spec
from typing import Protocol, TextIO

from soulsai.launch.scene import Scene, problems, progress_line
from soulsai.types import Status

LINE_SECONDS = 10.0  # between two plain lines


class RunView(Protocol):
    """A display of scenes."""

    def show(self, scene: Scene) -> None:
        """Show this scene in place of the one before."""

    def close(self) -> None:
        """Give the terminal back."""


class QuietView:
    """Shows nothing."""

    def show(self, scene: Scene) -> None:
        """Show nothing."""

    def close(self) -> None:
        """Do nothing."""


def view_for(stream: TextIO) -> RunView:
    """Return the live view for a terminal, or plain lines for anything else.

    The live view needs the package ``rich``, which clients do not have.
    """
    if not stream.isatty() or find_spec("rich") is None:
        return PlainView(stream)
    from rich.console import Console

    from soulsai.launch.screen import LiveView

    return LiveView(Console(file=stream))


class PlainView:
    """Writes a line every ten seconds, and each notice and problem once."""

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream
        self._next = 0.0
        self._told: frozenset[str] = frozenset()  # problems of the last status
        self._notices = 0
        self._page = ""

    def show(self, scene: Scene) -> None:
        """Write the news, at most a line of progress every ten seconds."""
        lines = list(scene.notices[self._notices :])
        self._notices = len(scene.notices)
        if scene.page != self._page:
            self._page = scene.page
            lines.append(f"page {scene.page}")
        if scene.status is not None:
            lines += self._problems(scene.status, is_due=scene.elapsed >= self._next)
        if scene.elapsed >= self._next:
            self._next = scene.elapsed + LINE_SECONDS
            lines.append(progress_line(scene))
        for text in lines:
            self._stream.write(text + "\n")
        if lines:
            self._stream.flush()

    def close(self) -> None:
        """Do nothing: all lines are written."""

    def _problems(self, status: Status, *, is_due: bool) -> list[str]:
        """Return the problems that are new; those of environments only every ten seconds."""
        found = [status.notice] if status.notice else []
        if is_due:
            found += problems(status)
        new = [text for text in found if text not in self._told]
        if not found and self._told and is_due:
            new = ["all is well again"]
        if is_due or new:
            self._told = frozenset(found) if is_due else self._told | frozenset(new)
        return new
