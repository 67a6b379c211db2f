"""The scale of rewards: one over the standard deviation of what is earned, discounted."""

import sys
from typing import Any

import numpy as np

from soulsai.algorithms.normalize import RunningStatistics
from soulsai.algorithms.ppo.estimates import discounted
from soulsai.algorithms.ppo.rollouts import Rollout
from soulsai.types import Array

CLIP = 10.0
EPISODES = 4096  # unfinished ones whose earnings are remembered

Stream = tuple[str, int, int]  # client, epoch, episode


class RewardScale:
    """Divides rewards by how much discounted returns vary; no mean is ever subtracted.

    Every episode is followed from fragment to fragment. If one goes on elsewhere than where we
    left it, a fragment was lost or late, and it counts from nothing again.
    """

    def __init__(self, gamma: float) -> None:
        self.gamma = gamma
        self.statistics = RunningStatistics(1, freeze_after=sys.maxsize)
        self._open: dict[Stream, tuple[int, float]] = {}  # next step, earned; stalest first

    @property
    def factor(self) -> float:
        """What rewards are multiplied by."""
        return float(self.statistics.inv_std[0])

    def update(self, rollout: Rollout) -> None:
        """Take each step into account, once."""
        begins = rollout.first[~rollout.follows]
        carried, begin = np.zeros(len(rollout.step)), np.zeros(len(rollout.step), bool)
        begin[begins] = True
        fragments = rollout.fragments
        leads = [f for f, goes_on in zip(fragments, rollout.follows, strict=True) if not goes_on]
        for row, fragment in zip(begins, leads, strict=True):
            start, earned = self._open.pop(_stream(fragment), (0, 0.0))
            carried[row] = earned if start == fragment.start else 0.0
        earned_by = discounted(rollout.reward, carried, begin, self.gamma)
        self.statistics.update(earned_by[rollout.step][:, None])

        last = np.append(~rollout.follows[1:], True)
        final = rollout.first + rollout.rows - 1 - last
        for row, fragment, ends in zip(final, fragments, last, strict=True):
            if ends and not fragment.ended:
                end = fragment.start + len(fragment)
                self._open[_stream(fragment)] = (end, float(earned_by[row]))
        while len(self._open) > EPISODES:
            del self._open[next(iter(self._open))]

    def scaled(self, reward: Array) -> Array:
        """Return rewards as the learner sees them."""
        scaled: Array = np.clip(reward * self.factor, -CLIP, CLIP)
        return scaled

    def state_dict(self) -> dict[str, Any]:
        """Return the statistics and the unfinished episodes."""
        return {
            "statistics": self.statistics.state_dict(),
            "open": [[*stream, *earned] for stream, earned in self._open.items()],
        }

    def load_state_dict(self, state_dict: dict[str, Any], /) -> None:
        """Take over another's."""
        self.statistics.load_state_dict(state_dict["statistics"])
        self._open = {
            (client, epoch, episode): (start, earned)
            for client, epoch, episode, start, earned in state_dict["open"]
        }


def _stream(fragment: Any) -> Stream:
    return fragment.client, fragment.epoch, fragment.episode
