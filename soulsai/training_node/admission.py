"""Admission of messages: their numbers, their order, and the env steps missing between them.

The codec has checked their form. Nothing here waits, logs or counts: each entry becomes one
``Arrival`` with the admitted messages, the refusals, and the number of missing env steps. Arrays of
many entries are looked at together, and one by one only where a number in them is beyond a limit.
"""

import zlib
from collections import OrderedDict
from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple

import msgspec
import numpy as np
from msgspec import Struct

from soulsai.errors import Rejected
from soulsai.types import Array, Episode, Fragment, Head, Heartbeat, Hello, RunSpec
from soulsai.wire.limits import MessageLimits, joined
from soulsai.wire.protocols import START, Entry, Position

Message = Fragment | Episode | Heartbeat | Hello

LARGEST_SEQ = 2**40
LARGEST_TOTAL = 2**53  # of sums over epochs and clients: exact in JSON and as a float
AHEAD_MS = 24 * 3600 * 1000  # that an epoch may be ahead of our clock
FAILED = "failed"  # the refusal of an entry whose handling ended a node twice
BAD_POSITION = "position"  # the refusal after which a stream cannot take an honest entry any more
MOST_EPISODES = 16_384  # whose steps are remembered, of all clients together
MOST_RANGES = 16  # of steps, of one episode
REWARD_ERROR = 1e-5  # of a sum of float32, relative to the sum of the absolute rewards


class Mark(NamedTuple):
    """The end of the part of a client's stream that was read; checkpoints hold them."""

    position: Position = START
    clock: int = 0  # env steps of this epoch up to here, arrived or missing
    holed: bool = False  # entries are missing, and the number of their env steps is not known yet
    life: int = 0  # seq of the hello of the present process, in this epoch


class Refusal(NamedTuple):
    """The reason of a refusal: a short word for counting, and a line of details."""

    reason: str
    detail: str


class Arrival(Struct, frozen=True, eq=False):
    """The outcome of one entry of a client's stream."""

    client: str
    mark: Mark  # after this entry
    bytes: int
    fragments: tuple[Fragment, ...] = ()
    episodes: tuple[Episode, ...] = ()
    heartbeat: Heartbeat | None = None
    hello: Hello | None = None
    lost: int = 0  # env steps that should have come before it
    duplicate: bool = False
    discarded: int = 0  # entries deleted unread, because the client is excluded
    refusals: tuple[Refusal, ...] = ()

    @property
    def steps(self) -> int:
        """The number of admitted env steps."""
        return sum(len(fragment) for fragment in self.fragments)


class Decoded(Struct):
    """The messages of an entry, before they are judged."""

    messages: list[Message] = []
    refusal: Refusal | None = None  # of the whole entry
    error: Exception | None = None  # a mistake of ours
    sound: bool = False  # all arrays of its fragments are within the limits
    rewards: list[tuple[float, float]] = []  # of each fragment: their sum, that of their sizes


