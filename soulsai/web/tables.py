"""Columns of numbers that one thread extends while others read them, and tallies of episodes."""

import math
from collections import OrderedDict, deque
from collections.abc import Mapping
from functools import partial
from typing import TypeVar

import numpy as np
from msgspec import Struct, field

from soulsai.types import Array, Episode, Status

NUMBER, TIME, ENV_STEPS = "number", "time", "env_steps"  # columns that every table has
FEWEST_ROWS = 1024
MOST_ROWS = 500_000
MOST_COLUMNS = 64
MOST_CELLS = 8_000_000  # rows times columns: 64 MB
MOST_CLIENTS = 1024
MOST_VERSIONS = 512
RECENT = 20  # episodes in a moving average

Key = TypeVar("Key")
_NOTHING: Mapping[str, float] = {}
_RESERVED = (NUMBER, "episode", "sample")  # how rows are counted
_EPISODE = ("reward", "steps", "seconds", "epsilon", "greedy", "terminated", "version")
_COLUMNS = (TIME, ENV_STEPS, *_EPISODE)  # of every episode


class TableView(Struct, frozen=True, eq=False):
    """The rows of a table at one moment; its arrays are read-only."""

    columns: dict[str, Array]

    def __len__(self) -> int:
        """Return the number of rows."""
        return len(self.columns[NUMBER])


