"""Heads in NumPy: the map from a policy's outputs to actions, on clients and in evaluations."""

from collections.abc import Sequence
from functools import lru_cache
from typing import NamedTuple

import numpy as np
from msgspec import Struct

from soulsai.types import UNBOUNDED, ActionSpec, Array, Head


class Exploration(Struct, frozen=True):
    """How one episode is played: greedily, or with a share of uniform random actions."""

    greedy: bool
    epsilon: float


def explore(
    head: Head, published: dict[str, float], rng: np.random.Generator, *, evaluate: bool = True
) -> Exploration:
    """Draw how the next episode is played.

    Every episode draws its own epsilon, ``base ** (1 + alpha * u)`` with uniform ``u``, so any
    number of clients covers the whole range (Ape-X, arXiv:1803.00933).

    Args:
        head: Kind of head, with its range of epsilon and its share of greedy episodes.
        published: Numbers published with the weights; while ``random`` is 1, no episode is greedy,
            as there is no policy to evaluate.
        rng: Source of randomness.
        evaluate: Whether the episode may be greedy.
    """
    evaluation, u = rng.random(2)
    if evaluate and evaluation < head.eval_fraction and published.get("random", 0.0) < 1.0:
        return Exploration(greedy=True, epsilon=0.0)
    if head.kind != "epsilon_greedy":
        return Exploration(greedy=False, epsilon=0.0)
    epsilon = head.epsilon_base ** (1.0 + head.epsilon_alpha * u)
    return Exploration(greedy=False, epsilon=float(epsilon))


def act(
    head: Head,
    action_spec: ActionSpec,
    outputs: dict[str, Array],
    *,
    mask: Array | None,
    greedy: Array,
    epsilon: Array,
    random: float,
    rng: np.random.Generator,
) -> tuple[Array, dict[str, Array]]:
    """Choose actions for E environments.

    Args:
        head: Kind of head.
        action_spec: Kind and shape of the actions.
        outputs: The policy's outputs [E, ...].
        mask: Valid choices [E, A]; ``None``: all. A row without any picks the first choice.
        greedy: Environments in a greedy episode [E].
        epsilon: Share of uniform random actions of each environment [E].
        random: Least share of uniform random actions in episodes that are not greedy.
        rng: Source of randomness.

    Returns:
        Actions [E, ...] and, by name, extra columns of the fragment: ``logp`` [E], the
        log-probability of each action, for stochastic heads.
    """
    uniform = ~greedy & (rng.random(len(greedy)) < np.maximum(epsilon, random))
    shape, dtype = (len(greedy), *action_spec.shape), action_spec.leaf.dtype
    if head.kind == "epsilon_greedy":
        q, count = outputs["q"], np.count_nonzero(uniform)
        if not count:
            action = best_choices(action_spec.sizes, q, mask)
        else:
            action = best_choices(action_spec.sizes, rng.random(q.shape), mask)
            if count < len(uniform):
                best = best_choices(action_spec.sizes, q, mask)
                action = np.where(uniform[:, None], action, best)
        return action.reshape(shape).astype(dtype), {}
    if head.kind == "categorical":
        action, logp = _categorical(action_spec, outputs["logits"], mask, greedy, uniform, rng)
        return action.reshape(shape).astype(dtype), {"logp": _single(logp)}
    action, logp = _gaussian(head, action_spec, outputs, greedy, uniform, rng)
    if head.kind == "hybrid":
        chosen, more = _categorical(action_spec, outputs["logits"], mask, greedy, uniform, rng)
        action, logp = np.concatenate((chosen, action), axis=1), logp + more
    return _single(action.reshape(shape)), {"logp": _single(logp)}


def to_environment(head: Head, action_spec: ActionSpec, action: Array) -> int | Array:
    """Convert one environment's action to the argument of its ``step``.

    Args:
        head: Kind of head, which determines the units of the action.
        action_spec: Kind, shape and bounds of the action.
        action: The action as it travels [...]; numbers are clipped to their bounds.
    """
    if action_spec.kind == "discrete":
        return int(action)
    if action_spec.kind == "multidiscrete":
        return action.astype(np.int64)
    row: Array = to_environment_rows(head, action_spec, action[None])[0]
    return row


def to_environments(head: Head, action_spec: ActionSpec, actions: Array) -> Sequence[int | Array]:
    """Convert the actions of several environments; see ``to_environment``.

    Args:
        head: Kind of head, which determines the units of the actions.
        action_spec: Kind, shape and bounds of the actions.
        actions: The actions as they travel [E, ...].
    """
    if action_spec.kind == "discrete":
        indices: list[int] = actions.tolist()
        return indices
    if action_spec.kind == "multidiscrete":
        return list(actions.astype(np.int64))
    return list(to_environment_rows(head, action_spec, actions))


