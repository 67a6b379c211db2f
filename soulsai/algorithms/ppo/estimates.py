"""The equations of PPO: advantages, value targets, the surrogate objective and the reward scale.

Functions of time take flat arrays [T] that concatenate *segments*: consecutive steps of one
episode. ``end`` marks the last step of each segment, and nothing leaks across it. ``discount`` is
gamma, or zero where the episode terminated; a truncation or a cut bootstraps from ``next_value``,
the value of the observation after the step.
"""

import sys
from typing import Any

import numpy as np
import torch
from torch import Tensor

from soulsai.algorithms.normalize import RunningStatistics
from soulsai.algorithms.ppo.rollouts import Rollout
from soulsai.types import Array, Fragment

CLIP = 10.0  # largest magnitude of a scaled reward
EPISODES = 4096  # unfinished episodes with a remembered return


def scan(first: Array, factor: Array) -> Array:
    """Solve ``x[t] = first[t] + factor[t] * x[t + 1]``, where the last factor is zero.

    By doubling: after k rounds, ``x[t]`` holds 2^k terms. T log T operations, without a Python
    loop over T.

    Args:
        first: Terms [T].
        factor: Factors [T].

    Returns:
        The solution [T] in float64.
    """
    x, product = first.astype(np.float64), factor.astype(np.float64)
    ahead = 1
    while ahead < len(x):
        x[:-ahead] += product[:-ahead] * x[ahead:]
        product[:-ahead] *= product[ahead:]
        ahead *= 2
    return x


def gae(
    reward: Array, value: Array, next_value: Array, discount: Array, end: Array, decay: float
) -> tuple[Array, Array]:
    """Return generalised advantage estimates (arXiv:1506.02438).

    Args:
        reward: Rewards [T].
        value: Values of the observations before each step [T].
        next_value: Values of the observations after each step [T].
        discount: Discounts [T].
        end: Last steps of segments [T].
        decay: Lambda, 0..1.

    Returns:
        Advantages [T] and value targets [T].
    """
    delta = reward + discount * next_value - value
    advantage = scan(delta, discount * decay * ~end)
    return advantage, advantage + value


def vtrace(
    reward: Array,
    value: Array,
    next_value: Array,
    discount: Array,
    end: Array,
    decay: float,
    ratio: Array,
    cap: float = 1.0,
) -> tuple[Array, Array]:
    """Return V-trace advantages (arXiv:1802.01561).

    Args:
        reward: Rewards [T].
        value: Values of the observations before each step [T].
        next_value: Values of the observations after each step [T].
        discount: Discounts [T].
        end: Last steps of segments [T].
        decay: Lambda, 0..1.
        ratio: Importance ratios of target to behaviour policy [T]; the advantages include them, so
            the loss must not apply them again.
        cap: Largest ratio (rho-bar).

    Returns:
        Advantages [T] and value targets [T].
    """
    rho = np.minimum(ratio, cap)
    trace = decay * np.minimum(ratio, 1.0)
    delta = rho * (reward + discount * next_value - value)
    excess = scan(delta, discount * trace * ~end)  # target minus value
    next_target = next_value + np.append(excess[1:], 0.0) * ~end
    return rho * (reward + discount * next_target - value), value + excess


def discounted(reward: Array, carried: Array, begin: Array, gamma: float) -> Array:
    """Return the discounted sum of past rewards, ``G[t] = reward[t] + gamma * G[t - 1]``.

    Args:
        reward: Rewards [T].
        carried: ``G`` before the first step of each segment [T]; read where ``begin`` is true.
        begin: First steps of segments [T].
        gamma: Discount per step.

    Returns:
        The sums [T].
    """
    first = reward + gamma * carried * begin
    backward = scan(first[::-1], gamma * ~begin[::-1])
    return backward[::-1]


def surrogate(ratio: Tensor, advantage: Tensor, weight: Tensor, clip: float) -> Tensor:
    """Return the clipped objective, decoupled from the behaviour policy (arXiv:2110.00641).

    Args:
        ratio: Probability ratio of the current to the proximal policy [B].
        advantage: Advantages [B].
        weight: Importance weight of the proximal to the behaviour policy [B].
        clip: Largest deviation of the ratio from 1.

    Returns:
        The objective [B], to be maximised.
    """
    clipped = ratio.clamp(1.0 - clip, 1.0 + clip)
    return weight * torch.minimum(ratio * advantage, clipped * advantage)


def standardized(values: Array, weights: Array) -> Array:
    """Shift and scale values [T] to weighted mean 0 and standard deviation 1."""
    total = max(weights.sum(), 1e-12)
    centred = values - (weights * values).sum() / total
    deviation = np.sqrt((weights * centred**2).sum() / total)
    result: Array = centred / (deviation + 1e-8)
    return result


def explained_variance(value: Array, target: Array) -> float:
    """Return the fraction of the targets' variance that the values explain; 1 is perfect."""
    variance = float(target.var())
    return 1.0 - float((target - value).var()) / variance if variance > 0 else 0.0


class RewardScale:
    """Scales rewards by the inverse standard deviation of discounted returns, without centring.

    Each episode's return is carried from fragment to fragment. A gap between two fragments, of a
    lost or late one, resets it to zero.

    Args:
        gamma: Discount per step.
    """

    def __init__(self, gamma: float) -> None:
        self.gamma = gamma
        self.statistics = RunningStatistics(1, freeze_after=sys.maxsize)
        # (client, epoch, episode) to next step and return so far, least recent first
        self._open: dict[tuple[str, int, int], tuple[int, float]] = {}

    @property
    def factor(self) -> float:
        """The factor of rewards."""
        return float(self.statistics.inv_std[0])

    def update(self, rollout: Rollout) -> None:
        """Add each step of a rollout to the statistics."""
        begins = rollout.first[~rollout.follows]
        carried, begin = np.zeros(len(rollout.step)), np.zeros(len(rollout.step), bool)
        begin[begins] = True
        fragments = rollout.fragments
        leads = [f for f, follows in zip(fragments, rollout.follows, strict=True) if not follows]
        for row, fragment in zip(begins, leads, strict=True):
            start, total = self._open.pop(_episode(fragment), (0, 0.0))
            carried[row] = total if start == fragment.start else 0.0
        totals = discounted(rollout.reward, carried, begin, self.gamma)
        self.statistics.update(totals[rollout.step][:, None])

        last = np.append(~rollout.follows[1:], True)
        final = rollout.first + rollout.rows - 1 - last
        for row, fragment, is_last in zip(final, fragments, last, strict=True):
            if is_last and not fragment.ended:
                end = fragment.start + len(fragment)
                self._open[_episode(fragment)] = (end, float(totals[row]))
        while len(self._open) > EPISODES:
            del self._open[next(iter(self._open))]

    def scaled(self, reward: Array) -> Array:
        """Return scaled and clipped rewards [T]."""
        scaled: Array = np.clip(reward * self.factor, -CLIP, CLIP)
        return scaled

    def state_dict(self) -> dict[str, Any]:
        """Return the statistics and the unfinished episodes."""
        return {
            "statistics": self.statistics.state_dict(),
            "open": [[*episode, *progress] for episode, progress in self._open.items()],
        }

    def load_state_dict(self, state_dict: dict[str, Any], /) -> None:
        """Load statistics and unfinished episodes."""
        self.statistics.load_state_dict(state_dict["statistics"])
        self._open = {
            (client, epoch, episode): (start, total)
            for client, epoch, episode, start, total in state_dict["open"]
        }


def _episode(fragment: Fragment) -> tuple[str, int, int]:
    return fragment.client, fragment.epoch, fragment.episode
