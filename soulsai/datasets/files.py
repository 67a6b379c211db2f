"""Data sets by their paths: the format is found in the file or folder itself."""

from collections.abc import Sequence
from pathlib import Path

import msgspec

from soulsai.datasets import kept_experience, minari_format, parquet_format
from soulsai.datasets.episodes import EpisodeDataset, check, merged
from soulsai.datasets.native import action_space, misfits, observation_space
from soulsai.errors import DatasetError
from soulsai.types import Spec


def read(
    paths: Sequence[Path],
    spec: Spec,
    *,
    environment: str,
    largest_reward: float,
    other_environment: bool = False,
) -> EpisodeDataset:
    """Read data sets, and check that they fit a run.

    Args:
        paths: Folders of Minari, Parquet files, or folders of kept experience.
        spec: The spaces of the run.
        environment: The id of the run's environment.
        largest_reward: The largest reward of a step, with either sign.
        other_environment: Whether data of another environment with the same spaces are welcome.

    Raises:
        DatasetError: One of them is not there, is damaged, or does not fit.
    """
    datasets = []
    for path in paths:
        dataset = _read(path, spec)
        theirs, ours = (_bare(id) for id in (dataset.environment, environment))
        if theirs and theirs != ours and not other_environment:
            raise DatasetError(
                f"{path}: is of {dataset.environment}, and the run plays {environment}; "
                "`soulsai import --other-environment` makes a data set of the run's"
            )
        check(dataset, largest_reward=largest_reward)
        datasets.append(dataset)
    return msgspec.structs.replace(merged(datasets), environment=environment)


def _bare(environment: str) -> str:
    return environment.rpartition(":")[2]


def _read(path: Path, spec: Spec) -> EpisodeDataset:
    if path.is_file():
        return parquet_format.read(path, spec)
    if minari_format.is_minari(path):
        return minari_format.read(path, spec)
    if kept_experience.is_kept(path):
        kept = kept_experience.read(path).dataset
        theirs = observation_space(kept.spec), action_space(kept.spec.action)
        if faults := misfits(spec, *theirs):
            raise DatasetError(f"{path}: does not fit: {'; '.join(faults)}")
        return msgspec.structs.replace(kept, source=str(path))
    found = "no data set of Minari, Parquet or kept experience" if path.exists() else "not there"
    raise DatasetError(f"{path}: is {found}")


def write(dataset: EpisodeDataset, path: Path, form: str) -> None:
    """Write a data set.

    Args:
        dataset: The episodes.
        path: A new folder, or a new file for Parquet.
        form: ``minari`` (HDF5), ``minari-arrow`` or ``parquet``.

    Raises:
        DatasetError: It holds no episode, or cannot be written there.
    """
    if not dataset.episodes:
        raise DatasetError(f"{dataset.source}: holds no whole episode")
    if form == "parquet":
        parquet_format.write(dataset, path)
    else:
        minari_format.write(dataset, path, storage="arrow" if form == "minari-arrow" else "hdf5")
