"""``soulsai train``: a run on this machine, from the command to the summary."""

import os
import shutil
import sys
import webbrowser
from pathlib import Path
from typing import Annotated

import typer

from soulsai import connect, runs
from soulsai.algorithms.registry import BUILT_IN, algorithm_names
from soulsai.cli.options import (
    Json,
    Saves,
    Sets,
    Settings,
    Url,
    load_settings,
    overrides,
    print_json,
)
from soulsai.config import Config
from soulsai.errors import ConfigError, SoulsAIError
from soulsai.process import StopSignal


class RunFailed(SoulsAIError):
    """A run ended before its time; carries the exit code of the process that failed."""

    def __init__(self, reason: str, code: int) -> None:
        super().__init__(reason)
        self.exit_code = code


def train(
    config: Settings = None,
    clients: Annotated[int | None, typer.Option(min=0, help="Local clients.")] = None,
    algorithm: Annotated[str, typer.Option(help=f"Algorithm: {', '.join(BUILT_IN)}.")] = "",
    env: Annotated[str, typer.Option(help='Gymnasium id, "module:Id" or "file.py:make".')] = "",
    max_env_steps: Annotated[
        int | None, typer.Option(min=0, help="End after this many env steps; 0: never.")
    ] = None,
    seed: Annotated[int | None, typer.Option(min=0, help="Seed of everything random.")] = None,
    saves: Saves = "",
    resume: Annotated[str, typer.Option(metavar="RUN|latest", help="Continue this run.")] = "",
    redis: Url = "",
    sets: Sets = None,
    open_page: Annotated[
        bool, typer.Option("--open", help="Open the page in a browser when it is served.")
    ] = False,
    as_json: Json = False,
) -> None:
    """Train on this machine, with local clients and a live view."""
    named = {
        "run.clients": clients,
        "run.max_env_steps": max_env_steps,
        "run.seed": seed,
        "run.saves": saves,
        "algorithm.name": algorithm,
        "environment.id": env,
        "redis.url": redis,
    }
    settings = load_settings(config, named, sets)
    if resume:
        folder = runs.find(Path(settings.run.saves), resume)
        resume = folder.name
        if config is None:
            settings = runs.settings(folder, settings, os.environ, overrides(named, sets))
        settings = runs.kept_in(folder, settings)
        check_unfinished(folder, settings)
    connect.need_server_extra()
    check_choices(settings)
    raise typer.Exit(run(settings, resume=resume, open_page=open_page, as_json=as_json))


def check_unfinished(folder: Path, config: Config) -> None:
    """Raise ``ConfigError`` if a run has reached its planned end already."""
    last, planned = runs.status(folder), config.run.max_env_steps
    if last is not None and last.phase == "ended" and 0 < planned <= last.env_steps:
        raise ConfigError(
            f"{folder}: finished already ({last.env_steps:,} of {planned:,} env steps); "
            "continue it with a larger --max-env-steps"
        )


def check_choices(config: Config) -> None:
    """Raise ``ConfigError`` if there is no such algorithm or environment."""
    if config.algorithm.name not in algorithm_names():
        known = ", ".join(algorithm_names())
        raise ConfigError(f"algorithm.name: no {config.algorithm.name!r}; choose one of {known}")
    id = config.environment.id
    place, _, name = id.rpartition(":")
    if place.endswith(".py") and not Path(place).is_file():
        raise ConfigError(f"environment.id: {place}: no such file (looked for in {Path.cwd()})")
    if place or name.endswith(".py"):
        return
    import gymnasium

    try:
        gymnasium.spec(id)
    except gymnasium.error.Error as error:
        raise ConfigError(f"environment.id: {' '.join(str(error).split())}") from None


def run(config: Config, *, resume: str = "", open_page: bool = False, as_json: bool = False) -> int:
    """Run until the end, print the summary, and return the exit code.

    Args:
        config: All settings.
        resume: The id of a run to continue; empty: a new one.
        open_page: Whether to open the page in a browser.
        as_json: Whether to print the summary as JSON.

    Raises:
        RunFailed: A process could not go on.
    """
    from soulsai.train.summary import save, summarise, table
    from soulsai.train.supervisor import Supervisor
    from soulsai.train.terminal import view_for

    opener = webbrowser.open if open_page else None
    with StopSignal() as stop:
        view = view_for(sys.stderr)
        result = Supervisor(config, stop, view, resume=resume, open_page=opener).run()
        for line in result.tail:
            sys.stderr.write(f"  | {line}\n")
        if result.folder is not None and result.status is not None:
            summary = summarise(result.folder, result.status, result.wall_seconds)
            save(result.folder, summary)
            if as_json:
                print_json(summary)
            else:
                for name, text in table(summary):
                    typer.echo(f"{name:18}{text}")
                typer.echo(f"\nNext: {_command()} evaluate {summary.run}")
                if summary.phase != "ended":
                    typer.echo(f"  or: {_command()} train --resume {summary.run}")
    if result.reason:
        raise RunFailed(result.reason, result.code)
    return result.code


def _command() -> str:
    """Return the word by which this shell finds the command."""
    if shutil.which("soulsai"):
        return "soulsai"
    called = Path(sys.argv[0])
    return str(called) if called.name == "soulsai" else "python -m soulsai"
