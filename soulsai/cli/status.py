"""``soulsai status`` and ``soulsai runs``: the state of a run, once or until its end."""

import sys
import time
from collections.abc import Callable, Sequence
from contextlib import ExitStack, closing
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING

import click

from soulsai import connect, process, runs
from soulsai.cli.options import (
    config_argument,
    json_option,
    print_json,
    redis_option,
    saves_option,
    secrets_option,
    server_settings,
    set_option,
)
from soulsai.config import Config
from soulsai.errors import NoRun, Unreachable
from soulsai.types import Status
from soulsai.wire.protocols import OperatorWire

if TYPE_CHECKING:
    from soulsai.launch.scene import Scene

POLL_SECONDS = 0.1  # delay at which a stop is noticed
HINT = "Ctrl-C ends this view; training goes on."


@click.command()
@config_argument
@redis_option
@secrets_option
@set_option
@click.option("--watch", is_flag=True, help="Continue until the run ends.")
@click.option(
    "--every",
    type=click.FloatRange(0.1),
    default=1.0,
    show_default=True,
    help="Seconds between two views.",
)
@json_option
def status(
    config: Path | None,
    redis: str,
    secrets: str,
    sets: Sequence[str],
    watch: bool,
    every: float,
    as_json: bool,
) -> None:
    """Show the progress of a running training node."""
    settings = server_settings(config, redis, secrets, sets)
    if watch:
        with process.StopSignal(process.parent()) as stop:
            follow(settings, stop, every=every, as_json=as_json)
        return
    with connect.operator(settings) as wire:
        now = wire.status()
    if now is None:
        raise connect.no_run(settings)
    if as_json:
        print_json(now)
        return
    if not sys.stdout.isatty() or find_spec("rich") is None:
        from soulsai.launch.scene import facts

        click.echo("\n".join(facts(now, page(settings))))
        return
    from rich.console import Console

    from soulsai.launch.screen import screen

    console = Console()
    console.print(screen(_scene(now, page=page(settings)), console.width))


@click.command("runs")
@saves_option("saves")
@json_option
def list_runs(saves: str, as_json: bool) -> None:
    """List the runs in a folder, oldest first."""
    found = [(folder, runs.status(folder)) for folder in runs.every(Path(saves))]
    if as_json:
        print_json([{"run": str(folder), "status": state} for folder, state in found])
        return
    if not found:
        click.echo(f"{saves}: no runs")
    for folder, state in found:
        click.echo(runs.describe(folder, state))


def follow(settings: Config, stopped: Callable[[], bool], *, every: float, as_json: bool) -> None:
    """Show the status until the run has ended; wait for a run, and for a silent training node.

    Args:
        settings: The settings, which name the server.
        stopped: Whether to stop early.
        every: Seconds between two views.
        as_json: Whether to print each status as a line of JSON.
    """
    told = False
    while not _followed(settings, stopped, every, as_json):
        if not told:
            sys.stderr.write("soulsai: waiting for a run\n")
        told = True
        if _slept(every, stopped):
            return


def _followed(settings: Config, stopped: Callable[[], bool], every: float, as_json: bool) -> bool:
    """Show a run until it has ended; return whether there was one."""
    from soulsai.launch.terminal import view_for

    try:
        with ExitStack() as stack:
            wire = stack.enter_context(connect.operator(settings))
            first = wire.status()
            if first is None:
                return False
            show = _print_status
            if not as_json:
                show = stack.enter_context(closing(view_for(sys.stdout))).show
            _show(wire, first, show, stopped, every, settings)
            return True
    except NoRun:
        return False


def _show(
    wire: OperatorWire,
    last: Status,
    show: Callable[["Scene"], None],
    stopped: Callable[[], bool],
    every: float,
    settings: Config,
) -> None:
    notices: tuple[str, ...] = ()
    saves, is_private = Path(settings.run.saves), not settings.redis.url
    place = page(settings)
    while True:
        show(_scene(last, notices, HINT, place))
        if last.phase == "ended" or _slept(every, stopped):
            return
        try:
            now = wire.status()
        except Unreachable as error:
            if is_private and runs.running(saves) is None:  # the server has ended with its run
                show(_scene(runs.status(saves / last.run) or last, page=place))
                return
            now, why = None, str(error)
        else:
            why = "the training node is silent"
        last = now or last
        notices = () if now else (why,)


def _print_status(scene: "Scene") -> None:
    if scene.status is not None and not scene.notices:
        print_json(scene.status)


def page(settings: Config) -> str:
    """Return the page's address if the run is one of this machine's, or nothing."""
    if settings.redis.url:
        return ""
    private = runs.running(Path(settings.run.saves))
    return private.page if private is not None else ""


def _scene(
    status: Status, notices: tuple[str, ...] = (), hint: str = "", page: str = ""
) -> "Scene":
    from soulsai.launch.scene import Scene

    headline = f"{status.environment} · {status.algorithm}"
    return Scene(
        status.seconds,
        headline,
        status,
        page=page,
        notices=notices,
        hint=hint,
        timed="trained ",
    )


def _slept(seconds: float, stopped: Callable[[], bool]) -> bool:
    end = time.monotonic() + seconds
    while (left := end - time.monotonic()) > 0:
        if stopped():
            return True
        time.sleep(min(left, POLL_SECONDS))
    return stopped()
