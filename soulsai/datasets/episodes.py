"""Episodes in memory, their checks, and their conversion from and to fragments."""

from collections.abc import Iterable, Iterator, Sequence
from itertools import groupby

import msgspec
import numpy as np
from msgspec import Struct

from soulsai.errors import DatasetError
from soulsai.heads import from_environment_rows, to_environment_rows
from soulsai.types import (
    MASK,
    UNBOUNDED,
    ActionSpec,
    Array,
    Fragment,
    Head,
    Leaf,
    RunSpec,
    Spec,
)
from soulsai.wire.limits import LARGEST_OBSERVATION

DEMONSTRATOR = "demonstrations"  # the client's name in fragments of a data set
BOUND_ERROR = 1e-5  # by which a number may exceed its bounds, relative to their distance
EPISODE_FACTS = dict[str, str | int | float | bool]


class RecordedEpisode(Struct, frozen=True, eq=False):
    """One episode of T steps, as the environment gave and took it.

    Observations are the leaves of the spec; categories and choices count from zero. Numbers of
    actions are in units of the environment. An episode that neither terminated nor was truncated
    was cut.
    """

    obs: dict[str, Array]  # [T + 1, ...]
    action: Array  # [T, ...] in the shape of ``ActionSpec.shape``
    reward: Array  # [T]
    terminated: bool
    truncated: bool
    intervened: Array | None = None  # [T] whether a person chose the action
    infos: dict[str, Array] = {}  # numbers [T + 1]
    seed: int | None = None
    facts: EPISODE_FACTS = {}

    def __len__(self) -> int:
        """Return the number of steps."""
        return len(self.reward)

    @property
    def total(self) -> float:
        """The sum of all rewards."""
        return float(np.sum(self.reward, dtype=np.float64))


class EpisodeDataset(Struct, frozen=True, eq=False):
    """Episodes of one environment."""

    spec: Spec
    episodes: Sequence[RecordedEpisode]
    environment: str = ""  # its id; empty: not known
    source: str = ""  # the file or folder, for messages

    @property
    def steps(self) -> int:
        """The number of all steps."""
        return sum(map(len, self.episodes))


def check(dataset: EpisodeDataset, *, largest_reward: float) -> None:
    """Raise ``DatasetError`` for the first number that no environment of the spec gives or takes.

    Args:
        dataset: The episodes.
        largest_reward: The largest reward of a step, with either sign.
    """
    if not dataset.episodes:
        raise DatasetError(f"{dataset.source}: holds no episode")
    for index, episode in enumerate(dataset.episodes):
        where = f"{dataset.source}: episode {index}"
        _check_shapes(where, dataset.spec, episode)
        for leaf_name, leaf in dataset.spec.obs.items():
            _check_leaf(where, leaf_name, leaf, episode.obs[leaf_name])
        rewards = np.abs(episode.reward)
        _check_steps(where, "reward", rewards <= largest_reward, episode.reward, largest_reward)
        _check_actions(where, dataset.spec, episode)


def _check_shapes(where: str, spec: Spec, episode: RecordedEpisode) -> None:
    steps = len(episode)
    if not steps:
        raise DatasetError(f"{where}: has no step")
    wanted = {name: (steps + 1, leaf.shape) for name, leaf in spec.obs.items()}
    found = dict(episode.obs)
    if missing := wanted.keys() - found.keys():
        raise DatasetError(f"{where}: leaf {min(missing)!r} is missing")
    wanted["action"], found["action"] = (steps, spec.action.shape), episode.action
    for name, (count, shape) in wanted.items():
        if found[name].shape != (count, *shape):
            raise DatasetError(
                f"{where}: {name!r} has shape {found[name].shape} for {steps} rewards, "
                f"wanted {(count, *shape)}"
            )


def _check_leaf(where: str, name: str, leaf: Leaf, rows: Array) -> None:
    if leaf.categories:
        _check_steps(where, name, (rows >= 0) & (rows < leaf.categories), rows, leaf.categories - 1)
    elif rows.dtype.kind == "f":
        _check_steps(where, name, np.abs(rows) <= LARGEST_OBSERVATION, rows, LARGEST_OBSERVATION)


def _check_actions(where: str, spec: Spec, episode: RecordedEpisode) -> None:
    flat = episode.action.reshape(len(episode), -1)
    split = len(spec.action.sizes)
    choices, numbers = flat[:, :split], flat[:, split:]
    sizes = np.asarray(spec.action.sizes)
    whole = (choices >= 0) & (choices < sizes) & (choices == np.floor(choices))
    _check_steps(where, "action", whole, choices, spec.action.sizes)
    low, high = np.asarray(spec.action.low), np.asarray(spec.action.high)
    slack = np.where(np.abs(high - low) < UNBOUNDED, BOUND_ERROR * np.abs(high - low), 0.0)
    inside = np.isfinite(numbers) & (numbers >= low - slack) & (numbers <= high + slack)
    _check_steps(where, "action", inside, numbers, f"{list(low)} to {list(high)}")
    if MASK in spec.obs:
        allowed = _allowed(spec.action, choices.astype(np.int64), episode.obs[MASK][:-1])
        _check_steps(where, "action", allowed, choices, "the choices that the mask allows")


