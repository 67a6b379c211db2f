"""Numbers in columns that one thread extends while others read them."""

import math
from collections.abc import Mapping

import numpy as np
from msgspec import Struct

from soulsai.types import Array, Episode, Status

NUMBER, TIME, ENV_STEPS = "number", "time", "env_steps"  # columns that every table has
FEWEST_ROWS = 1024
MOST_ROWS = 500_000
MOST_COLUMNS = 64
MOST_CLIENTS = 1024

_RESERVED = (NUMBER, "episode", "sample")  # how rows are counted
_EPISODE = ("reward", "steps", "seconds", "epsilon", "greedy", "terminated", "version")


class View(Struct, frozen=True, eq=False):
    """The rows of a table at one moment; its arrays are not to be changed."""

    columns: dict[str, Array]

    def __len__(self) -> int:
        """Return the number of rows."""
        return len(self.columns[NUMBER])


class Table:
    """Rows of named numbers, appended by one thread; reading needs no lock.

    A number that a row does not have is NaN. Rows are numbered from 1. Beyond ``limit`` rows, those
    longest there are thinned out evenly, so that a run may last for ever.
    """

    def __init__(self, limit: int = MOST_ROWS) -> None:
        self._limit = limit
        self._state = ({name: _empty(FEWEST_ROWS) for name in (NUMBER, TIME, ENV_STEPS)}, 0)
        self.last = 0  # the number of the newest row

    def append(self, row: Mapping[str, float]) -> None:
        """Take in one row; names beyond the bound on columns are left out."""
        arrays, count = self._state
        if count == len(arrays[NUMBER]):
            arrays, count = self._with_room(arrays, count)
        for name in row.keys() - arrays.keys():
            if len(arrays) < MOST_COLUMNS:
                arrays = {**arrays, name: _empty(len(arrays[NUMBER]))}
        for name, value in row.items():
            if name in arrays:
                arrays[name][count] = value
        arrays[NUMBER][count] = self.last + 1
        # Readers see the row only now that it is complete.
        self._state = (arrays, count + 1)
        self.last += 1

    def view(self) -> View:
        """Return the rows that are there now."""
        arrays, count = self._state
        return View({name: array[:count] for name, array in arrays.items()})

    def _with_room(self, arrays: dict[str, Array], count: int) -> tuple[dict[str, Array], int]:
        """Return copies with room for more: readers may still hold the old ones."""
        keep = np.arange(count) if 2 * count <= self._limit else _thinned(arrays[NUMBER])
        size = max(count, min(2 * count, self._limit))
        roomy = {name: _empty(size) for name in arrays}
        for name, array in arrays.items():
            roomy[name][: len(keep)] = array[keep]
        return roomy, len(keep)


class Tally(Struct):
    """The finished episodes of one client."""

    episodes: int = 0
    reward: float = 0.0  # the sum of all


class Episodes:
    """The finished episodes of one run, as columns, and who has played how many."""

    def __init__(self, limit: int = MOST_ROWS) -> None:
        self.table = Table(limit)
        self.clients: dict[str, Tally] = {}

    def add(self, episode: Episode) -> None:
        """Take in one episode."""
        self.table.append(episode_row(episode))
        tally = self.clients.get(episode.client)
        if tally is None:
            if len(self.clients) >= MOST_CLIENTS:
                return
            tally = self.clients[episode.client] = Tally()
        tally.episodes += 1
        tally.reward += episode.reward


def episode_row(episode: Episode) -> dict[str, float]:
    """Return an episode's numbers by name; a number of the environment's never hides one of ours.

    A column of that name from its info is then called ``info_<name>``.
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
    """Return what a status says of the training, as numbers by name."""
    row = {
        TIME: time,
        ENV_STEPS: float(status.env_steps),
        "updates": float(status.updates),
        "env_steps_per_second": status.env_steps_per_second,
        "updates_per_second": status.updates_per_second,
        "replay_ratio": status.replay_ratio,
        "lag": status.lag,
        "clients": float(sum(client.state != "lost" for client in status.clients)),
        "queued": float(sum(client.queued for client in status.clients)),
        "rejected": float(sum(status.rejected.values())),
        "duplicates": float(status.duplicates),
        "lost": float(status.lost),
        "dropped": float(status.dropped),
    }
    taken = {*_RESERVED, *row, *_EPISODE}
    for name, value in status.metrics.items():
        if math.isfinite(value):
            row[f"training_{name}" if name in taken else name] = value
    return row


def _thinned(numbers: Array) -> Array:
    """Return the rows to keep: the newest quarter, and of the others half, evenly over all time."""
    old = 3 * len(numbers) // 4
    even = np.linspace(numbers[0], numbers[old - 1], old // 2)
    kept = np.unique(np.searchsorted(numbers[:old], even))
    return np.concatenate([kept, np.arange(old, len(numbers))])


def _empty(size: int) -> Array:
    return np.full(size, np.nan)
