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


class Recorder:
    """Copies the steps of one environment into columns.

    A fragment of ``cut`` holds views of the columns; encode it before calling ``resume``.
    """

    def __init__(self, client: str, epoch: int, spec: RunSpec) -> None:
        self.length = 0  # env steps since the last cut
        self.capacity = capacity(spec)
        self.obs = {name: zeros(leaf, self.capacity + 1) for name, leaf in spec.spec.obs.items()}
        self._client = client
        self._epoch = epoch
        self._action = zeros(spec.spec.action.leaf, self.capacity)
        self._reward = zeros(_REWARD, self.capacity)
        self._extras = {name: zeros(leaf, self.capacity) for name, leaf in spec.extras.items()}
        self._memory = {name: zeros(leaf) for name, leaf in spec.memory.items()}
        self._episode = 0
        self._start = 0
        self.exploration = Exploration(greedy=False, epsilon=0.0)  # of the fragment
        self._generation = self._version = 0

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
        for name, columns in self._extras.items():
            columns[at] = extras[name][index]
        self.length = at = at + 1
        for name, columns in self.obs.items():
            columns[at] = rows[name]

    def cut(self, clock: int, *, terminated: bool, truncated: bool) -> Fragment:
        """Return the steps since the last cut as a fragment.

        Args:
            clock: Env steps of this client and epoch in earlier fragments.
            terminated: Whether the episode has terminated.
            truncated: Whether the episode was truncated.
        """
        steps = self.length
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
        )

    def resume(self) -> None:
        """Begin the next fragment of the same episode with its last observation."""
        for columns in self.obs.values():
            columns[0] = columns[self.length]
        self._start += self.length
        self.length = 0


def capacity(spec: RunSpec) -> int:
    """Return the steps of a fragment: those of the spec, fewer if steps are large."""
    leaves = [*spec.spec.obs.values(), spec.spec.action.leaf, _REWARD, *spec.extras.values()]
    row = sum(_bytes(leaf) for leaf in leaves)
    room = MOST_BYTES - sum(_bytes(leaf) for leaf in spec.memory.values())
    if 2 * row > room:
        raise EnvironmentFault(f"one step takes {row} bytes; make the observations smaller")
    return max(1, min(spec.fragment_steps, room // row - 1))


def _bytes(leaf: Leaf) -> int:
    return math.prod(leaf.shape) * np.dtype(leaf.dtype).itemsize
