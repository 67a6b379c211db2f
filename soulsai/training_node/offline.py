"""Learning from data sets alone: no clients, no server, and a run folder to start from."""

from collections.abc import Callable
from datetime import datetime
from pathlib import Path

import msgspec
import torch
from msgspec import Struct

from soulsai.algorithms.base import Algorithm
from soulsai.algorithms.demonstrations import PART, LearnsFromDemonstrations, LearnsOffline
from soulsai.config.schema import Config
from soulsai.datasets import files
from soulsai.datasets.episodes import to_fragments
from soulsai.errors import CheckpointError, ConfigError
from soulsai.training_node import start, warm_start
from soulsai.training_node.publisher import Publisher
from soulsai.training_node.saving import atomic_folders, run_folder, snapshot
from soulsai.training_node.saving.snapshot import Progress
from soulsai.types import Metrics, Spec, Status

SHOW_EVERY = 100  # updates


class OfflineResult(Struct, frozen=True):
    """The end of learning from data."""

    folder: Path
    updates: int
    episodes: int
    env_steps: int
    data_mean: float  # reward of the episodes of the data
    metrics: Metrics


def learn(
    config: Config,
    spec: Spec,
    now: datetime,
    *,
    stopped: Callable[[], bool],
    progress: Callable[[int, Metrics], object] = lambda _updates, _metrics: None,
) -> OfflineResult:
    """Learn from the data sets of ``demonstrations.data``, and write a checkpoint.

    Args:
        config: All settings.
        spec: Observations and actions of the environment.
        now: The time that the run's folder is named after.
        stopped: Whether to write the checkpoint now.
        progress: Receives the number of updates and their metrics.

    Raises:
        ConfigError: There are no data, or the algorithm cannot learn from data alone.
        DatasetError: The data do not fit.
    """
    data = config.demonstrations.data
    if not data:
        raise ConfigError("--data: name the data sets to learn from, as in --data demos/lander-v0")
    torch.set_num_threads(config.training.threads or 1)
    dataset = files.read(
        [Path(path) for path in data],
        spec,
        environment=config.environment.id,
        largest_reward=config.environment.largest_reward,
    )
    room = max(config.demonstrations.capacity, dataset.steps)
    shown = msgspec.structs.replace(config.demonstrations, capacity=room, clone_steps=0)
    config = msgspec.structs.replace(config, demonstrations=shown)
    algorithm = start.build_algorithm(config, spec, seed=config.run.seed or 0)
    if not isinstance(algorithm, LearnsOffline) or not isinstance(
        algorithm, LearnsFromDemonstrations
    ):
        raise ConfigError(f"algorithm.name: {config.algorithm.name} cannot learn from data alone")
    warm_start.start_from(config.start, Path(config.run.saves), algorithm)
    algorithm.demonstrate(to_fragments(dataset, algorithm.policy.head))
    updates, metrics = 0, {}
    while updates < config.offline.updates and not stopped():
        metrics = algorithm.offline_update(config.offline.conservative)
        updates += 1
        if algorithm.policy.fault:
            raise ConfigError(f"offline: {algorithm.policy.fault}; lower the learning rate")
        if updates % SHOW_EVERY == 0:
            progress(updates, metrics)
    # The data are no part of the run that is saved.
    plain = msgspec.structs.replace(config, demonstrations=type(shown)())
    folder = _save(plain, spec, algorithm, updates, now)
    totals = [episode.total for episode in dataset.episodes]
    mean = sum(totals) / len(totals)
    return OfflineResult(folder, updates, len(totals), dataset.steps, mean, metrics)


def _save(config: Config, spec: Spec, algorithm: Algorithm, updates: int, now: datetime) -> Path:
    """Write a run folder with one checkpoint, and return it."""
    program = start.export(config, algorithm.policy, spec)
    folder = run_folder.create(config, now)
    folder.write_program(program)
    published = start.run_spec(config, spec, program, algorithm, folder.run)
    progress = Progress(folder.run, updates=updates)
    run = start.TrainingRun(config, folder, published, program, algorithm, progress)
    policy = Publisher(run, lambda _: True).file()
    parts = {name: part for name, part in algorithm.parts.items() if name != PART}
    content = snapshot.files(progress, parts, policy, replay=False)
    try:
        atomic_folders.append(folder.checkpoints, content, config.checkpoint.keep, 1)
        folder.write_status(
            Status(
                run=folder.run,
                generation=0,
                phase="ended",
                algorithm=config.algorithm.name,
                environment=config.environment.id,
                updates=updates,
            )
        )
    except OSError as error:
        raise CheckpointError(f"{folder.path}: checkpoint not saved: {error}") from error
    return folder.path
