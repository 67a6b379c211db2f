"""Which messages are let in: whether their numbers make sense, and what never arrived.

The codec has judged their form. Here nothing waits, logs or counts: every entry becomes one
``Arrival`` that says what it held, what was refused and what is missing before it.
"""

from collections.abc import Callable, Mapping
from typing import NamedTuple

import numpy as np
from msgspec import Struct

from soulsai.errors import Rejected
from soulsai.training_node.continuity import Continuity
from soulsai.types import (
    MASK,
    OLDEST_PROTOCOL,
    PROTOCOL,
    Array,
    Episode,
    Fragment,
    Head,
    Heartbeat,
    Hello,
    RunSpec,
)
from soulsai.wire.protocols import START, Entry, Position

Message = Fragment | Episode | Heartbeat | Hello

LARGEST_REWARD = 1e6
LARGEST_ACTION = 1e6  # of a box, where the head does not bound it
LARGEST_SEQ = 2**40
LARGEST_COUNT = 2**48
LARGEST_TOTAL = 2**53  # of sums over epochs and clients: exact in JSON and as a float
LARGEST_NUMBER = 1e30  # of an episode's floats: their sums and squares stay finite
AHEAD_MS = 24 * 3600 * 1000  # how far ahead of our clock an epoch may be
MOST_ENVIRONMENTS = 4096
FAILED = "failed"  # the refusal of an entry whose handling ended a node twice
BAD_POSITION = "position"  # the refusal after which a stream accepts no honest entry any more


class Mark(NamedTuple):
    """How far one client's stream has been taken in; a checkpoint holds one per client."""

    position: Position = START
    clock: int = 0  # env steps of this epoch up to here, whether they arrived or not
    holed: bool = False  # entries are missing, and no fragment has told yet how many steps


def surplus(marks: Mapping[str, Mark], most: int) -> list[str]:
    """Return the clients, longest gone first, whose marks are more than so many."""
    if len(marks) <= most:
        return []
    return sorted(marks, key=lambda client: marks[client].position)[: len(marks) - most]


class Refusal(NamedTuple):
    """Why a message was not let in: the short word for counting, and a line about it."""

    reason: str
    detail: str


class Arrival(Struct, frozen=True, eq=False):
    """What one entry of a client's stream came to."""

    client: str
    mark: Mark  # where the stream stands after it
    bytes: int
    fragments: tuple[Fragment, ...] = ()
    episodes: tuple[Episode, ...] = ()
    heartbeat: Heartbeat | None = None
    hello: Hello | None = None
    lost: int = 0  # env steps that should have come before it
    duplicate: bool = False
    discarded: int = 0  # entries that were not even read, because the client is kept out
    refusals: tuple[Refusal, ...] = ()

    @property
    def steps(self) -> int:
        """Env steps let in."""
        return sum(len(fragment) for fragment in self.fragments)


