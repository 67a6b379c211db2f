"""``soulsai status``: how a run is doing, once or for as long as somebody looks."""

import sys
import time
from collections.abc import Callable

import msgspec

from soulsai import connect
from soulsai.config.schema import Config
from soulsai.errors import Unreachable
from soulsai.train.terminal import RunView, Scene, page, view_for
from soulsai.types import Status
from soulsai.wire.protocols import OperatorWire

TICK = 0.1  # seconds; how soon a stop is noticed
LEAVE = "Ctrl-C ends this view; training goes on."


def once(settings: Config, *, as_json: bool) -> None:
    """Show how the training node is doing now; raise ``NoRun`` if there is none."""
    with connect.operator(settings) as wire:
        now = wire.status()
    if now is None:
        raise connect.nobody(settings)
    if as_json:
        _json(now)
        return
    from rich.console import Console

    Console().print(page(_scene(now, hint="")))


def watch(settings: Config, stopped: Callable[[], bool], *, every: float, as_json: bool) -> None:
    """Show it again and again until the run has ended or nobody looks any more.

    A training node that falls silent is waited for; its last status stays on screen.
    """
    with connect.operator(settings) as wire:
        first = wire.status()
        if first is None:
            raise connect.nobody(settings)
        view: RunView = Json() if as_json else view_for(sys.stdout)
        with view:
            _follow(wire, first, view, stopped, every)


def _follow(
    wire: OperatorWire, last: Status, view: RunView, stopped: Callable[[], bool], every: float
) -> None:
    notices: tuple[str, ...] = ()
    while True:
        view.show(_scene(last, notices, LEAVE))
        if last.phase == "ended" or _slept(every, stopped):
            return
        try:
            now = wire.status()
        except Unreachable as error:
            now, why = None, str(error)
        else:
            why = "the training node is silent"
        last = now or last
        notices = () if now else (why,)


class Json:
    """Shows each status as one line of JSON."""

    def __enter__(self) -> "Json":
        return self

    def __exit__(self, *_: object) -> None: ...

    def show(self, scene: Scene) -> None:
        """Write a line."""
        if scene.status is not None and not scene.notices:
            _json(scene.status)


def _scene(status: Status, notices: tuple[str, ...] = (), hint: str = "") -> Scene:
    headline = f"{status.environment} · {status.algorithm}"
    return Scene(status.seconds, headline, status, notices=notices, hint=hint)


def _slept(seconds: float, stopped: Callable[[], bool]) -> bool:
    end = time.monotonic() + seconds
    while (left := end - time.monotonic()) > 0:
        if stopped():
            return True
        time.sleep(min(left, TICK))
    return stopped()


def _json(status: Status) -> None:
    sys.stdout.write(msgspec.json.encode(status).decode() + "\n")
    sys.stdout.flush()