def to_environment_rows(head: Head, action_spec: ActionSpec, actions: Array) -> Array:
    """Convert actions as they travel to choices that count from zero and numbers of the space.

    Args:
        head: Kind of head, which determines the units of the actions.
        action_spec: Kind, shape and bounds of the actions.
        actions: The actions as they travel [T, ...]; numbers are clipped to their bounds.

    Returns:
        Rows [T, ...] of the dtype of ``action_spec.leaf``.
    """
    if not action_spec.low:
        return actions
    rows, split = _rows(action_spec, actions)
    box = _box(action_spec)
    numbers = rows[:, split:]
    if head.kind != "gaussian":
        numbers = box.centre + box.unit * numbers.astype(np.float64)
    clipped = np.clip(numbers, box.low, box.high).astype(np.float32)
    return np.concatenate((rows[:, :split], clipped), axis=1).reshape(actions.shape)


def from_environment_rows(head: Head, action_spec: ActionSpec, actions: Array) -> Array:
    """Convert actions of the space to actions as they travel; inverts ``to_environment_rows``.

    Args:
        head: Kind of head, which determines the units of the actions.
        action_spec: Kind, shape and bounds of the actions.
        actions: Choices that count from zero and numbers of the space [T, ...].

    Returns:
        Rows [T, ...] of the dtype of ``action_spec.leaf``.
    """
    dtype = action_spec.leaf.dtype
    if not action_spec.low:
        return actions.astype(dtype)
    rows, split = _rows(action_spec, actions)
    numbers = rows[:, split:].astype(np.float64)
    if head.kind != "gaussian":
        box = _box(action_spec)
        numbers = np.where(box.unit > 0.0, (numbers - box.centre) / np.maximum(box.unit, 1e-30), 0)
        numbers = np.where(box.bounded, numbers.clip(-1.0, 1.0), numbers)
    row = np.concatenate((rows[:, :split], numbers), axis=1)
    return row.reshape(actions.shape).astype(dtype)


def _rows(action_spec: ActionSpec, actions: Array) -> tuple[Array, int]:
    """Return actions as rows [T, C + N], and C."""
    return actions.reshape(len(actions), -1), len(action_spec.sizes)


def masked_argmax(scores: Array, mask: Array | None) -> Array:
    """Return the index [E] of the highest valid score [E, A]."""
    if mask is not None:
        scores = np.where(mask, scores, -np.inf)
    index: Array = scores.argmax(-1)
    return index


def best_choices(sizes: Sequence[int], scores: Array, mask: Array | None) -> Array:
    """Return the indices [E, components] of each component's highest valid score.

    Args:
        sizes: Number of choices of each component; they sum to A.
        scores: Scores [E, A].
        mask: Valid choices [E, A]; ``None``: all.
    """
    if len(sizes) == 1:
        return masked_argmax(scores, mask)[:, None]
    ends = np.cumsum(sizes)
    parts = [slice(end - size, end) for end, size in zip(ends, sizes, strict=True)]
    masks = (None if mask is None else mask[:, part] for part in parts)
    best = [masked_argmax(scores[:, p], m) for p, m in zip(parts, masks, strict=True)]
    return np.stack(best, axis=-1)


def log_softmax(logits: Array, mask: Array | None) -> Array:
    """Return log-probabilities [E, A] in float64; minus infinity for invalid choices."""
    logits = logits.astype(np.float64)
    if mask is not None:
        logits = np.where(mask | ~mask.any(-1, keepdims=True), logits, -np.inf)
    logits = logits - logits.max(-1, keepdims=True)
    log_probability: Array = logits - np.log(np.exp(logits).sum(-1, keepdims=True))
    return log_probability


def _categorical(
    action_spec: ActionSpec,
    logits: Array,
    mask: Array | None,
    greedy: Array,
    uniform: Array,
    rng: np.random.Generator,
) -> tuple[Array, Array]:
    """Draw from one softmax per component by the Gumbel-max trick.

    Returns:
        Choices [E, components] and their log-probabilities [E], which add up over components.
    """
    rows = np.arange(len(logits))
    chosen, logp, first = [], np.zeros(len(logits)), 0
    for size in action_spec.sizes:
        part = slice(first, first + size)
        valid = None if mask is None else mask[:, part]
        scores = np.where(uniform[:, None], 0.0, logits[:, part])
        log_probability = log_softmax(scores, valid)
        noise = np.where(greedy[:, None], 0.0, rng.gumbel(size=scores.shape))
        action = masked_argmax(log_probability + noise, valid)
        logp += log_probability[rows, action]
        chosen.append(action)
        first += size
    return np.stack(chosen, axis=-1), logp