class Admission:
    """Follows every client's stream, and lets in what is new and makes sense.

    ``newest`` is the (generation, version) published last; the owner of the weights raises it
    *before* publishing. Assigning the pair is atomic, so another thread may do so.
    """

    def __init__(
        self,
        spec: RunSpec,
        head: Head,
        decode: Callable[[Entry], list[Message]],
        *,
        marks: Mapping[str, Mark],
        newest: tuple[int, int],
        now: Callable[[], float],
    ) -> None:
        self.newest = newest
        self.marks = dict(marks)
        self._rules = Rules(spec, head)
        self._continuity = Continuity()
        self._decode = decode
        self._now = now

    def mark(self, client: str) -> Mark:
        """Return how far a client's stream was judged."""
        return self.marks.get(client, Mark())

    def position(self, client: str) -> Position:
        """Return where in a client's stream that is."""
        return self.mark(client).position

    def admit(self, entry: Entry) -> Arrival:
        """Judge one entry; whatever it holds, nothing is raised."""
        client, position, data = entry
        before = self.marks.get(client, Mark())
        size = len(data) if data is not None else 0
        if position <= before.position:
            return Arrival(client, before, size, duplicate=True)
        if position.epoch > self._now() * 1000 + AHEAD_MS or position.seq >= LARGEST_SEQ:
            refusal = Refusal(BAD_POSITION, f"{position.epoch}-{position.seq}")
            return Arrival(client, before, size, refusals=(refusal,))
        reading = _Reading(before, position)
        try:
            messages = self._decode(entry)
        except Rejected as error:
            reading.refuse(error)
            messages = []
        for message in messages:
            try:
                self._take(message, reading)
            except Rejected as error:
                reading.refuse(error)
        arrival = reading.arrival(client, size)
        self.marks[client] = arrival.mark
        return arrival

    def set_aside(self, entry: Entry, detail: str) -> Arrival:
        """Pass over one entry without reading it."""
        before = self.mark(entry.client)
        if entry.position <= before.position:
            return Arrival(entry.client, before, 0, duplicate=True)
        reading = _Reading(before, entry.position)
        reading.refuse(Rejected(FAILED, detail))
        arrival = reading.arrival(entry.client, len(entry.data or b""))
        self.marks[entry.client] = arrival.mark
        return arrival

    def _take(self, message: Message, reading: "_Reading") -> None:
        if isinstance(message, Fragment):
            self._rules.counts(message)
            reading.advance(message)
            self._rules.fragment(message, self.newest)
            self._continuity.check(message)
            reading.fragments.append(message)
        elif isinstance(message, Episode):
            self._rules.episode(message, self.newest)
            reading.episodes.append(message)
        elif isinstance(message, Heartbeat):
            reading.heartbeat = message
        else:
            self._rules.hello(message)
            reading.greet(message)


class _Reading:
    """What is known so far of the entry at hand."""

    def __init__(self, before: Mark, position: Position) -> None:
        self.position = position
        self.fresh = position.epoch != before.position.epoch
        self.clock = 0 if self.fresh else before.clock
        # An epoch that begins without a hello has lost at least that.
        self.holed = self.fresh or before.holed or position.seq != before.position.seq + 1
        self.lost = 0
        self.fragments: list[Fragment] = []
        self.episodes: list[Episode] = []
        self.heartbeat: Heartbeat | None = None
        self.hello: Hello | None = None
        self.refusals: list[Refusal] = []

    def greet(self, hello: Hello) -> None:
        """Begin an epoch."""
        if not self.fresh:
            raise Rejected("hello", "in the middle of an epoch")
        self.hello = hello
        self.holed = False

    def advance(self, fragment: Fragment) -> None:
        """Count the env steps that are missing before a fragment, and those it says it holds.

        Steps that are missing though no entry is, the client has dropped itself, and says so.
        """
        if self.holed:
            self.lost += max(0, fragment.clock - self.clock)
            self.holed = False
        self.clock = max(self.clock, fragment.clock + len(fragment))

    def refuse(self, error: Rejected) -> None:
        """Note why something was not let in."""
        self.refusals.append(Refusal(error.reason, str(error)))

    def arrival(self, client: str, size: int) -> Arrival:
        """Return what the entry came to."""
        return Arrival(
            client=client,
            mark=Mark(self.position, self.clock, self.holed),
            bytes=size,
            fragments=tuple(self.fragments),
            episodes=tuple(self.episodes),
            heartbeat=self.heartbeat,
            hello=self.hello,
            lost=self.lost,
            refusals=tuple(self.refusals),
        )


