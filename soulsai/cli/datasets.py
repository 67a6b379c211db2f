"""The commands for data sets: record one, export one of a run, import others."""

import os
import sys
import time
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click
from click.exceptions import Exit

from soulsai import process
from soulsai.cli.evaluate import progress_on
from soulsai.cli.options import (
    Command,
    config_option,
    json_option,
    load_settings,
    overrides,
    print_json,
    saves_option,
    set_option,
)
from soulsai.errors import DatasetError

if TYPE_CHECKING:
    from soulsai.client.environment import AdaptedEnvironment
    from soulsai.client.human_input import Device
    from soulsai.client.record import Chooser
    from soulsai.config.schema import Config
    from soulsai.datasets.episodes import EpisodeDataset

_FORMATS = (
    "minari",
    "minari-arrow",
    "parquet",
)  # those of soulsai.datasets.files; importing it here would take time
_PATH = click.Path(path_type=Path)

FUNCTION = ".py:"  # in the name of a function of a file

out_option = click.option(
    "--out", required=True, type=_PATH, help="New folder, or file for Parquet, to write."
)


def format_option(default: str) -> Callable[[Command], Command]:
    """Return the option ``--format`` with a default."""
    return click.option(
        "--format",
        "form",
        type=click.Choice(_FORMATS),
        default=default,
        show_default=True,
        help="Format of the data set.",
    )


@click.command()
@click.argument("run", help="Run id, latest, or a folder.")
@out_option
@format_option("minari")
@saves_option("saves")
@json_option
def export(run: str, out: Path, form: str, saves: str, as_json: bool) -> None:
    """Write the kept experience of a run, as whole episodes."""
    from soulsai import runs
    from soulsai.config import load
    from soulsai.datasets import kept_experience
    from soulsai.datasets.files import write

    folder = runs.find(Path(saves), run)
    settings = load(folder / runs.CONFIG, {}, [])
    kept = Path(settings.training.keep_experience) / folder.name
    if not settings.training.keep_experience or not kept_experience.is_kept(kept):
        raise DatasetError(
            f"{folder}: has kept no experience; set training.keep_experience before it begins"
        )
    status = runs.status(folder)
    joined = kept_experience.read(kept, purged=status.purged if status is not None else ())
    write(joined.dataset, out, form)
    _say(joined.dataset, out, as_json, incomplete=joined.incomplete)


@click.command("import")
@click.argument(
    "data", nargs=-1, required=True, type=_PATH, help="Folders of Minari, or Parquet files."
)
@out_option
@click.option("--run", default="", help="Run id, latest, or a folder, that it must fit.")
@click.option("--env", default="", help="Environment that it must fit, if no run is named.")
@click.option(
    "--other-environment", is_flag=True, help="Take data of another environment, of equal spaces."
)
@format_option("parquet")
@saves_option("saves")
@config_option
@set_option
@json_option
def import_data(
    data: Sequence[Path],
    out: Path,
    run: str,
    env: str,
    other_environment: bool,
    form: str,
    saves: str,
    config: Path | None,
    sets: Sequence[str],
    as_json: bool,
) -> None:
    """Check data sets of an environment, and join them in one."""
    from soulsai.client.probe import probe
    from soulsai.datasets.files import read, write

    settings = _settings(saves, run, env, config, sets)
    environment = settings.environment
    dataset = read(
        data,
        probe(environment, settings.client),
        environment=environment.id,
        largest_reward=environment.largest_reward,
        other_environment=other_environment,
    )
    write(dataset, out, form)
    _say(dataset, out, as_json)


