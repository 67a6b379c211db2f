"""Data sets in the formats of Minari 0.5, HDF5 and Arrow, read and written by Minari itself."""

import importlib
import json
import re
from contextlib import suppress
from pathlib import Path
from typing import Any, Literal

import gymnasium
import numpy as np
from gymnasium.envs.registration import EnvSpec

from soulsai.datasets.episodes import EpisodeDataset, RecordedEpisode
from soulsai.datasets.extra import need
from soulsai.datasets.native import (
    action_rows,
    action_space,
    leaf_arrays,
    mask_key,
    misfits,
    nested_actions,
    nested_observations,
    observation_leaves,
    observation_space,
)
from soulsai.errors import DatasetError
from soulsai.types import MASK, Array, Spec

Storage = Literal["hdf5", "arrow"]

DATA = "data"  # the folder in that of a data set
METADATA = "metadata.json"
INTERVENED = "intervened"  # the key of the infos; it has no meaning for the reset
NAME = re.compile(r"[-_\w]+-v\d+\Z")
RAISED = (OSError, ValueError, KeyError, TypeError, AssertionError, IndexError, RuntimeError)


def is_minari(path: Path) -> bool:
    """Return whether a folder is a data set of Minari, or its ``data``."""
    return _data_folder(path) is not None


def _data_folder(path: Path) -> Path | None:
    found = next((p for p in (path, path / DATA) if (p / METADATA).is_file()), None)
    return None if found is None else found.resolve()  # Minari joins a relative path with itself


def read(path: Path, spec: Spec) -> EpisodeDataset:
    """Read a data set.

    Args:
        path: Its folder.
        spec: The spaces of the run.

    Raises:
        DatasetError: It is damaged, or has other spaces.
    """
    need("minari")
    from minari.dataset.minari_storage import MinariStorage

    data = _data_folder(path)
    if data is None:
        raise DatasetError(f"{path}: is no data set of Minari; it has no {METADATA}")
    try:
        about = json.loads((data / METADATA).read_text("utf-8"))
        # Without them, Minari makes the environment that the file names.
        if not {"observation_space", "action_space"} <= about.keys():
            raise DatasetError(f"{path}: its {METADATA} does not describe its spaces")
        need("h5py" if about.get("data_format") == "hdf5" else "pyarrow")
        storage = MinariStorage.read(data)
        if faults := misfits(spec, storage.observation_space, storage.action_space):
            raise DatasetError(f"{path}: does not fit: {'; '.join(faults)}")
        indices = range(storage.total_episodes)
        about_episodes = list(storage.get_episode_metadata(indices))
        stored = zip(indices, storage.get_episodes(indices), about_episodes, strict=True)
        episodes = [_episode(f"{path}: episode {i}", spec, e, facts) for i, e, facts in stored]
    except RAISED as error:
        raise DatasetError(f"{path}: cannot be read: {_line(error)}") from error
    return EpisodeDataset(spec, episodes, _environment(about), str(path))


def _episode(
    where: str, spec: Spec, stored: dict[str, Any], about: dict[str, Any]
) -> RecordedEpisode:
    ends = [np.asarray(stored[name], np.bool_) for name in ("terminations", "truncations")]
    over = ends[0] | ends[1]
    if over[:-1].any():
        raise DatasetError(
            f"{where}, step {int(np.argmax(over))}: the episode ends, and has more steps"
        )
    infos = {".".join(map(str, name)): array for name, array in leaf_arrays(stored["infos"] or {})}
    try:
        obs = observation_leaves(spec, stored["observations"])
        action = action_rows(spec.action, stored["actions"])
    except (DatasetError, ValueError) as error:
        raise DatasetError(f"{where}: {_line(error)}") from None
    if key := mask_key(spec):
        if key not in infos:
            raise DatasetError(f"{where}: its infos have no {key!r}, the run's mask of actions")
        obs[MASK] = infos.pop(key).reshape(len(over) + 1, -1).astype(np.bool_)
    intervened = infos.pop(INTERVENED, None)
    seed = about.get("seed")
    return RecordedEpisode(
        obs=obs,
        action=action,
        reward=np.asarray(stored["rewards"]),
        terminated=bool(ends[0][-1:].any()),
        truncated=bool(ends[1][-1:].any()),
        intervened=None if intervened is None else intervened[1:].astype(np.bool_),
        infos=infos,
        seed=None if seed is None else int(seed),
        facts={name: _plain(value) for name, value in about.items() if name not in _OWN},
    )