class Rules:
    """What the numbers of one run may be; every method raises ``Rejected`` if they are not."""

    def __init__(self, spec: RunSpec, head: Head) -> None:
        leaves = spec.spec.obs
        self._run = spec.run
        self._crc = spec.crc
        self._floats = [n for n, leaf in leaves.items() if np.dtype(leaf.dtype).kind == "f"]
        self._categories = {n: leaf.categories for n, leaf in leaves.items() if leaf.categories}
        self._masked = MASK in leaves
        self._action = spec.spec.action
        self._sizes = np.asarray(spec.spec.action.sizes)
        # A larger share of random actions than the run asks for would hide what they follow.
        self._epsilon = head.epsilon_base if head.kind == "epsilon_greedy" else 0.0
        self._bound = 1.0 if head.kind == "squashed" else LARGEST_ACTION

    def counts(self, fragment: Fragment) -> None:
        """Check the counters that place a fragment among the others."""
        if max(fragment.clock, fragment.start, fragment.episode) >= LARGEST_COUNT:
            raise Rejected("counter", f"clock {fragment.clock}, start {fragment.start}")

    def fragment(self, fragment: Fragment, newest: tuple[int, int]) -> None:
        """Check all numbers of a fragment."""
        _published(fragment.generation, fragment.version, newest)
        if fragment.epsilon > (0.0 if fragment.greedy else self._epsilon):
            raise Rejected("epsilon", f"{fragment.epsilon:g} of {self._epsilon:g} at most")
        obs = fragment.obs
        for name in self._floats:
            _finite(name, obs[name])
        for name, categories in self._categories.items():
            if obs[name].max(initial=0) >= categories or obs[name].min(initial=0) < 0:
                raise Rejected("category", f"{name} beyond {categories} categories")
        reward = fragment.reward
        # Comparisons with NaN are false, and min and max propagate it.
        if not (reward.max() <= LARGEST_REWARD and reward.min() >= -LARGEST_REWARD):
            raise Rejected("reward", f"not finite or beyond {LARGEST_REWARD:g}")
        for name, extra in fragment.extras.items():
            _finite(name, extra)
        for name, memory in fragment.memory.items():
            _finite(name, memory)
        self._actions(fragment.action, obs[MASK] if self._masked else None)

    def episode(self, episode: Episode, newest: tuple[int, int]) -> None:
        """Check all numbers of an episode's summary."""
        _published(episode.generation, episode.version, newest)
        numbers = (episode.reward, episode.seconds, episode.epsilon, *episode.info.values())
        # Comparisons with NaN are false.
        if not all(abs(number) <= LARGEST_NUMBER for number in numbers):
            raise Rejected("episode", f"a number is not finite or beyond {LARGEST_NUMBER:g}")
        if not 0.0 <= episode.epsilon <= 1.0:
            raise Rejected("episode", f"epsilon {episode.epsilon}")
        if not 1 <= episode.steps < LARGEST_COUNT or episode.seconds < 0:
            raise Rejected("episode", f"{episode.steps} steps in {episode.seconds} s")
        if abs(episode.reward) > LARGEST_REWARD * episode.steps:
            raise Rejected("episode", f"reward {episode.reward:g} in {episode.steps} steps")

    def hello(self, hello: Hello) -> None:
        """Check that a client believes in this run, and speaks as we do."""
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
        if self._action.kind == "discrete":
            if action.max() >= self._sizes[0]:
                raise Rejected("action", f"{action.max()} of {self._sizes[0]} choices")
        elif (action >= self._sizes).any():
            raise Rejected("action", f"{action.max(0)} of {self._sizes} choices")
        if mask is not None:
            self._allowed(action.reshape(len(action), -1), mask[:-1].reshape(len(action), -1))

    def _allowed(self, action: Array, mask: Array) -> None:
        rows, first = np.arange(len(action)), 0
        for component, size in enumerate(self._action.sizes):
            valid = mask[:, first : first + size]
            # Where nothing is valid, something must be done all the same.
            if not (valid[rows, action[:, component]] | ~valid.any(1)).all():
                raise Rejected("mask", "an action that the mask forbids")
            first += size


def _published(generation: int, version: int, newest: tuple[int, int]) -> None:
    if (generation, version) > newest:
        raise Rejected("version", f"{generation}-{version}, newest is {newest[0]}-{newest[1]}")


def _finite(name: str, values: Array) -> None:
    if not np.isfinite(values).all():
        raise Rejected("finite", f"{name} has numbers that are not finite")
