"""The Python API: what the commands do, from a program or a notebook.

``import soulsai`` gives all of it by these names; they are imported when they are used.
"""

import sys
import threading
from collections.abc import Sequence
from contextlib import nullcontext
from pathlib import Path
from typing import TYPE_CHECKING

from msgspec import Struct

from soulsai import connect, runs
from soulsai.client.evaluate import Evaluation
from soulsai.client.evaluate import evaluate as play
from soulsai.client.policy import SavedPolicy
from soulsai.config import Config, load
from soulsai.errors import ConfigError, RunFailed
from soulsai.launch.summary import Summary, save, summarise
from soulsai.launch.supervisor import Supervisor
from soulsai.launch.terminal import QuietView, view_for
from soulsai.process import StopSignal

if TYPE_CHECKING:
    import pandas as pd

__all__ = [
    "Config",
    "Evaluation",
    "SavedPolicy",
    "Summary",
    "TrainedRun",
    "evaluate",
    "load_config",
    "load_policy",
    "read_results",
    "train",
]


class TrainedRun(Struct, frozen=True):
    """A run that was trained by ``train``."""

    folder: Path
    summary: Summary


def load_config(file: str | Path | None = None, sets: Sequence[str] = ()) -> Config:
    """Return settings.

    Args:
        file: A YAML file, or a folder with ``config_d.yaml`` and ``config.yaml``; none: the
            defaults.
        sets: Overrides such as ``"environment.id=CartPole-v1"``.

    Raises:
        ConfigError: A setting is unknown, or has a wrong type or value.
    """
    return load(None if file is None else Path(file), {}, sets)


def train(config: Config, *, resume: str = "", progress: bool = False) -> TrainedRun:
    """Train on this machine until the planned end, as ``soulsai train`` does.

    Both nodes, the server and the clients are processes of their own; in the main thread, Ctrl-C
    saves and stops. On Windows, call it under ``if __name__ == "__main__"``.

    Args:
        config: All settings; ``run.max_env_steps`` is the planned end.
        resume: The id of a run to continue, or ``latest``.
        progress: Show the progress on the standard error.

    Returns:
        The run's folder and its numbers.

    Raises:
        ConfigError: The settings cannot work.
        RunFailed: A process could not go on; the message names it.
    """
    connect.need_server_extra()
    if resume:
        folder = runs.find(Path(config.run.saves), resume)
        resume, config = folder.name, runs.kept_in(folder, config)
    in_main = threading.current_thread() is threading.main_thread()
    with StopSignal() if in_main else nullcontext(StopSignal()) as stop:
        view = view_for(sys.stderr) if progress else QuietView()
        result = Supervisor(config, stop, view, resume=resume).run()
    if result.reason or result.folder is None or result.status is None:
        raise RunFailed(result.reason or "the run was stopped before it began", result.code or 1)
    summary = summarise(result.folder, result.status, result.wall_seconds)
    save(result.folder, summary)
    return TrainedRun(result.folder, summary)


def evaluate(
    run: str | Path,
    *,
    episodes: int = 100,
    seed: int = 1_000_000,
    environment: str = "",
    saves: str | Path = "saves",
) -> Evaluation:
    """Play greedy episodes; the i-th one begins with ``reset(seed=seed + i)``.

    Args:
        run: A run's id, ``latest``, a folder, or a ``policy.onnx``.
        episodes: The number of episodes.
        seed: The seed of the first one.
        environment: The environment of a file whose own is not known here.
        saves: The folder of all runs.

    Raises:
        CheckpointError: There is no such run, or it has no checkpoint yet.
        EnvironmentFault: The environment cannot be played.
    """
    known = environment or runs.environment(Path(saves), str(run))
    with runs.held_policy(Path(saves), str(run)) as policy:
        return play(policy.file, episodes=episodes, seed=seed, environment=known)


def load_policy(run: str | Path, *, saves: str | Path = "saves") -> SavedPolicy:
    """Return the policy of a run's newest checkpoint, or of a file.

    Args:
        run: A run's id, ``latest``, a folder, or a ``policy.onnx``.
        saves: The folder of all runs.

    Raises:
        CheckpointError: There is no such run, or it has no checkpoint yet.
    """
    with runs.held_policy(Path(saves), str(run)) as policy:
        return SavedPolicy(policy.file)


def read_results(run: str | Path, *, saves: str | Path = "saves") -> "pd.DataFrame":
    """Return the record of a run: one row per episode, in order.

    Args:
        run: A run's id, ``latest``, or a folder.
        saves: The folder of all runs.

    Raises:
        CheckpointError: There is no such run.
        ConfigError: pandas is not installed.
    """
    try:
        import pandas as pd
    except ImportError:
        raise ConfigError("read_results: pandas is not installed; pip install pandas") from None
    folder = runs.find(Path(saves), str(run))
    parts = [pd.read_json(part, lines=True) for part in sorted(folder.glob("results*.jsonl"))]
    return pd.concat(parts, ignore_index=True) if parts else pd.DataFrame()
