"""Statistics of episodes: moving averages, the best so far, and a bounded history. Pure."""

import math
from bisect import bisect_left, bisect_right, insort
from collections import deque
from collections.abc import Callable, Mapping
from typing import get_args

import numpy as np
from msgspec import Struct

from soulsai.types import Array, Episode, EpisodeKind

OUTLIER = 100.0  # in ranges or magnitudes of the middle 80 % of a window


class Best(Struct, frozen=True):
    """The best average over a full window, or the best evaluation, and the weights behind it."""

    score: float
    generation: int
    version: int  # of the newest episode in the window
    env_steps: int  # at that episode
    episodes: int  # recorded up to that episode
    greedy: bool  # whether the window holds greedy episodes only
    time: float  # Unix seconds of that episode
    low: float | None = None  # of the 95 % interval of an evaluation
    high: float | None = None
    evaluated: int = 0  # episodes of the evaluation; 0: it is a moving average
    checkpoint: str = ""  # the model that was evaluated


class Window:
    """The mean of the last ``size`` values, without outliers.

    From ten values on, a value is an outlier if its distance from the middle 80 % of the window is
    more than ``OUTLIER`` times their range and their magnitude. One absurd reward therefore cannot
    make a model the best, while rare successes still count.
    """

    def __init__(self, size: int) -> None:
        self._values: deque[float] = deque()
        self._sorted: list[float] = []
        self._size = size
        self._sum = 0.0
        self._added = 0

    def add(self, value: float) -> None:
        """Add a value; a full window drops its oldest value."""
        if self.full:
            oldest = self._values.popleft()
            self._sum -= oldest
            del self._sorted[bisect_left(self._sorted, oldest)]
        self._values.append(value)
        insort(self._sorted, value)
        self._sum += value
        self._added += 1
        if self._added % self._size == 0:  # rounding errors must not pile up over a million values
            self._sum = math.fsum(self._values)

    @property
    def full(self) -> bool:
        """Whether the window holds ``size`` values."""
        return len(self._values) == self._size

    @property
    def mean(self) -> float | None:
        """The mean of the values without outliers, or ``None`` for an empty window."""
        values = self._sorted
        if not values:
            return None
        cut = len(values) // 10
        low, high = values[cut], values[-1 - cut]
        margin = OUTLIER * max(high - low, abs(low), abs(high), 1.0)
        first = bisect_left(values, low - margin)
        last = bisect_right(values, high + margin)
        if last - first == len(values):
            return self._sum / len(values)
        return math.fsum(values[first:last]) / (last - first)


_EMPTY_BIN = (0, 0.0, 0.0, 0.0, 0, 0.0, 0.0)


class History:
    """Episodes in at most ``limit`` bins of equal episode counts.

    A bin is full after ``width`` episodes. When the last bin is full, neighbours merge and the
    width doubles, so the same episodes always make the same bins.
    """

    COLUMNS = ("episodes", "env_steps", "reward", "reward_squared", "steps", "time", "extra")

    def __init__(self, limit: int = 4096) -> None:
        self.width = 1
        self._rows = np.zeros((limit, len(self.COLUMNS)))
        self._full = 0  # bins
        self._open = _EMPTY_BIN

    def add(self, episode: Episode, extra: float = 0.0) -> None:
        """Add an episode, and one more value of it for the column ``extra``."""
        count, _, reward, squared, steps, _, extras = self._open
        self._open = (
            count + 1,
            float(episode.env_steps),
            reward + episode.reward,
            squared + episode.reward * episode.reward,
            steps + episode.steps,
            episode.time,
            extras + extra,
        )
        if count + 1 < self.width:
            return
        self._rows[self._full] = self._open
        self._full += 1
        self._open = _EMPTY_BIN
        if self._full == len(self._rows):
            self._merge()

    def rows(self) -> Array:
        """Return a copy of the bins, oldest first, of shape ``(bins, len(COLUMNS))``.

        ``env_steps`` and ``time`` are those of a bin's last episode; the other columns are sums.
        """
        if self._open[0]:
            return np.vstack([self._rows[: self._full], [self._open]])
        return self._rows[: self._full].copy()

    def _merge(self) -> None:
        even, odd = self._rows[0::2], self._rows[1::2]
        last = [self.COLUMNS.index("env_steps"), self.COLUMNS.index("time")]
        merged = even[: len(odd)] + odd
        merged[:, last] = odd[:, last]
        self._full = len(merged)
        self._rows[: self._full] = merged
        self.width *= 2


class Goal(Struct, frozen=True):
    """The metric that ranks models."""

    metric: str = "reward"  # a field of the episode, or one of the measures
    smaller: bool = False  # whether less is better

    def value(self, episode: Episode, measured: Mapping[str, float]) -> float | None:
        """Return the episode's value, negated if smaller is better; ``None`` if it is unknown."""
        value = _FIELDS[self.metric](episode) if self.metric in _FIELDS else None
        value = measured.get(self.metric) if value is None else value
        return -value if value is not None and self.smaller else value


_FIELDS: dict[str, Callable[[Episode], float]] = {
    "reward": lambda episode: episode.reward,
    "steps": lambda episode: float(episode.steps),
    "seconds": lambda episode: episode.seconds,
}
_REWARD = Goal()
_NO_MEASURES: Mapping[str, float] = {}


class Statistics:
    """Statistics of a run; the same episodes in the same order give the same result.

    The best is the highest average of the last ``window`` *greedy* episodes as soon as there are
    that many. Until then, and in runs without greedy episodes, it is the highest average of the
    last ``window`` episodes of any kind. The first full window of greedy episodes always replaces
    a best of the other kind, because exploration makes the two incomparable.
    """

    def __init__(self, window: int, goal: Goal = _REWARD, shown: str = "") -> None:
        """Start without episodes.

        Args:
            window: Episodes in the average.
            goal: The metric that ranks models.
            shown: Name of the measure that the history keeps beside reward and length.
        """
        self.episodes = 0
        self.env_steps = 0
        self.best: Best | None = None
        self.score = Window(window)
        self.greedy_score = Window(window)
        self.histories: dict[EpisodeKind, History] = {
            kind: History() for kind in get_args(EpisodeKind)
        }
        self._goal = goal
        self._shown = shown

    def add(
        self,
        episode: Episode,
        measured: Mapping[str, float] = _NO_MEASURES,
        *,
        ranked: bool = True,
    ) -> bool:
        """Add an episode, and return whether the average is a new best.

        Args:
            episode: The episode, with finite values.
            measured: Its measures.
            ranked: Whether it counts for the best.
        """
        self.episodes += 1
        self.env_steps = episode.env_steps
        self.histories[episode.kind].add(episode, measured.get(self._shown, 0.0))
        value = self._goal.value(episode, measured)
        if value is None or not ranked:
            return False
        self.score.add(value)
        if episode.greedy:
            self.greedy_score.add(value)
        return self._judge(episode)

    def _judge(self, episode: Episode) -> bool:
        greedy = self.greedy_score.full
        window = self.greedy_score if greedy else self.score
        if not window.full or window.mean is None or (greedy and not episode.greedy):
            return False
        score = -window.mean if self._goal.smaller else window.mean
        if self.best and self.best.greedy == greedy:
            ahead = self.best.score - score if self._goal.smaller else score - self.best.score
            if ahead <= 0:
                return False
        self.best = Best(
            score=score,
            generation=episode.generation,
            version=episode.version,
            env_steps=episode.env_steps,
            episodes=self.episodes,
            greedy=greedy,
            time=episode.time,
        )
        return True
