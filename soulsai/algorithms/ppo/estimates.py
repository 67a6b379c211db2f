"""How much better an action was than expected: GAE and V-trace, over many stretches at once.

All arrays are flat [T]: the steps of one stretch after those of another. ``end`` marks the last
step of each stretch (an episode's end, or where it was merely cut), so nothing leaks from one
stretch into another. ``discount`` is gamma, and zero where the episode terminated: a truncation
and a cut both go on with ``next_value``, the value of what was seen after the step.
"""

import numpy as np

from soulsai.types import Array


def scan(first: Array, factor: Array) -> Array:
    """Solve ``x[t] = first[t] + factor[t] * x[t + 1]``, where the last factor must be zero.

    By doubling: after k rounds, ``x[t]`` holds 2^k terms. T log T work, but no loop over T.
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
    """Return generalised advantage estimates (arXiv:1506.02438), and the values' targets.

    ``decay`` is lambda.
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
    """Return V-trace's advantages and the values' targets (arXiv:1802.01561).

    ``ratio`` is how much likelier an action is now than when it was taken; it is inside the
    advantages, so the loss must not weigh them by it again.
    """
    rho = np.minimum(ratio, cap)
    trace = decay * np.minimum(ratio, 1.0)
    delta = rho * (reward + discount * next_value - value)
    excess = scan(delta, discount * trace * ~end)  # of the targets over the values
    following = next_value + np.append(excess[1:], 0.0) * ~end
    return rho * (reward + discount * following - value), value + excess


def discounted(reward: Array, carried: Array, begin: Array, gamma: float) -> Array:
    """Return what has been earned up to each step, discounted: ``G[t] = reward[t] + gamma G[t-1]``.

    ``begin`` marks the first step of each stretch, and ``carried`` holds there what had been
    earned before it.
    """
    first = reward + gamma * carried * begin
    backward = scan(first[::-1], gamma * ~begin[::-1])
    return backward[::-1]