def _allowed(action: ActionSpec, choices: Array, mask: Array) -> Array:
    """Return whether the mask [T, choices] allows the choices [T, components]."""
    rows, first = np.arange(len(choices)), 0
    allowed = np.ones(choices.shape, np.bool_)
    mask = mask.reshape(len(choices), -1)
    for component, size in enumerate(action.sizes):
        valid = mask[:, first : first + size]
        allowed[:, component] = valid[rows, choices[:, component]] | ~valid.any(1)
        first += size
    return allowed


def _check_steps(where: str, name: str, right: Array, rows: Array, bound: object) -> None:
    """Raise ``DatasetError`` for the first wrong number; comparisons with NaN are false."""
    if right.all():
        return
    place = np.argwhere(~right)[0]
    value = rows[tuple(place)]
    fault = f"{value} is beyond {bound}" if np.isfinite(value) else f"{value} is not finite"
    raise DatasetError(f"{where}, step {place[0]}, {name!r}: {fault}")


def to_fragments(dataset: EpisodeDataset, head: Head) -> list[Fragment]:
    """Return each episode as one fragment of the client ``DEMONSTRATOR``.

    The columns of the head and the memory of the policy are left out, as nobody knows them.

    Args:
        dataset: The episodes.
        head: Determines the units in which actions travel.
    """
    return [
        Fragment(
            client=DEMONSTRATOR,
            epoch=0,
            episode=index,
            start=0,
            clock=0,
            generation=0,
            version=0,
            obs={name: episode.obs[name] for name in dataset.spec.obs},
            action=from_environment_rows(head, dataset.spec.action, episode.action),
            reward=episode.reward.astype("<f4"),
            terminated=episode.terminated,
            truncated=episode.truncated,
        )
        for index, episode in enumerate(dataset.episodes)
    ]


class JoinedEpisodes(Struct, frozen=True, eq=False):
    """The whole episodes among fragments."""

    dataset: EpisodeDataset
    incomplete: int  # episodes of which a step is missing, or that have not ended


def from_fragments(run: RunSpec, head: Head, fragments: Iterable[Fragment]) -> JoinedEpisodes:
    """Join fragments into whole episodes, in the order of their first arrival.

    Args:
        run: The run of the fragments.
        head: Determines the units in which their actions travel.
        fragments: They may come in any order, and more than once.
    """
    arrived: dict[tuple[str, int, int, int], Fragment] = {}
    for fragment in fragments:
        key = (fragment.client, fragment.epoch, fragment.episode, fragment.start)
        arrived.setdefault(key, fragment)
    order = {key[:3]: place for place, key in reversed(list(enumerate(arrived)))}
    keys = sorted(arrived, key=lambda key: (order[key[:3]], key[3]))
    episodes, incomplete = [], 0
    for _, group in groupby(keys, key=lambda key: key[:3]):
        parts = [arrived[key] for key in group]
        if _whole(parts):
            episodes.append(_joined(run.spec, head, parts))
        else:
            incomplete += 1
    dataset = EpisodeDataset(run.spec, episodes, run.environment.id, run.run)
    return JoinedEpisodes(dataset, incomplete)


def _whole(parts: Sequence[Fragment]) -> bool:
    ends = [0, *(part.start + len(part) for part in parts)]
    connected = all(part.start == end for part, end in zip(parts, ends, strict=False))
    return connected and parts[-1].ended


def _joined(spec: Spec, head: Head, parts: Sequence[Fragment]) -> RecordedEpisode:
    last = parts[-1]
    obs = {
        name: np.concatenate([*(part.obs[name][:-1] for part in parts[:-1]), last.obs[name]])
        for name in spec.obs
    }
    action = np.concatenate([part.action for part in parts])
    return RecordedEpisode(
        obs=obs,
        action=to_environment_rows(head, spec.action, action),
        reward=np.concatenate([part.reward for part in parts]),
        terminated=last.terminated,
        truncated=last.truncated,
        intervened=_marks(parts),
        facts={
            "client": last.client,
            "episode": last.episode,
            "generation": last.generation,
            "version": last.version,
            "greedy": last.greedy,
        },
    )


def _marks(parts: Sequence[Fragment]) -> Array | None:
    """Return whether a person chose the action of each step; ``None`` if of none."""
    if all(part.intervened is None for part in parts):
        return None
    return np.concatenate([
        np.zeros(len(part), np.bool_) if part.intervened is None else part.intervened
        for part in parts
    ])  # fmt: skip


def merged(datasets: Sequence[EpisodeDataset]) -> EpisodeDataset:
    """Return the episodes of several data sets of one spec as one."""
    first = datasets[0]
    episodes = [episode for dataset in datasets for episode in dataset.episodes]
    source = ", ".join(dataset.source for dataset in datasets)
    return msgspec.structs.replace(first, episodes=episodes, source=source)


def infos_of(steps: Sequence[dict[str, object]]) -> dict[str, Array]:
    """Return the numbers of infos as columns [T + 1]; NaN where a step has none.

    Args:
        steps: The info of the reset and of each step.
    """
    columns: dict[str, Array] = {}
    for index, info in enumerate(steps):
        for name, value in _numbers(info):
            if name not in columns:
                columns[name] = np.full(len(steps), np.nan)
            columns[name][index] = value
    return columns


def _numbers(info: dict[str, object]) -> Iterator[tuple[str, float]]:
    for name, value in info.items():
        if isinstance(value, int | float | np.number | np.bool_) and abs(float(value)) < np.inf:
            yield str(name), float(value)