class Admission:
    """Follows all clients' streams, and admits messages that are new and within the limits.

    ``newest`` is the newest (generation, version). The publisher sets it *before* it publishes;
    the assignment is atomic, so this may happen in another thread.
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
        """Continue from the marks of a checkpoint.

        Args:
            spec: The run.
            head: The policy's head, which bounds actions and exploration.
            decode: Returns an entry's messages; raises ``Rejected``.
            marks: The end of the part of each stream that was read.
            newest: Generation and version of the newest weights.
            now: Unix seconds.
        """
        self.newest = newest
        self.marks = dict(marks)
        self._limits = MessageLimits(spec, head)
        self._steps = EpisodeSteps()
        self._decode = decode
        self._now = now
        self._later: dict[str, Mark] = {}  # the marks of streams that are read again
        self._unread: set[str] = set()  # clients with entries that were deleted unread
        self.server_time = 0.0  # Unix seconds; epochs are times of the server's clock

    def mark(self, client: str) -> Mark:
        """Return the end of the part of a client's stream that was read."""
        return self.marks.get(client, Mark())

    def position(self, client: str) -> Position:
        """Return the position of that end."""
        return self.mark(client).position

    def read_again(self, client: str) -> None:
        """Read a client's stream from its start, for epochs before that of its mark.

        Later epochs continue from the mark, so nothing is admitted twice.
        """
        self._later[client] = self._later.get(client, self.mark(client))
        self.marks[client] = Mark()

    def forget(self, client: str) -> None:
        """Forget the mark of a client."""
        self.marks.pop(client, None)
        self._later.pop(client, None)
        self._unread.discard(client)

    def pass_over(self, client: str) -> None:
        """Take the next gap in a client's stream for entries that were deleted unread."""
        self._unread.add(client)

    def decoded(self, entries: Sequence[Entry]) -> list[Decoded]:
        """Decode entries, and look at the arrays of all their fragments at once.

        Nothing is decided here: where the arrays are not all sound, ``admit`` looks at each.
        """
        found = [self._decoded(entry) for entry in entries]
        fragments = [
            message for each in found for message in each.messages if isinstance(message, Fragment)
        ]
        if not fragments:
            return found
        try:
            sound = self._limits.are_sound(fragments)
        except Exception:  # noqa: BLE001 - ``admit`` raises it again for the entry in question
            sound = False
        rewards = iter(_reward_sums(fragments))
        for each in found:
            each.sound = sound
            each.rewards = [next(rewards) for one in each.messages if isinstance(one, Fragment)]
        return found

    def _decoded(self, entry: Entry) -> Decoded:
        try:
            return Decoded(self._decode(entry))
        except Rejected as error:  # whose traceback would keep the entry alive
            return Decoded(refusal=_refusal(error))
        except Exception as error:  # noqa: BLE001 - ``admit`` raises it
            return Decoded(error=error)

    def admit(self, entry: Entry, decoded: Decoded | None = None) -> Arrival:
        """Judge one entry; faults of its content become refusals.

        Args:
            entry: The entry.
            decoded: Its messages, if it was decoded together with others.
        """
        client, position, data = entry
        before = self.mark(client)
        size = len(data) if data is not None else 0
        later = self._later.get(client)
        if later is not None and position.epoch >= later.position.epoch:
            before, self.marks[client] = later, Mark(position)
        if position <= before.position:
            return Arrival(client, before, size, duplicate=True)
        now = max(self._now(), self.server_time)
        if position.epoch > now * 1000 + AHEAD_MS or position.seq >= LARGEST_SEQ:
            refusal = Refusal(BAD_POSITION, f"{position.epoch}-{position.seq}")
            return Arrival(client, before, size, refusals=(refusal,))
        reading = _EntryReading(before, position, unread=client in self._unread)
        decoded = decoded or self.decoded([entry])[0]
        if decoded.error is not None:
            raise decoded.error
        if decoded.refusal is not None:
            reading.refusals.append(decoded.refusal)
        rewards = iter(decoded.rewards)
        for message in decoded.messages:
            try:
                if isinstance(message, Fragment):
                    self._take_fragment(message, next(rewards), reading, sound=decoded.sound)
                else:
                    self._take(message, reading)
            except Rejected as error:
                reading.refuse(error)
        if reading.fragments:
            self._unread.discard(client)
        arrival = reading.arrival(client, size)
        self.marks[client] = arrival.mark
        if before is later:
            del self._later[client]
        return arrival

    def set_aside(self, entry: Entry, detail: str) -> Arrival:
        """Pass over one entry without reading it."""
        before = self.mark(entry.client)
        if entry.position <= before.position:
            return Arrival(entry.client, before, 0, duplicate=True)
        reading = _EntryReading(before, entry.position)
        reading.refuse(Rejected(FAILED, detail))
        arrival = reading.arrival(entry.client, len(entry.data or b""))
        self.marks[entry.client] = arrival.mark
        return arrival

    def _take_fragment(
        self,
        fragment: Fragment,
        rewards: tuple[float, float],
        reading: "_EntryReading",
        *,
        sound: bool,
    ) -> None:
        try:
            self._limits.counts(fragment)
            _published(fragment.generation, fragment.version, self.newest)
            if sound:
                self._limits.epsilon(fragment)
            else:
                self._limits.fragment(fragment)
        except Rejected:
            reading.clock += len(fragment)  # its steps are refused, not lost
            raise
        reading.advance(fragment)
        self._steps.add(fragment, rewards, reading.life)
        reading.fragments.append(fragment)

    def _take(self, message: Episode | Heartbeat | Hello, reading: "_EntryReading") -> None:
        if isinstance(message, Episode):
            _published(message.generation, message.version, self.newest)
            self._limits.episode(message)
            verified = self._steps.verify(message, reading.life)
            reading.episodes.append(msgspec.structs.replace(message, verified=verified))
        elif isinstance(message, Heartbeat):
            reading.heartbeat = message
        else:
            self._limits.hello(message)
            reading.greet(message)


class _EntryReading:
    """Collects the outcome of one entry."""

    def __init__(self, before: Mark, position: Position, *, unread: bool = False) -> None:
        self.position = position
        self.unread = unread  # a gap before it was refused, not lost
        self.fresh = position.epoch != before.position.epoch
        self.clock = 0 if self.fresh else before.clock
        self.life = 0 if self.fresh else before.life
        # An epoch that begins without a hello has lost at least the hello.
        self.holed = self.fresh or before.holed or position.seq != before.position.seq + 1
        self.lost = 0
        self.fragments: list[Fragment] = []
        self.episodes: list[Episode] = []
        self.heartbeat: Heartbeat | None = None
        self.hello: Hello | None = None
        self.refusals: list[Refusal] = []

    def greet(self, hello: Hello) -> None:
        """Begin the messages of a new process.

        Its epoch is that of the process before if the server's clock was set back meanwhile: the
        server then continues with the last id of the stream.
        """
        self.hello = hello
        self.life, self.clock, self.holed = self.position.seq, 0, False

    def advance(self, fragment: Fragment) -> None:
        """Count the env steps that are missing before a fragment, and its own.

        A gap of env steps without a gap of entries is no loss: the client has dropped these steps
        and reports them.
        """
        if self.holed:
            self.lost += 0 if self.unread else max(0, fragment.clock - self.clock)
            self.holed = False
        self.clock = max(self.clock, fragment.clock + len(fragment))

    def refuse(self, error: Rejected) -> None:
        """Add a refusal."""
        self.refusals.append(_refusal(error))

    def arrival(self, client: str, size: int) -> Arrival:
        """Return the outcome."""
        return Arrival(
            client=client,
            mark=Mark(self.position, self.clock, self.holed, self.life),
            bytes=size,
            fragments=tuple(self.fragments),
            episodes=tuple(self.episodes),
            heartbeat=self.heartbeat,
            hello=self.hello,
            lost=self.lost,
            refusals=tuple(self.refusals),
        )


