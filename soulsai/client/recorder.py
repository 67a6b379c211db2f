"""The steps of one environment in preallocated columns, until they become a fragment."""

import math

import numpy as np

from soulsai.client.actor import Actor
from soulsai.errors import EnvironmentFault
from soulsai.heads import Exploration
from soulsai.types import Array, Fragment, Leaf, RunSpec, zeros

Rows = dict[str, Array]

MOST_BYTES = 1_500_000  # of a fragment before encoding; an entry on the wire has at most 2 MB
_REWARD = Leaf((), "<f4")


class Columns:
    """The columns of E environments, in which each fills rows of its own."""

    def __init__(self, spec: RunSpec, count: int) -> None:
        self.capacity = capacity(spec)
        self.lengths = np.zeros(count, np.int64)  # env steps since the last cut
        self.obs = {
            name: _block(leaf, count, self.capacity + 1) for name, leaf in spec.spec.obs.items()
        }
        self.action = _block(spec.spec.action.leaf, count, self.capacity)
        self.reward = _block(_REWARD, count, self.capacity)
        self.intervened = np.zeros((count, self.capacity), np.bool_)
        self.extras = {
            name: _block(leaf, count, self.capacity) for name, leaf in spec.extras.items()
        }

    def add(self, chosen: Array, action: Array, reward: Array, extras: Rows, rows: Rows) -> None:
        """Append a step of several environments.

        Args:
            chosen: Their indices [n].
            action: The actions [E, ...] of all environments.
            reward: The rewards [E].
            extras: The head's extra values [E, ...].
            rows: The observations [E, ...] after the step.
        """
        at = self.lengths[chosen]
        self.action[chosen, at] = action[chosen]
        self.reward[chosen, at] = reward[chosen]
        self.intervened[chosen, at] = False
        for name, columns in self.extras.items():
            columns[chosen, at] = extras[name][chosen]
        for name, columns in self.obs.items():
            columns[chosen, at + 1] = rows[name][chosen]
        self.lengths[chosen] = at + 1


class Recorder:
    """Copies the steps of one environment into columns.

    A fragment of ``cut`` holds views of the columns; encode it before calling ``resume``.
    """

    def __init__(
        self, client: str, epoch: int, spec: RunSpec, columns: Columns, index: int
    ) -> None:
        """Prepare to record.

        Args:
            client: The client's name.
            epoch: The epoch of its session.
            spec: The run.
            columns: The columns of all environments.
            index: The index of this environment in ``columns``.
        """
        self.capacity = columns.capacity
        self.obs = {name: block[index] for name, block in columns.obs.items()}
        self._client = client
        self._epoch = epoch
        self._lengths = columns.lengths[index : index + 1]
        self._action = columns.action[index]
        self._reward = columns.reward[index]
        self._intervened = columns.intervened[index]
        self._marks = spec.interventions
        self._extras = {name: block[index] for name, block in columns.extras.items()}
        self._memory = {name: zeros(leaf) for name, leaf in spec.memory.items()}
        self._episode = 0
        self._start = 0
        self.exploration = Exploration(greedy=False, epsilon=0.0)  # of the fragment
        self._generation = self._version = 0

    @property
    def length(self) -> int:
        """Return the env steps since the last cut."""
        return self._lengths.item()

    @length.setter
    def length(self, value: int) -> None:
        self._lengths[0] = value

    def begin(self, episode: int, rows: Rows) -> None:
        """Begin an episode.

        Args:
            episode: Its number.
            rows: Its first observation.
        """
        self._episode, self._start, self.length = episode, 0, 0
        for name, columns in self.obs.items():
            columns[0] = rows[name]

    def use(self, actor: Actor, memory: Rows) -> None:
        """Record the policy and the memory at the start of a fragment."""
        self._generation, self._version = actor.generation, actor.version
        for name, row in self._memory.items():
            row[...] = memory[name]

    def add(self, action: Array, reward: float, extras: Rows, index: int, rows: Rows) -> None:
        """Append a step.

        Args:
            action: The action.
            reward: Its reward.
            extras: The head's extra values [E, ...] of E environments.
            index: The index of this environment in ``extras``.
            rows: The observation after the step.
        """
        at = self.length
        self._action[at] = action
        self._reward[at] = reward
        self._intervened[at] = False
        for name, columns in self._extras.items():
            columns[at] = extras[name][index]
        self.length = at = at + 1
        for name, columns in self.obs.items():
            columns[at] = rows[name]

    def intervene(self, action: Array) -> None:
        """Replace the action of the last step by the one that a person has done."""
        self._action[self.length - 1] = action
        self._intervened[self.length - 1] = True

    def cut(self, clock: int, *, terminated: bool, truncated: bool) -> Fragment:
        """Return the steps since the last cut as a fragment.

        Args:
            clock: Env steps of this client and epoch in earlier fragments.
            terminated: Whether the episode has terminated.
            truncated: Whether the episode was truncated.
        """
        steps = self.length
        marks = self._intervened[:steps]
        return Fragment(
            client=self._client,
            epoch=self._epoch,
            episode=self._episode,
            start=self._start,
            clock=clock,
            generation=self._generation,
            version=self._version,
            obs={name: columns[: steps + 1] for name, columns in self.obs.items()},
            action=self._action[:steps],
            reward=self._reward[:steps],
            terminated=terminated,
            truncated=truncated,
            greedy=self.exploration.greedy,
            epsilon=self.exploration.epsilon,
            extras={name: columns[:steps] for name, columns in self._extras.items()},
            memory=self._memory,
            intervened=marks if self._marks and marks.any() else None,
        )

    def resume(self) -> None:
        """Begin the next fragment of the same episode with its last observation."""
        length = self.length
        for columns in self.obs.values():
            columns[0] = columns[length]
        self._start += length
        self.length = 0


def capacity(spec: RunSpec) -> int:
    """Return the steps of a fragment: those of the spec, fewer if steps are large."""
    leaves = [*spec.spec.obs.values(), spec.spec.action.leaf, _REWARD, *spec.extras.values()]
    row = sum(_bytes(leaf) for leaf in leaves)
    room = MOST_BYTES - sum(_bytes(leaf) for leaf in spec.memory.values())
    if 2 * row > room:
        raise EnvironmentFault(f"one step takes {row} bytes; make the observations smaller")
    return max(1, min(spec.fragment_steps, room // row - 1))


def _block(leaf: Leaf, count: int, steps: int) -> Array:
    return np.zeros((count, steps, *leaf.shape), leaf.dtype)


def _bytes(leaf: Leaf) -> int:
    return math.prod(leaf.shape) * np.dtype(leaf.dtype).itemsize