_OWN = ("id", "seed", "total_steps", "options")


def _plain(value: Any) -> str | int | float | bool:
    item = value.item() if isinstance(value, np.generic) else value
    return item if isinstance(item, str | int | float | bool) else str(item)


def _environment(about: dict[str, Any]) -> str:
    """Return the id of the environment in the metadata, or an empty text."""
    with suppress(ValueError, TypeError, KeyError):
        return str(json.loads(about["env_spec"])["id"])
    return str(about.get("environment", ""))


def write(dataset: EpisodeDataset, path: Path, *, storage: Storage = "hdf5") -> None:
    """Write a data set, which ``minari.load_dataset`` finds by the name of its folder.

    Args:
        dataset: The episodes.
        path: A new folder; its name ends in a version, as in ``lander-v0``.
        storage: The format of the file.

    Raises:
        DatasetError: The folder is there already, or its name is no id of Minari.
    """
    need("minari")
    need("h5py" if storage == "hdf5" else "pyarrow")
    from minari.data_collector.episode_buffer import EpisodeBuffer
    from minari.dataset.minari_storage import MinariStorage

    if not NAME.match(path.name):
        raise DatasetError(f"{path}: Minari needs a name with a version, as in {path.name}-v0")
    try:
        path.mkdir(parents=True)
        path = path.resolve()  # Minari joins a relative path with itself
        created = MinariStorage.new(
            path / DATA,
            observation_space(dataset.spec),
            action_space(dataset.spec.action),
            _registered(dataset.environment),
            data_format=storage,
            jpeg_encoding=False,  # it would change the pictures
        )
        created.update_episodes(
            EpisodeBuffer(id=index, **_stored(dataset.spec, episode))
            for index, episode in enumerate(dataset.episodes)
        )
        facts = [episode.facts for episode in dataset.episodes]
        created.update_episode_metadata(facts, range(len(facts)))
        created.update_metadata({
            "dataset_id": path.name,
            "minari_version": importlib.import_module("minari").__version__,
            "environment": dataset.environment,
        })  # fmt: skip
    except FileExistsError:
        raise DatasetError(f"{path}: is there already; name a new folder") from None
    except RAISED as error:
        raise DatasetError(f"{path}: cannot be written: {_line(error)}") from error


def _registered(environment: str) -> EnvSpec | None:
    """Return Gymnasium's own spec of an environment, if there is one that JSON can hold."""
    spec = gymnasium.registry.get(environment.rpartition(":")[2])
    if spec is not None:
        with suppress(TypeError, ValueError):
            spec.to_json()
            return spec
    return None


def _stored(spec: Spec, episode: RecordedEpisode) -> dict[str, Any]:
    """Return an episode as the fields of Minari's buffer."""
    steps = len(episode)
    ends = np.zeros((2, steps), np.bool_)
    ends[:, -1] = episode.terminated, episode.truncated
    infos: dict[str, Array] = dict(episode.infos)
    if key := mask_key(spec):
        infos[key] = episode.obs[MASK].astype(np.int8)
    if episode.intervened is not None:
        infos[INTERVENED] = np.concatenate(([False], episode.intervened))
    return {
        "seed": episode.seed,
        "observations": nested_observations(spec, episode.obs),
        "actions": nested_actions(spec.action, episode.action),
        "rewards": episode.reward,
        "terminations": ends[0],
        "truncations": ends[1],
        # Minari's Arrow storage cannot read columns of numbers back that it got as arrays.
        "infos": {n: c.tolist() if c.ndim == 1 else c for n, c in infos.items()} or None,
    }


def _line(error: BaseException) -> str:
    text = " ".join(str(error).split())
    return text if isinstance(error, DatasetError) else f"{type(error).__name__}: {text}"[:300]