@click.command()
@out_option
@click.option("--env", default="", help="Environment to play; a run's policy has its own.")
@click.option(
    "--episodes", type=click.IntRange(1), default=20, show_default=True, help="Episodes to play."
)
@click.option(
    "--policy",
    default="",
    help="Run id, latest, policy.onnx or file.py:function that plays; empty: a person.",
)
@click.option(
    "--with",
    "device",
    type=click.Choice(["keyboard", "gamepad"]),
    default="keyboard",
    show_default=True,
    help="Device of a person.",
)
@click.option("--keys", default="", help='Keys and actions: "left=0 right=1", or "up=0,1".')
@click.option(
    "--fps",
    type=click.FloatRange(0),
    default=30.0,
    show_default=True,
    help="Steps per second of a person; 0: no wait.",
)
@click.option(
    "--seed",
    type=click.IntRange(0),
    default=0,
    show_default=True,
    help="Seed of the first episode.",
)
@format_option("minari")
@saves_option("saves")
@config_option
@set_option
@json_option
def record(
    out: Path,
    env: str,
    episodes: int,
    policy: str,
    device: "Device",
    keys: str,
    fps: float,
    seed: int,
    form: str,
    saves: str,
    config: Path | None,
    sets: Sequence[str],
    as_json: bool,
) -> None:
    """Play by hand or by a policy; write it as a data set."""
    from soulsai.client import record as recording
    from soulsai.datasets.files import write

    is_run = bool(policy) and not Path(policy).is_file() and FUNCTION not in policy
    settings = _settings(saves, policy if is_run else "", env, config, sets)
    if out.exists():
        raise DatasetError(f"--out: {out} is there already; name a new one")
    opened, raw = recording.open_recorded(
        settings.environment, settings.client, pictures=not policy
    )
    with ExitStack() as stack:
        stack.callback(opened.close)
        if policy:
            chooser = _policy(saves, policy, opened)
        else:
            title = f"{settings.environment.id}: {episodes} episodes"
            chooser = _person(stack, device, keys, title, fps, opened, raw)
        stop = stack.enter_context(process.StopSignal())
        dataset = recording.record(
            opened,
            chooser,
            episodes=episodes,
            seed=seed,
            stopped=stop,
            progress=progress_on(sys.stderr, episodes),
        )
    write(dataset, out, form)
    _say(dataset, out, as_json)
    raise Exit(stop.exit_code)


def _policy(saves: str, policy: str, opened: "AdaptedEnvironment") -> "Chooser":
    """Return a policy that plays an environment: a run's, a file, or a function of a file."""
    if FUNCTION in policy:
        from soulsai.client.creation import find_creator
        from soulsai.client.record import FunctionChooser

        function = find_creator(policy)
        if isinstance(function, str):
            raise DatasetError(f"--policy: {policy} is no function")
        return FunctionChooser(function, opened)
    from soulsai import runs
    from soulsai.client.record import PolicyChooser, check_policy

    with runs.held_policy(Path(saves), policy) as held:
        player = PolicyChooser(held.file)
    check_policy(opened, player)
    return player


def _person(
    stack: ExitStack,
    device: "Device",
    keys: str,
    title: str,
    fps: float,
    opened: "AdaptedEnvironment",
    raw: Any,
) -> "Chooser":
    """Return a person who plays an environment in a window that the stack closes."""
    from soulsai.client.human_input import open_input
    from soulsai.client.record import HumanChooser

    source = open_input(device, opened.spec.action, keys, title, opened)
    stack.callback(source.close)
    pause = 1.0 / fps if fps else 0.0
    return HumanChooser(source, raw.render, lambda: time.sleep(pause))


def _settings(
    saves: str, run: str, env: str, config: Path | None, sets: Sequence[str] | None
) -> "Config":
    """Return the settings of a run, or those of this command with an environment."""
    from soulsai import runs

    settings = load_settings(config, {"environment.id": env}, sets)
    if not run:
        return settings
    folder = runs.find(Path(saves), run)
    return runs.settings(folder, settings, os.environ, overrides({"environment.id": env}, sets))


def _say(
    dataset: "EpisodeDataset", out: Path, as_json: bool, incomplete: int | None = None
) -> None:
    """Print the size of a data set that was written."""
    totals = [episode.total for episode in dataset.episodes]
    mean = sum(totals) / len(totals)
    if as_json:
        more = {} if incomplete is None else {"incomplete": incomplete}
        print_json({
            "out": str(out), "episodes": len(totals), "env_steps": dataset.steps,
            "mean": mean, **more,
        })  # fmt: skip
        return
    from soulsai.launch.summary import counted

    line = f"{out}: {counted(len(totals), 'episode')}, {counted(dataset.steps, 'env step')}"
    click.echo(f"{line}, mean reward {mean:.1f}")
    if incomplete:
        click.echo(f"left out {counted(incomplete, 'episode')} that is not whole")
