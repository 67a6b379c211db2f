"""``soulsai train``: a run on this machine, from the command to the summary."""

import os
import re
import shutil
import sys
import webbrowser
from collections.abc import Callable, Iterator, Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING

import click
import msgspec
from click.exceptions import Exit

from soulsai import connect, runs
from soulsai.algorithms.registry import BUILT_IN, algorithm_names
from soulsai.cli.evaluate import progress_on
from soulsai.cli.options import (
    config_argument,
    json_option,
    load_settings,
    overrides,
    print_json,
    redis_option,
    saves_option,
    secrets_option,
    set_option,
)
from soulsai.config import Config
from soulsai.errors import ConfigError, RunFailed
from soulsai.process import StopSignal, let_threads_sleep

if TYPE_CHECKING:
    from soulsai.launch.summary import Summary
    from soulsai.wire.redis.embedded_server import SharedServer


Command = Callable[..., None]

EPILOG = "What is left out is taken from the settings; `soulsai config` prints them."
start_option = click.option(
    "--start-from",
    metavar="RUN|latest|PATH",
    default="",
    help="Begin with the networks of a run, a checkpoint or a policy.onnx.",
)
INDIRECT = ("import *", "globals(", "setattr(", "exec(")  # define names that a file does not hold


def _run_options(command: Command) -> Command:
    """Add the options of a run, wherever its clients are."""
    for option in reversed((
        click.option("--algorithm", default="", help=f"Algorithm: {', '.join(BUILT_IN)}."),
        click.option("--env", default="", help='Gymnasium id, "module:Id" or "file.py:make".'),
        click.option(
            "--max-env-steps",
            type=click.IntRange(0),
            help="End after this many env steps; 0: never.",
        ),
        click.option("--seed", type=click.IntRange(0), help="Seed of everything random."),
        saves_option(),
        click.option("--resume", metavar="RUN|latest", default="", help="Continue this run."),
        start_option,
    )):  # fmt: skip
        command = option(command)
    return command


@click.command(epilog=EPILOG)
@config_argument
@click.option("--clients", type=click.IntRange(0), help="Local clients.")
@_run_options
@redis_option
@click.option("--offline", is_flag=True, help="Learn from data sets alone, without clients.")
@click.option("--data", multiple=True, help="Data set of demonstrations; repeatable.")
@set_option
@click.option(
    "--open", "open_page", is_flag=True, help="Open the page in a browser when it is served."
)
@json_option
def train(
    config: Path | None,
    clients: int | None,
    algorithm: str,
    env: str,
    max_env_steps: int | None,
    seed: int | None,
    saves: str,
    resume: str,
    start_from: str,
    redis: str,
    offline: bool,
    data: Sequence[str],
    sets: Sequence[str],
    open_page: bool,
    as_json: bool,
) -> None:
    """Train on this machine, with local clients and a live view."""
    named = {
        **_named(algorithm, env, max_env_steps, seed, saves),
        "run.clients": clients,
        "redis.url": redis,
        "start.policy": start_from,
        "demonstrations.data": msgspec.json.encode(data).decode() if data else "",
    }
    settings, resume = _checked(config, named, sets, resume)
    if offline:
        if resume:
            raise ConfigError("--offline: begins a new run, and --resume continues one; choose one")
        raise Exit(run_offline(settings, as_json=as_json))
    raise Exit(run(settings, resume=resume, open_page=open_page, as_json=as_json))