def _gaussian(
    head: Head,
    action_spec: ActionSpec,
    outputs: dict[str, Array],
    greedy: Array,
    uniform: Array,
    rng: np.random.Generator,
) -> tuple[Array, Array]:
    """Draw from a diagonal normal distribution, squashed by tanh or not.

    Only absurd numbers are clipped, see ``largest_action``.

    Returns:
        Numbers [E, n] and their log-densities [E].
    """
    environments = len(greedy)
    mean = outputs["mean"].reshape(environments, -1).astype(np.float64)
    log_std = outputs["log_std"].reshape(environments, -1).astype(np.float64)
    noise = np.where(greedy[:, None], 0.0, rng.standard_normal(mean.shape))
    action = mean + np.exp(log_std) * noise
    logp = -(0.5 * noise**2 + log_std + 0.5 * np.log(2.0 * np.pi)).sum(-1)
    if head.kind == "squashed":
        # log(1 - tanh(x)^2) in a form that stays finite for large x
        logp -= (2.0 * (np.log(2.0) - action - np.logaddexp(0.0, -2.0 * action))).sum(-1)
        action = np.tanh(action)
    if uniform.any():
        anywhere, density = _uniform(head, action_spec, environments, rng)
        action = np.where(uniform[:, None], anywhere, action)
        logp = np.where(uniform, density, logp)
    most = largest_action(head, action_spec)
    return action.clip(-most, most), logp


@lru_cache(maxsize=64)
def largest_action(head: Head, action_spec: ActionSpec) -> float:
    """Return the largest number of a box action as it travels, with either sign.

    A normal distribution is not bounded: it may draw numbers far beyond the bounds of the space,
    which ``to_environment`` clips.
    """
    if head.kind == "squashed":
        return 1.0
    if head.kind != "gaussian":
        return 1e6
    bounds = [abs(bound) for bound in (*action_spec.low, *action_spec.high)]
    return max(1e6, 100.0 * max((bound for bound in bounds if bound < UNBOUNDED), default=0.0))


def _single(numbers: Array) -> Array:
    """Convert to single precision; numbers beyond its range become its largest."""
    largest = np.finfo(np.float32).max
    single: Array = numbers.clip(-largest, largest).astype(np.float32)
    return single


def _uniform(
    head: Head, action_spec: ActionSpec, rows: int, rng: np.random.Generator
) -> tuple[Array, Array]:
    """Draw bounded numbers uniformly and others normally [rows, n]; return log-densities [rows]."""
    box = _box(action_spec)
    centre, unit = box.centre, box.unit
    if head.kind != "gaussian":
        centre, unit = np.zeros_like(centre), np.ones_like(unit)
    shape = rows, len(centre)
    drawn = np.where(box.bounded, 2.0 * rng.random(shape) - 1.0, rng.standard_normal(shape))
    normal = -0.5 * drawn**2 - 0.5 * np.log(2.0 * np.pi)
    density = np.where(box.bounded, -np.log(2.0), normal) - np.log(np.maximum(unit, 1e-12))
    return centre + unit * drawn, density.sum(-1)


class _Box(NamedTuple):
    """The bounds of numbers [n]; -1 to 1 are ``centre - unit`` to ``centre + unit``."""

    low: Array
    high: Array
    bounded: Array  # on both sides
    centre: Array
    unit: Array


@lru_cache(maxsize=64)
def _box(action_spec: ActionSpec) -> _Box:
    """Return a box; the unit of a number without two bounds is 1, counted from its only bound."""
    most = float(np.finfo(np.float32).max)
    bounds = (np.clip(bound, -most, most) for bound in (action_spec.low, action_spec.high))
    low, high = (np.asarray(bound, np.float64) for bound in bounds)
    has_low, has_high = low > -UNBOUNDED, high < UNBOUNDED
    bounded = has_low & has_high
    single = np.where(has_low, low, np.where(has_high, high, 0.0))
    centre = np.where(bounded, 0.5 * low + 0.5 * high, single)
    unit = np.where(bounded, 0.5 * high - 0.5 * low, 1.0)
    return _Box(low.astype(np.float32), high.astype(np.float32), bounded, centre, unit)
