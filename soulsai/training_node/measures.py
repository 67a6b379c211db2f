"""What the training node tells of itself: moving averages over what it counts."""

from collections import deque
from collections.abc import Sequence

import numpy as np

from soulsai.prometheus import Stopwatch, TrainingMetrics
from soulsai.training_node.admission import LARGEST_TOTAL, Arrival
from soulsai.training_node.client_table import Rate
from soulsai.training_node.saving.snapshot import Progress
from soulsai.types import Episode, Fragment, Metrics, Weights

WINDOW = 100  # episodes in the mean reward
LAGS = 256  # fragments in the mean lag


class Measures:
    """Counts into the progress, and remembers what averages are made of."""

    def __init__(
        self, progress: Progress, warmup: int, counted: TrainingMetrics | None = None
    ) -> None:
        """``warmup`` env steps are collected before learning begins."""
        self._counted = counted or TrainingMetrics()
        self._update_time = Stopwatch()
        self.update_seconds = 0.0  # spent on all updates
        self.metrics: Metrics = {}
        self.progress = progress
        self._warmup = warmup
        self._rewards: deque[float] = deque(maxlen=2 * WINDOW)
        self._greedy: deque[float] = deque(maxlen=WINDOW)
        self._lags: deque[int] = deque(maxlen=LAGS)
        self._steps, self._updates = Rate(), Rate()

    def arrived(self, arrival: Arrival) -> None:
        """Count what an entry came to, except for its experience."""
        progress = self.progress
        progress.bytes_received += arrival.bytes
        progress.duplicates += arrival.duplicate
        progress.lost = min(LARGEST_TOTAL, progress.lost + arrival.lost)
        self._counted.received.inc(len(arrival.fragments) + len(arrival.refusals))
        for reason, _ in arrival.refusals:
            progress.rejected[reason] = progress.rejected.get(reason, 0) + 1
        if arrival.discarded:
            unread = progress.rejected.get("quarantine", 0)
            progress.rejected["quarantine"] = unread + arrival.discarded

    def admitted(self, fragment: Fragment, version: int) -> None:
        """Count a fragment's steps, given the newest version."""
        self.progress.env_steps += len(fragment)
        age = max(0, version - fragment.version)
        self._lags.append(age)
        self._counted.sample_age.observe(age)

    def finished(self, episode: Episode) -> None:
        """Count an episode."""
        self.progress.episodes += 1
        self._counted.outcomes.labels("terminated" if episode.terminated else "truncated").inc()
        self._rewards.append(episode.reward)
        if episode.greedy:
            self._greedy.append(episode.reward)

    def updated(self, metrics: Metrics) -> None:
        """Count an update."""
        if self.progress.began is None:
            self.progress.began = self.progress.env_steps
        self.progress.updates += 1
        seconds = self._update_time.lap()
        self.update_seconds += seconds
        self._counted.update_seconds.observe(seconds)
        self.metrics = metrics

    def given(self) -> None:
        """Take note that the algorithm goes on now with what came."""
        self._update_time.start()

    def published(self, weights: Weights, *, sent: bool) -> None:
        """Count a version that was sent."""
        if sent:
            size = sum(array.nbytes for array in weights.arrays.values())
            self._counted.published.inc(size)

    def rates(self, now: float) -> tuple[float, float]:
        """Return env steps and updates per second, lately."""
        progress = self.progress
        steps = self._steps.per_second(now, progress.env_steps)
        return steps, self._updates.per_second(now, progress.updates)

    @property
    def replay_ratio(self) -> float:
        """Updates per env step after the warm-up."""
        progress = self.progress
        steps = progress.env_steps - self._warmup
        return progress.updates / steps if steps > 0 else 0.0

    @property
    def reward_mean(self) -> float | None:
        """The mean reward of the last episodes."""
        return mean(list(self._rewards)[-WINDOW:])

    @property
    def reward_trend(self) -> float | None:
        """How much that mean is above the mean of as many episodes before."""
        rewards = list(self._rewards)
        half = len(rewards) // 2
        before, after = mean(rewards[:half][-WINDOW:]), mean(rewards[half:])
        return None if before is None or after is None else after - before

    @property
    def lag(self) -> float:
        """Mean number of versions by which recent fragments were behind."""
        return mean(self._lags) or 0.0

    @property
    def told(self) -> Metrics:
        """The algorithm's metrics, and ours."""
        greedy = mean(self._greedy)
        return self.metrics if greedy is None else {**self.metrics, "greedy_reward_mean": greedy}


def mean(numbers: Sequence[float] | deque[float] | deque[int]) -> float | None:
    """Return the mean, or ``None`` of nothing."""
    return float(np.mean(numbers)) if numbers else None
