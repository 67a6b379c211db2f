"""A seeded generator of valid messages whose fields are at the edges of their ranges."""

import numpy as np

from soulsai.types import MOST_ENVIRONMENTS, PROTOCOL, Episode, Fragment, Heartbeat, Hello
from soulsai.wire.codec import MAX_MESSAGES, encode_message, pack

COUNTS = (0, 1, 2**31 - 1, 2**32, 2**47, 2**48 - 1)  # up to the largest that the codec accepts
COUNTS_32 = (0, 1, 2**31, 2**32 - 1)  # of the fields of a fragment with 32 bits
LONGEST = "\U0010ffff"  # takes the most bytes per character
VALUES = (2**64 - 1, -(2**63), 1e308, float("nan"), float("-inf"), True, None, LONGEST * 100)
FLOATS = (0.0, -0.0, 5e-324, -1.0, 1.0, 1e30, -1e30)
FLOATS_32 = (0.0, -0.0, 1e-45, -1.0, 1.0, 2.4, -3.4, 1e6, 9e17, -9e17)
REWARDS = (0.0, -0.0, 1e-45, 1.0, -1.0)  # times the largest of the run
EPSILONS = (0.0, 5e-324, 0.4)
MOST_MESSAGES = 24  # in one entry, but for one in ``FULL``
FULL = 50


class Extremes:
    """Makes entries of valid messages; equal seeds make equal entries."""

    def __init__(self, spec, seed, newest=(1, 1)):
        """Prepare a generator.

        Args:
            spec: The ``RunSpec`` of the attacked run.
            seed: Seed of all draws.
            newest: Generation and version of the newest weights, which valid messages may name.
        """
        self.newest = newest
        self._spec = spec
        self._largest = spec.environment.largest_reward
        self._rng = np.random.default_rng(seed)
        self._kinds = (self.fragment, self.episode, self.heartbeat, self.hello)

    def entry(self):
        """Return an entry of messages in any order, and their number."""
        rng = self._rng
        count = MAX_MESSAGES if not rng.integers(FULL) else int(rng.integers(1, MOST_MESSAGES))
        kinds = rng.choice(len(self._kinds), count, p=(0.1, 0.3, 0.5, 0.1))
        messages = [encode_message(self._kinds[kind](), self._spec) for kind in kinds]
        return pack(messages), count

    def heartbeat_entry(self):
        """Return an entry of one heartbeat."""
        return pack([encode_message(self.heartbeat(), self._spec)]), 1

    def fragment(self):
        """Return a fragment with numbers that its dtypes can hold."""
        rng, spec = self._rng, self._spec
        steps = int(rng.choice((1, 2, spec.fragment_steps)))
        leaf = spec.spec.action.leaf
        sizes = spec.spec.action.sizes
        action = rng.integers(0, sizes, (steps, *leaf.shape)).astype(leaf.dtype)
        generation, version = self._version()
        greedy = bool(rng.integers(2))
        ended = int(rng.integers(3))
        return Fragment(
            client="", epoch=1, episode=self._pick(COUNTS_32), start=self._pick(COUNTS_32),
            clock=self._pick(COUNTS), generation=generation, version=version,
            obs={
                name: rng.choice(FLOATS_32, (steps + 1, *leaf.shape)).astype(leaf.dtype)
                for name, leaf in spec.spec.obs.items()
            },
            action=action.reshape(steps, *leaf.shape),
            reward=(self._largest * rng.choice(REWARDS, steps)).astype(np.float32),
            terminated=ended == 1, truncated=ended == 2, greedy=greedy,
            epsilon=0.0 if greedy else self._pick(EPSILONS),
        )  # fmt: skip

    def episode(self):
        """Return an episode whose reward is as large as its steps permit."""
        generation, version = self._version()
        steps = self._pick(COUNTS[1:])
        largest = min(1e30, self._largest * steps)
        info = {f"{index:02}" + LONGEST * 62: self._pick(FLOATS) for index in range(32)}
        return Episode(
            generation, version, self._pick(COUNTS), self._pick((0.0, largest, -largest)), steps,
            self._pick((0.0, 5e-324, 1e30)), terminated=bool(self._rng.integers(2)),
            greedy=bool(self._rng.integers(2)), epsilon=self._pick((0.0, 5e-324, 1.0)),
            info=info if not self._rng.integers(20) else {}, kwargs=self._kwargs(20),
        )  # fmt: skip

    def heartbeat(self):
        """Return a heartbeat."""
        faults = {f"{'z' * 15}{chr(97 + index)}": self._pick(COUNTS) for index in range(16)}
        return Heartbeat(
            *(self._pick(COUNTS) for _ in range(6)),
            waiting=bool(self._rng.integers(2)),
            faults=faults if not self._rng.integers(4) else {},
            trouble=LONGEST * 200 if not self._rng.integers(4) else "",
            kwargs=self._kwargs(4),
        )

    def hello(self):
        """Return a hello of this run."""
        return Hello(
            self._spec.run, PROTOCOL, LONGEST * 256, LONGEST * 256,
            self._pick((1, MOST_ENVIRONMENTS)), self._spec.crc,
        )  # fmt: skip

    def _kwargs(self, one_in):
        """Return arguments of the environment as a client may report them, now and then."""
        if self._rng.integers(one_in):
            return {}
        return {f"{index:02}{LONGEST * 62}": self._pick(VALUES) for index in range(16)}

    def _version(self):
        generation, version = self.newest
        older = (generation, 0), (0, 2**32 - 1), (0, 0)
        return (generation, version) if self._rng.integers(2) else self._pick(older)

    def _pick(self, choices):
        return choices[int(self._rng.integers(len(choices)))]