@click.command(epilog=EPILOG)
@config_argument
@click.option("--host", multiple=True, help="This machine's name for clients; repeatable.")
@click.option("--port", type=click.IntRange(1, max=65535), help="Server's port; at first 6380.")
@secrets_option
@_run_options
@set_option
@click.option(
    "--open", "open_page", is_flag=True, help="Open the page in a browser when it is served."
)
@json_option
def serve(
    config: Path | None,
    host: Sequence[str],
    port: int | None,
    secrets: str,
    algorithm: str,
    env: str,
    max_env_steps: int | None,
    seed: int | None,
    saves: str,
    resume: str,
    start_from: str,
    sets: Sequence[str],
    open_page: bool,
    as_json: bool,
) -> None:
    """Train with clients of other machines; start all but these."""
    named = {
        **_named(algorithm, env, max_env_steps, seed, saves),
        "redis.secrets": secrets,
        "run.clients": 0,
        "start.policy": start_from,
    }
    settings, resume = _checked(config, named, sets, resume)
    if settings.redis.url:
        raise ConfigError(
            f"redis.url: serve starts a server of its own; for {settings.redis.url} use "
            "`soulsai train --clients 0`"
        )
    from soulsai.identity import folder as secrets_folder
    from soulsai.wire.redis.embedded_server import shared_server

    place = Path(settings.redis.secrets)
    if not host and not (place / secrets_folder.ADDRESS).is_file():
        raise ConfigError(
            "--host: give this machine's name or address for clients, as --host train.example.org"
        )
    secrets_folder.init(place, hosts=host or [], port=port, now=datetime.now(UTC))
    click.echo(
        _welcome(settings, (place / secrets_folder.ADDRESS).read_text("utf-8").strip()), err=True
    )
    code = run(
        settings,
        resume=resume,
        open_page=open_page,
        as_json=as_json,
        shared=lambda: shared_server(place),
    )
    raise Exit(code)


def _named(
    algorithm: str, env: str, max_env_steps: int | None, seed: int | None, saves: str
) -> dict[str, object]:
    """Return the options of ``_run_options`` as settings."""
    return {
        "run.max_env_steps": max_env_steps,
        "run.seed": seed,
        "run.saves": saves,
        "algorithm.name": algorithm,
        "environment.id": env,
    }


def _welcome(config: Config, address: str) -> str:
    """Return the steps by which somebody joins a server of ``soulsai serve``."""
    from soulsai.client.creation import extra_of

    extra = extra_of(config.environment.id)
    package = f'"soulsai[{extra}]"' if extra else "soulsai"
    return (
        f"Clients reach this server at {address}; let its port through the firewall.\n"
        "For each player, here, in another terminal:\n"
        f"  {_command()} enroll NAME --out NAME.invite\n"
        "The player, with that file, and nothing else to set:\n"
        f"  pip install {package}\n"
        "  soulsai client --invite NAME.invite\n"
    )


def _checked(
    config: Path | None, named: Mapping[str, object], sets: Sequence[str] | None, resume: str
) -> tuple[Config, str]:
    """Return the settings of a run here, and the id of the run to continue."""
    settings = load_settings(config, named, sets)
    if resume and named.get("start.policy"):
        raise ConfigError("--start-from: begins a new run, and --resume continues one; choose one")
    settings = with_place(settings)
    if resume:
        folder = runs.find(Path(settings.run.saves), resume)
        resume = folder.name
        if config is None:
            settings = runs.settings(folder, settings, os.environ, overrides(named, sets))
        settings = runs.kept_in(folder, settings)
        check_unfinished(folder, settings)
    connect.need_server_extra()
    check_choices(settings)
    return settings, resume


def with_place(config: Config) -> Config:
    """Return settings with the whole path of the policy to start from.

    ``latest`` would be the new run itself once that has a folder.
    """
    policy = config.start.policy
    if not policy:
        return config
    place = Path(policy) if Path(policy).exists() else runs.find(Path(config.run.saves), policy)
    start = msgspec.structs.replace(config.start, policy=str(place.resolve()))
    return msgspec.structs.replace(config, start=start)


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
    if config.client.kwargs or config.client.max_episode_steps is not None:
        from soulsai.client.own_values import with_own

        with_own(config.environment.offer, config.client)
    id = config.environment.id
    place, _, name = id.rpartition(":")
    if place.endswith(".py"):
        check_file(Path(place), name)
        return
    import gymnasium

    from soulsai.client.creation import check_extra, make

    if place:
        if not config.environment.spec_file:
            check_extra(id)
        return
    if name.endswith(".py"):
        make(id, {})  # which only says what the file defines
    try:
        gymnasium.spec(id)
    except gymnasium.error.Error as error:
        raise ConfigError(f"environment.id: {' '.join(str(error).split())}") from None
    check_extra(id)


