"""``soulsai evaluate`` and ``soulsai check-env``: play a policy, or try an environment."""

import os
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, TextIO

import click
import msgspec
from click.exceptions import Exit

from soulsai import process
from soulsai.cli.options import (
    config_option,
    json_option,
    load_settings,
    overrides,
    print_json,
    saves_option,
    set_option,
)

if TYPE_CHECKING:
    from soulsai.client.evaluate import Evaluation
    from soulsai.config.schema import Config
    from soulsai.types import Spec

RECORDED = 3  # episodes in a video, at most
LINE_SECONDS = 10.0  # between two lines of progress where the output is no terminal


@click.command()
@click.argument("run", help="Run id, latest, a folder, or a policy.onnx.")
@click.option(
    "--episodes", type=click.IntRange(1), default=100, show_default=True, help="Episodes to play."
)
@click.option(
    "--seed",
    type=click.IntRange(0),
    default=1000000,
    show_default=True,
    help="Seed of the first episode.",
)
@click.option("--env", default="", help="Play this, if the policy's own is not known.")
@saves_option("saves")
@set_option
@click.option(
    "--video",
    type=click.Path(path_type=Path),
    help="Record the first episodes in FILE, .webm or .mp4.",
)
@click.option("--render", is_flag=True, help="Play in a window, one episode after the other.")
@json_option
def evaluate(
    run: str,
    episodes: int,
    seed: int,
    env: str,
    saves: str,
    sets: Sequence[str],
    video: Path | None,
    render: bool,
    as_json: bool,
) -> None:
    """Play greedy episodes with a run's newest checkpoint."""
    if video is not None:
        from soulsai.client.video import check_codec

        check_codec(video)
    from soulsai import runs
    from soulsai.client.evaluate import evaluate as play

    with runs.held_policy(Path(saves), run) as policy, process.StopSignal() as stop:
        env = env or runs.environment(Path(saves), run)
        settings = load_settings(None, {}, sets)
        if (folder := _run_of(policy.origin)) is not None:
            settings = runs.settings(folder, settings, os.environ, overrides({}, sets))
        own = settings.client
        first = runs.environments(Path(saves), run) + own.number  # a run may be playing the others
        if render:
            result = _shown(policy.file, env, settings, first, range(seed, seed + episodes), stop)
        else:
            result = play(
                policy.file,
                episodes=episodes,
                seed=seed,
                environment=env,
                own=own,
                first_index=first,
                isolate=settings.environment.isolate is not False,
                limits=settings.watchdog,
                stopped=stop,
                progress=progress_on(sys.stderr, episodes),
            )
        if video is not None and stop.signal is None:
            seeds = range(seed, seed + min(episodes, RECORDED))
            _record(policy.file, env, settings, first, seeds, video, stop)
    name = policy.origin.parent.name
    where = f"{folder}, checkpoint {name}" if folder else str(policy.origin)
    _print(where, result, as_json=as_json)
    raise Exit(stop.exit_code)


def _print(where: str, result: "Evaluation", *, as_json: bool) -> None:
    if not as_json:
        click.echo("\n".join(_words(where, result)))
        return
    print_json({
        "mean": result.mean, "iqm": result.iqm, "std": result.std,
        "episodes": result.episodes, "env_steps": result.env_steps,
        "left_out": result.left_out, "faults": result.faults,
    })  # fmt: skip


def _shown(
    policy: Path,
    env: str,
    settings: "Config",
    first: int,
    seeds: range,
    stopped: Callable[[], bool],
) -> "Evaluation":
    """Play episodes in a window, and return their result."""
    from soulsai.client.evaluate import summarised
    from soulsai.client.recording import RecordedPolicy, watch
    from soulsai.client.trial_load import try_file
    from soulsai.errors import EnvironmentFault
    from soulsai.types import Episode

    try_file(policy)
    player = RecordedPolicy(policy, env, settings.client, first_index=first, mode="human")
    try:
        traces = watch(player, seeds, stopped)
    finally:
        player.environment.close()
    card = player.card
    played = [
        Episode(card.generation, card.version, trace.seed - seeds.start, sum(trace.rewards),
                len(trace.rewards), 0.0, trace.terminated, greedy=True, epsilon=0.0)
        for trace in traces
    ]  # fmt: skip
    if not played:
        raise EnvironmentFault(f"{player.id}: no episode has ended; it was stopped")
    return summarised(played)