class Table:
    """Rows of named numbers, appended by one thread; reading needs no lock.

    A missing number is NaN. Rows are numbered from 1. Beyond ``limit`` rows or ``MOST_CELLS``
    numbers, the oldest rows are thinned out evenly, so that memory is bounded in runs of any
    length, with any number of columns.
    """

    def __init__(self, limit: int = MOST_ROWS) -> None:
        self._limit = limit
        self._state = ({name: _empty(FEWEST_ROWS) for name in (NUMBER, TIME, ENV_STEPS)}, 0)
        self.last = 0  # the number of the newest row

    def append(self, row: Mapping[str, float]) -> None:
        """Append a row; names beyond the bound on columns are left out."""
        arrays, count = self._state
        new = [name for name in row if name not in arrays][: MOST_COLUMNS - len(arrays)]
        most = min(self._limit, MOST_CELLS // (len(arrays) + len(new)))
        if count == len(arrays[NUMBER]) or len(arrays[NUMBER]) > most:
            arrays, count = self._grown(arrays, count, most)
        for name in new:  # in their order, which is the order of the page's charts
            arrays = {**arrays, name: _empty(len(arrays[NUMBER]))}
        for name, value in row.items():
            if name in arrays:
                arrays[name][count] = value
        arrays[NUMBER][count] = self.last + 1
        # Readers see the row from here on, when it is complete.
        self._state = (arrays, count + 1)
        self.last += 1

    def has(self, name: str) -> bool:
        """Return whether there is a column of this name."""
        return name in self._state[0]

    def view(self) -> TableView:
        """Return the present rows."""
        arrays, count = self._state
        return TableView({name: array[:count] for name, array in arrays.items()})

    @staticmethod
    def _grown(arrays: dict[str, Array], count: int, most: int) -> tuple[dict[str, Array], int]:
        """Return copies with room for more rows: readers may still hold the old arrays."""
        keep = np.arange(count)
        if 2 * count > most:
            keep = _thinned(arrays[NUMBER][:count])
            while len(keep) >= most:
                keep = keep[_thinned(arrays[NUMBER][keep])]
        size = min(2 * count, most)
        larger = {name: _empty(size) for name in arrays}
        for name, array in arrays.items():
            larger[name][: len(keep)] = array[keep]
        return larger, len(keep)


class Tally(Struct):
    """Finished episodes of one client, or with one version of the weights."""

    episodes: int = 0
    reward: float = 0.0  # the sum of all
    greedy_episodes: int = 0
    greedy_reward: float = 0.0  # the sum of the greedy ones
    intervened_episodes: int = 0
    intervened_reward: float = 0.0  # the sum of those in which a person chose steps
    steps: int = 0
    env_steps: int = 0  # at the newest
    recent: deque[float] = field(default_factory=partial(deque, maxlen=RECENT))

    def add(self, episode: Episode) -> None:
        """Count an episode."""
        self.episodes += 1
        self.reward += episode.reward
        self.steps += episode.steps
        self.env_steps = episode.env_steps
        self.recent.append(episode.reward)
        if episode.kind == "greedy":
            self.greedy_episodes += 1
            self.greedy_reward += episode.reward
        elif episode.kind == "intervened":
            self.intervened_episodes += 1
            self.intervened_reward += episode.reward

    @property
    def reward_mean(self) -> float | None:
        """The mean of all rewards."""
        return self.reward / self.episodes if self.episodes else None

    @property
    def recent_mean(self) -> float | None:
        """The mean of the last rewards."""
        recent = self.recent.copy()  # another thread may add to it
        return sum(recent) / len(recent) if recent else None

    @property
    def exploring_mean(self) -> float | None:
        """The mean reward of exploring episodes."""
        count = self.episodes - self.greedy_episodes - self.intervened_episodes
        reward = self.reward - self.greedy_reward - self.intervened_reward
        return reward / count if count else None

    @property
    def greedy_mean(self) -> float | None:
        """The mean reward of greedy episodes."""
        return self.greedy_reward / self.greedy_episodes if self.greedy_episodes else None


class Episodes:
    """The finished episodes of one run as columns, and tallies by client and by version."""

    def __init__(self, limit: int = MOST_ROWS) -> None:
        self.table = Table(limit)
        self.clients: OrderedDict[str, Tally] = OrderedDict()  # the latest to play
        self.versions: OrderedDict[tuple[int, int], Tally] = OrderedDict()

    def add(self, episode: Episode, measured: Mapping[str, float] = _NOTHING) -> None:
        """Add an episode and its measures; a mere claim makes no column of its info's names."""
        row = episode_row(episode)
        if not episode.verified:
            row = {name: x for name, x in row.items() if name in _COLUMNS or self.table.has(name)}
        self.table.append({**row, **measured})
        _tally(self.clients, episode.client, MOST_CLIENTS).add(episode)
        _tally(self.versions, (episode.generation, episode.version), MOST_VERSIONS).add(episode)


def _tally(tallies: OrderedDict[Key, Tally], key: Key, most: int) -> Tally:
    """Return the tally of a key as the newest one; beyond ``most``, drop the longest unused."""
    tally = tallies.setdefault(key, Tally())
    tallies.move_to_end(key)
    while len(tallies) > most:
        tallies.popitem(last=False)
    return tally


def episode_row(episode: Episode) -> dict[str, float]:
    """Return an episode's numbers by name.

    A number in ``info`` with the name of one of ours becomes ``info_<name>``.
    """
    row = {
        TIME: episode.time,
        ENV_STEPS: float(episode.env_steps),
        "reward": episode.reward,
        "steps": float(episode.steps),
        "seconds": episode.seconds,
        "epsilon": episode.epsilon,
        "greedy": float(episode.greedy),
        "terminated": float(episode.terminated),
        "version": float(episode.version),
    }
    for name, value in episode.info.items():
        row[f"info_{name}" if name in row or name in _RESERVED else name] = value
    return row


def sample_row(status: Status, time: float) -> dict[str, float]:
    """Return the numbers of a status by name; ``time`` is in Unix seconds."""
    row = {
        TIME: time,
        ENV_STEPS: float(status.env_steps),
        "updates": float(status.updates),
        "lag": status.lag,
        "clients": float(sum(client.state != "lost" for client in status.clients)),
        "queued": float(sum(client.queued for client in status.clients)),
        "rejected": float(sum(status.rejected.values())),
        "duplicates": float(status.duplicates),
        "lost": float(status.lost),
        "dropped": float(status.dropped),
    }
    # Rates before the first step or update would be drawn as a rise from zero.
    if status.env_steps:
        row["env_steps_per_second"] = status.env_steps_per_second
    if status.updates:
        row["updates_per_second"] = status.updates_per_second
        row["replay_ratio"] = status.replay_ratio
    if status.reward_per_step is not None:
        row["reward_per_step"] = status.reward_per_step
    taken = {*_RESERVED, *row, *_EPISODE}
    for name, value in status.metrics.items():
        if math.isfinite(value):
            row[f"training_{name}" if name in taken else name] = value
    return row


def _thinned(numbers: Array) -> Array:
    """Return the indices to keep: the newest quarter, and half of the others evenly over time."""
    old = 3 * len(numbers) // 4
    even = np.linspace(numbers[0], numbers[old - 1], old // 2)
    kept = np.unique(np.searchsorted(numbers[:old], even))
    return np.concatenate([kept, np.arange(old, len(numbers))])


def _empty(size: int) -> Array:
    return np.full(size, np.nan)
