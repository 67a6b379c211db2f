"""When ``telemetry.png`` is drawn, and what it shows; the drawing takes a process of its own.

The plotting library takes 40 MB, and a drawing as much, which a process that goes on never gives
back in full.
"""

import logging
import os
import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path

import msgspec
import numpy as np
from msgspec import Struct

from soulsai.errors import SoulsAIError
from soulsai.process import PARENT
from soulsai.telemetry_node.statistics import Best, History
from soulsai.types import Array, EpisodeKind

NAME = "telemetry.png"
REST = 9.0  # pause after a drawing in drawing times: at most a tenth of a core
COMMAND = (sys.executable, "-P", "-m", "soulsai.telemetry_node.figure")
PATIENCE_SECONDS = 120.0  # for one drawing, on a machine that is very busy

_log = logging.getLogger(__name__)


class Snapshot(Struct, frozen=True, eq=False):
    """The data of one figure, detached from the statistics that go on changing."""

    title: str
    window: int
    curves: Mapping[EpisodeKind, Array]  # rows of a History
    best: Best | None
    goal: str = "reward"  # the metric that ranks models
    shown: str = ""  # label of the measure beside reward, length and throughput


class _Sent(Struct, frozen=True):
    """A snapshot as it is sent to the process that draws it."""

    title: str
    window: int
    curves: dict[EpisodeKind, bytes]
    best: Best | None
    goal: str
    shown: str


class Painter:
    """Draw one snapshot at a time, and pause for nine drawing times; a thread waits for it.

    Args:
        path: The figure.
        draw: Draws a snapshot to a path.
        clock: Seconds of a monotonic clock.
    """

    def __init__(
        self,
        path: Path,
        draw: Callable[[Snapshot, Path], None] | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._path = path
        self._draw_apart = draw or draw_apart
        self._clock = clock
        self._thread = ThreadPoolExecutor(1, "figure")
        self._drawing: Future[float] | None = None
        self._rested = 0.0

    def ready(self) -> bool:
        """Return whether a snapshot would be drawn at once."""
        if self._drawing and self._drawing.done():
            self._rested = self._finish(self._drawing)
            self._drawing = None
        return self._drawing is None and self._clock() >= self._rested

    def draw(self, snapshot: Snapshot) -> None:
        """Start a drawing; the painter must be ready."""
        self._drawing = self._thread.submit(self._draw, snapshot)

    def close(self, last: Snapshot | None) -> None:
        """Draw the last snapshot, wait until it is on disk, and end the thread."""
        if last:
            drawing = self._thread.submit(self._draw, last)
            self._thread.shutdown(wait=True)
            self._finish(drawing)
        self._thread.shutdown(wait=True)

    def _draw(self, snapshot: Snapshot) -> float:
        began = self._clock()
        self._draw_apart(snapshot, self._path)
        now = self._clock()
        return now + REST * (now - began)

    def _finish(self, drawing: "Future[float]") -> float:
        """Return the time of the next drawing; a failed drawing never harms the record."""
        error = drawing.exception()
        if error is None:
            return drawing.result()
        _log.warning("figure not drawn path=%s error=%r", self._path, error)
        return self._clock() + 10.0


def draw_apart(snapshot: Snapshot, path: Path) -> None:
    """Draw a snapshot in another process, which Ctrl-C in the terminal does not reach.

    Args:
        snapshot: What to draw.
        path: The figure.

    Raises:
        SoulsAIError: It could not be drawn.
    """
    try:
        done = subprocess.run(  # noqa: S603 - our own module
            [*COMMAND, str(path)],
            input=encode(snapshot),
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            env={**os.environ, PARENT: str(os.getpid())},
            timeout=PATIENCE_SECONDS,
            start_new_session=True,
            check=False,
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        raise SoulsAIError(str(error)) from error
    if done.returncode:
        lines = done.stderr.decode(errors="replace").strip().splitlines()
        raise SoulsAIError(lines[-1] if lines else f"ended with {done.returncode}")


def encode(snapshot: Snapshot) -> bytes:
    """Return a snapshot as bytes."""
    values = msgspec.structs.asdict(snapshot)
    values["curves"] = {
        kind: np.ascontiguousarray(rows, np.float64).tobytes()
        for kind, rows in snapshot.curves.items()
    }
    return msgspec.msgpack.encode(_Sent(**values))


def decode(data: bytes) -> Snapshot:
    """Return the snapshot of ``encode``."""
    sent = msgspec.msgpack.decode(data, type=_Sent)
    curves = {
        kind: np.frombuffer(rows, np.float64).reshape(-1, len(History.COLUMNS))
        for kind, rows in sent.curves.items()
    }
    return Snapshot(**msgspec.structs.asdict(sent) | {"curves": curves})
