"""``soulsai evaluate`` and ``soulsai check-env``: play a policy, or try an environment."""

from pathlib import Path
from typing import Annotated

import msgspec
import typer

from soulsai.cli.options import Json, Saves, Sets, SettingsOption, load_settings, print_json


def evaluate(
    run: Annotated[str, typer.Argument(help="Run id, latest, a folder, or a policy.onnx.")],
    episodes: Annotated[int, typer.Option(min=1, help="Episodes to play.")] = 100,
    seed: Annotated[int, typer.Option(min=0, help="Seed of the first episode.")] = 1_000_000,
    env: Annotated[str, typer.Option(help="Play this, if the policy's own is not known.")] = "",
    saves: Saves = "saves",
    sets: Sets = None,
    as_json: Json = False,
) -> None:
    """Play greedy episodes with a run's newest checkpoint."""
    from soulsai import runs
    from soulsai.client.evaluate import evaluate as play

    policy = runs.policy(Path(saves), run)
    env = env or runs.environment(Path(saves), run)
    own = load_settings(None, {}, sets).client
    first = runs.environments(Path(saves), run) + own.number  # a run may be playing the others
    result = play(policy, episodes=episodes, seed=seed, environment=env, own=own, first_index=first)
    if as_json:
        print_json({
            "mean": result.mean, "iqm": result.iqm, "std": result.std,
            "episodes": result.episodes, "env_steps": result.env_steps,
        })  # fmt: skip
        return
    typer.echo(
        f"{policy}: mean reward {result.mean:.1f} (std {result.std:.1f}, interquartile mean "
        f"{result.iqm:.1f}) over {result.episodes} episodes, {result.env_steps:,} env steps"
    )


def check_env(
    env: Annotated[str, typer.Argument(metavar="ID", help='As in "train --env".')],
    save: Annotated[Path | None, typer.Option(help="Write the description to FILE.")] = None,
    config: SettingsOption = None,
    sets: Sets = None,
    as_json: Json = False,
) -> None:
    """Try an environment; say how it would be played and learnt."""
    from soulsai.client.environment_report import check, describe

    settings = load_settings(config, {"environment.id": env}, sets)
    report = check(settings)
    if save is not None:
        text = msgspec.json.format(msgspec.json.encode(report.spec), indent=2)
        save.write_bytes(text + b"\n")
    if as_json:
        print_json(report)
        return
    for line in describe(report, settings):
        typer.echo(line)
    if save is not None:
        typer.echo(f"{save}: written; name it as environment.spec_file")