def check_file(file: Path, name: str) -> None:
    """Raise ``ConfigError`` if a file does not exist, or nothing in it can be called ``name``."""
    if not file.is_file():
        raise ConfigError(f"environment.id: {file}: no such file (looked for in {Path.cwd()})")
    text = file.read_text(errors="replace")
    word = re.sub(r"-v\d+$", "", name).rpartition("/")[2]
    if word not in text and not any(way in text for way in INDIRECT):
        raise ConfigError(f"environment.id: {file} neither registers nor defines {name!r}")


def run(
    config: Config,
    *,
    resume: str = "",
    open_page: bool = False,
    as_json: bool = False,
    shared: "Callable[[], SharedServer] | None" = None,
) -> int:
    """Run until the end, print the summary, and return the exit code.

    Args:
        config: All settings.
        resume: The id of a run to continue; empty: a new one.
        open_page: Whether to open the page in a browser.
        as_json: Whether to print the summary as JSON.
        shared: Starts a server for clients on other machines, in place of a private one.

    Raises:
        RunFailed: A process could not go on.
    """
    from soulsai.launch.summary import save, summarise, table
    from soulsai.launch.supervisor import Supervisor
    from soulsai.launch.terminal import view_for

    opener = webbrowser.open if open_page else None
    with StopSignal() as stop:
        view = view_for(sys.stderr)
        supervisor = Supervisor(config, stop, view, resume=resume, open_page=opener, shared=shared)
        result = supervisor.run()
        for line in result.tail:
            sys.stderr.write(f"  | {line}\n")
        if result.folder is not None and result.status is not None:
            summary = summarise(result.folder, result.status, result.wall_seconds)
            save(result.folder, summary)
            if as_json:
                print_json(summary)
            else:
                for name, text in table(summary):
                    click.echo(f"{name:18}{text}")
                again = "train" if shared is None else "serve"
                click.echo("\nNext: " + "\n  or: ".join(_next_steps(summary, config, again)))
    if result.reason:
        raise RunFailed(result.reason, result.code)
    return result.code


def _next_steps(summary: "Summary", config: Config, again: str) -> Iterator[str]:
    """Yield the commands that a user may want after a run.

    Args:
        summary: The end of the run.
        config: Its settings.
        again: The command that continues it.
    """
    if summary.env_steps:
        yield f"{_command()} evaluate {summary.run}"
    planned = config.run.max_env_steps
    if not planned or summary.env_steps < planned:
        yield f"{_command()} {again} --resume {summary.run}"


def run_offline(config: Config, *, as_json: bool) -> int:
    """Learn from data sets alone, print the result, and return the exit code.

    Args:
        config: All settings.
        as_json: Whether to print the result as JSON.
    """
    let_threads_sleep(os.environ)
    from soulsai.client.probe import probe
    from soulsai.training_node.offline import learn

    environment, total = config.environment, config.offline.updates
    spec = probe(environment, config.client)
    shown = progress_on(sys.stderr, total, word="updates")
    with StopSignal() as stop:
        result = learn(
            config,
            spec,
            datetime.now().astimezone(),
            stopped=stop,
            progress=lambda updates, _: shown(updates),
        )
    if as_json:
        print_json(msgspec.structs.asdict(result) | {"folder": str(result.folder)})
    else:
        click.echo(
            f"{result.folder}: {result.updates:,} updates on {result.episodes} episodes "
            f"({result.env_steps:,} env steps, mean reward {result.data_mean:.1f})"
        )
        click.echo(f"\nNext: {_command()} evaluate {result.folder.name}")
        click.echo(f"  or: {_command()} train --start-from {result.folder.name}")
    return stop.exit_code


def _command() -> str:
    """Return the word by which this shell finds the command."""
    if shutil.which("soulsai"):
        return "soulsai"
    called = Path(sys.argv[0])
    return str(called) if called.name == "soulsai" else "python -m soulsai"
