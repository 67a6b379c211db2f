"""A thread that watches the training node: for the page, and for whoever else listens."""

import threading
from collections.abc import Callable, Sequence
from pathlib import Path
from types import TracebackType
from typing import Self

from soulsai.web.run_store import Folders
from soulsai.web.source import Source
from soulsai.web.watch import Listener, Watcher
from soulsai.wire.protocols import TelemetryWire


class Watching:
    """Watches from entering to leaving; whatever happens to it, training goes on."""

    def __init__(
        self,
        saves: Path,
        source: Source,
        connect: Callable[[], TelemetryWire],
        listeners: Sequence[Listener] = (),
        ring: Callable[[], None] = lambda: None,
    ) -> None:
        """``ring`` is called when there is something new."""
        self.folders = Folders(saves, source)
        self.watcher = Watcher(self.folders, connect, ring, listeners=listeners)
        self._stopped = threading.Event()
        self._thread = threading.Thread(target=self._watch, name="page-watcher")

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._stopped.set()
        self._thread.join()

    def ring(self) -> None:
        """Do nothing: nobody looks."""

    def _watch(self) -> None:
        self.watcher.run(self._stopped)
