"""Whether an episode's fragments fit together: each begins with what the one before saw last."""

import zlib
from collections import OrderedDict

from soulsai.errors import Rejected
from soulsai.types import Array, Fragment

MOST = 16_384  # episodes remembered, of all clients together
MOST_STRETCHES = 16  # of one episode

Key = tuple[str, int, int]  # client, epoch, episode


class _Told:
    """What was told of one episode: stretches of steps, and what was seen after the last one."""

    def __init__(self) -> None:
        self.stretches: list[tuple[int, int]] = []  # apart from one another, in order
        self.seen = 0
        self.over: int | None = None  # the step after the last one there is

    def holds(self, first: int, end: int) -> bool:
        """Whether any of these steps was told, or is beyond the episode's end."""
        beyond = self.over is not None and end > self.over
        return beyond or any(start < end and first < stop for start, stop in self.stretches)

    def add(self, first: int, end: int) -> None:
        """Note steps that were not told before."""
        joined: list[tuple[int, int]] = []
        for start, stop in sorted([*self.stretches, (first, end)]):
            if joined and joined[-1][1] == start:
                joined[-1] = joined[-1][0], stop
            else:
                joined.append((start, stop))
        self.stretches = joined[-MOST_STRETCHES:]


class Continuity:
    """Remembers how far every episode was told; a step is told once, and worlds do not jump."""

    def __init__(self) -> None:
        self._episodes: OrderedDict[Key, _Told] = OrderedDict()

    def check(self, fragment: Fragment) -> None:
        """Raise ``Rejected`` unless a fragment fits to what is known of its episode."""
        key = (fragment.client, fragment.epoch, fragment.episode)
        first, end = fragment.start, fragment.start + len(fragment)
        told = self._episodes.setdefault(key, _Told())
        self._episodes.move_to_end(key)
        if len(self._episodes) > MOST:
            self._episodes.popitem(last=False)
        if told.holds(first, end):
            raise Rejected("overlap", f"steps {first} to {end} of an episode came before")
        last = told.stretches[-1][1] if told.stretches else -1
        if first == last and _digest(fragment.obs, 0) != told.seen:
            raise Rejected("continuity", f"step {first} begins with what was not seen before it")
        told.add(first, end)
        if end > last:
            told.seen = _digest(fragment.obs, -1)
        if fragment.ended:
            told.over = end


def _digest(obs: dict[str, Array], row: int) -> int:
    digest = 0
    for rows in obs.values():
        digest = zlib.crc32(rows[row].tobytes(), digest)
    return digest