def _refusal(error: Rejected) -> Refusal:
    return Refusal(error.reason, str(error))


def _published(generation: int, version: int, newest: tuple[int, int]) -> None:
    if (generation, version) > newest:
        raise Rejected("version", f"{generation}-{version}, newest is {newest[0]}-{newest[1]}")


class EpisodeSteps:
    """Remembers the steps of each episode that came, so that each is admitted once.

    The first observation of a fragment must be the last one of the fragment before it.
    """

    def __init__(self) -> None:
        self._episodes: OrderedDict[tuple[str, int, int, int], _EpisodeRanges] = OrderedDict()

    def add(self, fragment: Fragment, rewards: tuple[float, float], life: int) -> None:
        """Add a fragment's steps; raise ``Rejected`` if they do not fit to those before.

        Args:
            fragment: The fragment.
            rewards: The sum of its rewards, and that of their sizes.
            life: Tells processes of a client in one epoch apart.
        """
        key = (fragment.client, fragment.epoch, life, fragment.episode)
        first, end = fragment.start, fragment.start + len(fragment)
        known = self._episodes.setdefault(key, _EpisodeRanges())
        self._episodes.move_to_end(key)
        if len(self._episodes) > MOST_EPISODES:
            self._episodes.popitem(last=False)
        if known.overlaps(first, end):
            raise Rejected("overlap", f"steps {first} to {end} of an episode came before")
        last = known.ranges[-1][1] if known.ranges else -1
        if first == last and _digest(fragment.obs, 0) != known.digest:
            raise Rejected("continuity", f"step {first} begins with another observation")
        known.add(first, end)
        known.reward += rewards[0]
        known.size += rewards[1]
        if end > last:
            known.digest = _digest(fragment.obs, -1)
        if fragment.ended:
            known.length = end

    def verify(self, episode: Episode, life: int) -> bool:
        """Return whether all steps of an episode came, and their rewards add up to its reward."""
        known = self._episodes.get((episode.client, episode.epoch, life, episode.episode))
        if known is None or known.length != episode.steps or known.ranges != [(0, known.length)]:
            return False
        return abs(known.reward - episode.reward) <= REWARD_ERROR * (1.0 + known.size)


class _EpisodeRanges:
    """The steps of one episode that came, as ranges, and the last observation."""

    __slots__ = ("digest", "length", "ranges", "reward", "size")  # half the memory

    def __init__(self) -> None:
        self.ranges: list[tuple[int, int]] = []  # disjoint, in order
        self.digest = 0  # of the observation after the last step
        self.length: int | None = None  # once the last step came
        self.reward = 0.0  # the sum over all steps
        self.size = 0.0  # the sum of the absolute rewards

    def overlaps(self, first: int, end: int) -> bool:
        """Whether any of these steps came before, or is beyond the episode's end."""
        if self.length is not None and end > self.length:
            return True
        if not self.ranges or first >= self.ranges[-1][1]:
            return False
        return any(start < end and first < stop for start, stop in self.ranges)

    def add(self, first: int, end: int) -> None:
        """Add steps that did not come before."""
        if self.ranges and self.ranges[-1][1] == first:
            self.ranges[-1] = self.ranges[-1][0], end
            return
        joined: list[tuple[int, int]] = []
        for start, stop in sorted([*self.ranges, (first, end)]):
            if joined and joined[-1][1] == start:
                joined[-1] = joined[-1][0], stop
            else:
                joined.append((start, stop))
        self.ranges = joined[-MOST_RANGES:]


def _reward_sums(fragments: Sequence[Fragment]) -> list[tuple[float, float]]:
    """Return the sum of each fragment's rewards, and that of their sizes."""
    rewards = joined([fragment.reward for fragment in fragments]).astype(np.float64)
    starts = np.cumsum([0, *(len(fragment) for fragment in fragments[:-1])])
    sums = np.add.reduceat(rewards, starts), np.add.reduceat(np.abs(rewards), starts)
    return list(zip(*(each.tolist() for each in sums), strict=True))


def _digest(obs: dict[str, Array], row: int) -> int:
    digest = 0
    for rows in obs.values():
        digest = zlib.crc32(rows[row].tobytes(), digest)
    return digest
