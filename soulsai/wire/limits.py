"""The limits of the numbers in messages.

A client checks them before it sends, with the code by which the training node judges what it
receives: no honest client is refused for a limit that it does not know.
"""

from collections.abc import Sequence

import numpy as np

from soulsai.errors import Rejected
from soulsai.heads import largest_action
from soulsai.types import (
    LARGEST_NUMBER,
    MASK,
    MOST_ENVIRONMENTS,
    OLDEST_PROTOCOL,
    PROTOCOL,
    Array,
    Episode,
    Fragment,
    Head,
    Hello,
    RunSpec,
)

LARGEST_COUNT = 2**48
LARGEST_OBSERVATION = 1e18  # of a float, with either sign: its square is finite in 32 bits
ROUNDING = 1e-6  # of a sum of rewards, relative


class MessageLimits:
    """The limits of one run's numbers; the methods raise ``Rejected`` for numbers beyond them."""

    def __init__(self, spec: RunSpec, head: Head) -> None:
        leaves = spec.spec.obs
        self._run = spec.run
        self._crc = spec.crc
        self._floats = [n for n, leaf in leaves.items() if np.dtype(leaf.dtype).kind == "f"]
        self._categories = {n: leaf.categories for n, leaf in leaves.items() if leaf.categories}
        self._masked = MASK in leaves
        self._action = spec.spec.action
        self._sizes = np.asarray(spec.spec.action.sizes)
        # More exploration than the run sets would hide a policy that is not ours.
        self._epsilon = head.epsilon_base if head.kind == "epsilon_greedy" else 0.0
        self._bound = np.float32(largest_action(head, spec.spec.action))
        self._reward = spec.environment.largest_reward

    def check(self, message: Fragment | Episode) -> None:
        """Check all numbers of a message that a client has made."""
        if isinstance(message, Fragment):
            self.counts(message)
            self.fragment(message)
        else:
            self.episode(message)

    def counts(self, fragment: Fragment) -> None:
        """Check the counters that place a fragment among the others."""
        if max(fragment.clock, fragment.start, fragment.episode) >= LARGEST_COUNT:
            raise Rejected("counter", f"clock {fragment.clock}, start {fragment.start}")

    def fragment(self, fragment: Fragment) -> None:
        """Check all numbers of a fragment."""
        self.epsilon(fragment)
        self._arrays([fragment])

    def epsilon(self, fragment: Fragment) -> None:
        """Check how much a fragment explores."""
        if fragment.epsilon > (0.0 if fragment.greedy else self._epsilon):
            raise Rejected("epsilon", f"{fragment.epsilon:g} of {self._epsilon:g} at most")

    def are_sound(self, fragments: Sequence[Fragment]) -> bool:
        """Return whether the arrays of all fragments are within the limits, seen together."""
        try:
            self._arrays(fragments)
        except Rejected:
            return False
        return True

    def _arrays(self, fragments: Sequence[Fragment]) -> None:
        """Check the arrays of fragments as if they were one."""
        if not fragments:
            return
        for name in self._floats:
            _in_range(name, joined([fragment.obs[name] for fragment in fragments]))
        for name, categories in self._categories.items():
            values = joined([fragment.obs[name] for fragment in fragments])
            if values.max(initial=0) >= categories or values.min(initial=0) < 0:
                raise Rejected("category", f"{name} beyond {categories} categories")
        # Comparisons with NaN are false, and the maximum propagates it.
        rewards = joined([fragment.reward for fragment in fragments])
        if not np.maximum.reduce(np.abs(rewards)) <= np.float32(self._reward):
            raise Rejected("reward", f"not finite or beyond {self._reward:g}")
        for name in fragments[0].extras:
            _finite(name, joined([fragment.extras[name] for fragment in fragments]))
        for name in fragments[0].memory:
            _finite(name, joined([fragment.memory[name].ravel() for fragment in fragments]))
        masks = [fragment.obs[MASK][:-1] for fragment in fragments] if self._masked else []
        actions = joined([fragment.action for fragment in fragments])
        self._actions(actions, joined(masks) if masks else None)

    def episode(self, episode: Episode) -> None:
        """Check all numbers of an episode's summary."""
        numbers = (episode.reward, episode.seconds, episode.epsilon, *episode.info.values())
        # Comparisons with NaN are false.
        if not all(abs(number) <= LARGEST_NUMBER for number in numbers):
            raise Rejected("episode", f"a number is not finite or beyond {LARGEST_NUMBER:g}")
        if not 0.0 <= episode.epsilon <= 1.0:
            raise Rejected("episode", f"epsilon {episode.epsilon}")
        if not 1 <= episode.steps < LARGEST_COUNT or episode.seconds < 0:
            raise Rejected("episode", f"{episode.steps} steps in {episode.seconds} s")
        if abs(episode.reward) > self._reward * episode.steps * (1.0 + ROUNDING):
            raise Rejected("episode", f"reward {episode.reward:g} in {episode.steps} steps")

    def hello(self, hello: Hello) -> None:
        """Check that a client plays this run, with a protocol of ours."""
        if hello.run != self._run or hello.crc != self._crc:
            raise Rejected("run", f"{hello.run!r} with spec {hello.crc:08x}")
        if not OLDEST_PROTOCOL <= hello.protocol <= PROTOCOL:
            raise Rejected("protocol", f"{hello.protocol}, not {OLDEST_PROTOCOL} to {PROTOCOL}")
        if not 1 <= hello.environments <= MOST_ENVIRONMENTS:
            raise Rejected("hello", f"{hello.environments} environments")

    def _actions(self, action: Array, mask: Array | None) -> None:
        if self._action.kind == "box":
            if not (action.max() <= self._bound and action.min() >= -self._bound):
                raise Rejected("action", f"not finite or beyond {self._bound:g}")
            return
        if self._action.kind == "hybrid":
            action = self._choices(action)
        if self._action.kind == "discrete":
            if action.max() >= self._sizes[0]:
                raise Rejected("action", f"{action.max()} of {self._sizes[0]} choices")
        elif (action >= self._sizes).any():
            raise Rejected("action", f"{action.max(0)} of {self._sizes} choices")
        if mask is not None:
            self._allowed(action.reshape(len(action), -1), mask.reshape(len(action), -1))

    def _choices(self, action: Array) -> Array:
        """Check the numbers of hybrid actions [T, C + N]; return the choices [T, C]."""
        components = len(self._sizes)
        choices, numbers = action[:, :components], action[:, components:]
        # Comparisons with NaN are false.
        if not (np.abs(numbers) <= self._bound).all():
            raise Rejected("action", f"not finite or beyond {self._bound:g}")
        if not ((choices >= 0) & (choices < 2**31) & (choices == np.floor(choices))).all():
            raise Rejected("action", "a choice that is no whole number")
        return choices.astype(np.int64)

    def _allowed(self, action: Array, mask: Array) -> None:
        rows, first = np.arange(len(action)), 0
        for component, size in enumerate(self._action.sizes):
            valid = mask[:, first : first + size]
            # Where no action is valid, any action is accepted.
            if not (valid[rows, action[:, component]] | ~valid.any(1)).all():
                raise Rejected("mask", "an action that the mask forbids")
            first += size


def joined(arrays: Sequence[Array]) -> Array:
    """Return the rows of several arrays; of a single one, the array itself."""
    return arrays[0] if len(arrays) == 1 else np.concatenate(arrays)


def _in_range(name: str, values: Array) -> None:
    # Comparisons with NaN are false, and the maximum propagates it.
    if values.size and not float(np.abs(values).max()) <= LARGEST_OBSERVATION:
        _finite(name, values)
        raise Rejected("range", f"{name} has numbers beyond {LARGEST_OBSERVATION:g}")


def _finite(name: str, values: Array) -> None:
    if not np.isfinite(values).all():
        raise Rejected("finite", f"{name} has numbers that are not finite")