def _record(
    policy: Path,
    env: str,
    settings: "Config",
    first: int,
    seeds: range,
    video: Path,
    stopped: Callable[[], bool],
) -> None:
    """Record episodes into one file, and say so."""
    from soulsai.client.recording import RecordedPolicy, record_file
    from soulsai.client.video import VideoLimits

    limits = VideoLimits(settings.evaluate.video_seconds, settings.evaluate.video_mb)
    player = RecordedPolicy(policy, env, settings.client, first_index=first)
    try:
        cut = record_file(player, seeds, video, limits, stopped)
    finally:
        player.environment.close()
    sys.stderr.write(f"{video}: recorded{f', {cut}' if cut else ''}\n")


def _words(where: str, result: "Evaluation") -> list[str]:
    from soulsai.launch.summary import counted

    lines = [
        f"{where}: mean reward {result.mean:.1f} (std {result.std:.1f}, interquartile mean "
        f"{result.iqm:.1f}) over {counted(result.episodes, 'episode')}, "
        f"{counted(result.env_steps, 'env step')}"
    ]
    if result.faults:
        faults = ", ".join(f"{count} {kind}" for kind, count in sorted(result.faults.items()))
        left_out = counted(result.left_out, "episode")
        lines.append(f"faults of the environment: {faults}; left out after three tries: {left_out}")
    return lines


def progress_on(
    stream: TextIO,
    total: int,
    clock: Callable[[], float] = time.monotonic,
    *,
    word: str = "episodes",
) -> Callable[[int], None]:
    """Return a function that shows the number of episodes, or other things, that are done.

    Args:
        stream: A terminal, where one line is renewed, or anything else, with a line now and then.
        total: The number of all of them.
        clock: Seconds.
        word: Their name, in the plural.
    """
    is_terminal = stream.isatty()
    due = clock() + (0.0 if is_terminal else LINE_SECONDS)

    def show(done: int) -> None:
        nonlocal due
        if is_terminal:
            end = "\r" if done < total else "\n"
            stream.write(f"{done} of {total} {word}{end}")
            stream.flush()
        elif clock() >= due:
            due = clock() + LINE_SECONDS
            stream.write(f"{done} of {total} {word}\n")
            stream.flush()

    return show


def _run_of(policy: Path) -> Path | None:
    """Return the folder of the run in whose numbered checkpoint a policy is, or ``None``."""
    from soulsai import runs

    place = policy.parent.parent
    if place.name == "checkpoints" and (place.parent / runs.CONFIG).is_file():
        return place.parent
    return None


@click.command("check-env")
@click.argument("env", metavar="ID", help='As in "train --env".')
@click.option("--save", type=click.Path(path_type=Path), help="Write the description to FILE.")
@config_option
@set_option
@json_option
def check_env(
    env: str, save: Path | None, config: Path | None, sets: Sequence[str], as_json: bool
) -> None:
    """Try an environment; say how it would be played and learnt."""
    from soulsai.client.environment_report import describe
    from soulsai.client.environment_trial import check_apart

    settings = load_settings(config, {"environment.id": env}, sets)
    report = check_apart(settings)
    if save is not None:
        text = msgspec.json.format(msgspec.json.encode(report.spec), indent=2)
        save.write_bytes(text + b"\n")
    if as_json:
        print_json(report)
        return
    for line in (*describe(report, settings), *_network(settings, report.spec)):
        click.echo(line)
    if save is not None:
        click.echo(f"{save}: written; name it as environment.spec_file")


def _network(config: "Config", spec: "Spec") -> Iterator[str]:
    """Yield the size and the speed of the policy that ``train`` would begin with."""
    actions = getattr(config.learner, "actions", (spec.action.kind,))
    if spec.action.kind not in actions or find_spec("torch") is None:  # a client's machine
        return
    from soulsai.errors import ConfigError
    from soulsai.training_node.forecast import describe, forecast

    try:
        for line in describe(forecast(config, spec)):
            yield f"  network      {line}"
    except ConfigError as error:
        yield f"  network      {error}"
