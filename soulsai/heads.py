"""How a policy's outputs become actions, in NumPy: what clients and evaluations act with."""

from functools import lru_cache

import numpy as np
from msgspec import Struct

from soulsai.types import ActionSpec, Array, Head


class Exploration(Struct, frozen=True):
    """How one episode is played: without exploring, or with a share of uniform random actions."""

    greedy: bool
    epsilon: float


def explore(head: Head, knobs: dict[str, float], rng: np.random.Generator) -> Exploration:
    """Decide at an episode's start how it is played.

    Each episode draws its own epsilon, so any number of clients covers the whole ladder. While the
    fleet acts at random only (the knob ``random`` is 1) there is nothing to measure, hence nothing
    greedy.
    """
    luck, rung = rng.random(2)
    if luck < head.eval_fraction and knobs.get("random", 0.0) < 1.0:
        return Exploration(greedy=True, epsilon=0.0)
    if head.kind != "epsilon_greedy":
        return Exploration(greedy=False, epsilon=0.0)
    epsilon = head.epsilon_base ** (1.0 + head.epsilon_alpha * rung)
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
    """Choose actions for E environments, and what the learner must know of the choice.

    Args:
        head: Which kind of choice it is.
        action_spec: What may be done.
        outputs: The policy's outputs [E, ...].
        mask: Which choices are valid [E, A]; ``None``: all. If none is, the first one is chosen.
        greedy: Environments whose episode measures the policy [E].
        epsilon: Each environment's share of uniform random actions [E].
        random: The least share of uniform random actions of all but the greedy.
        rng: The only source of chance.
    """
    at_random = ~greedy & (rng.random(len(greedy)) < np.maximum(epsilon, random))
    if head.kind == "epsilon_greedy":
        action = best(outputs["q"], mask)
        if at_random.any():
            action = np.where(at_random, anything(outputs["q"].shape, mask, rng), action)
        return action.astype(action_spec.leaf.dtype), {}
    if head.kind == "categorical":
        return _categorical(action_spec, outputs["logits"], mask, greedy, at_random, rng)
    return _gaussian(head, action_spec, outputs, greedy, at_random, rng)


def to_environment(head: Head, action_spec: ActionSpec, action: Array) -> int | Array:
    """Turn one environment's action into what its ``step`` takes."""
    if action_spec.kind == "discrete":
        return int(action)
    if action_spec.kind == "multidiscrete":
        return action.astype(np.int64)
    low, high = _bounds(action_spec)
    if head.kind == "squashed":
        action = low + (action + 1.0) / 2.0 * (high - low)
    clipped: Array = np.clip(action, low, high).astype(np.float32)
    return clipped


def best(scores: Array, mask: Array | None) -> Array:
    """Return the index of the highest valid score [E] of [E, A]."""
    if mask is not None:
        scores = np.where(mask, scores, -np.inf)
    index: Array = scores.argmax(-1)
    return index


def anything(shape: tuple[int, ...], mask: Array | None, rng: np.random.Generator) -> Array:
    """Return the index of a uniformly drawn valid choice [E], for ``shape`` [E, A]."""
    return best(rng.random(shape), mask)


def log_softmax(logits: Array, mask: Array | None) -> Array:
    """Return log-probabilities [E, A]; of an invalid choice, minus infinity."""
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
    at_random: Array,
    rng: np.random.Generator,
) -> tuple[Array, dict[str, Array]]:
    """Draw from a softmax per component, by the Gumbel trick; log-probabilities add up."""
    rows = np.arange(len(logits))
    chosen, logp, first = [], np.zeros(len(logits)), 0
    for size in action_spec.sizes:
        part = slice(first, first + size)
        valid = None if mask is None else mask[:, part]
        scores = np.where(at_random[:, None], 0.0, logits[:, part])
        log_probability = log_softmax(scores, valid)
        noise = np.where(greedy[:, None], 0.0, rng.gumbel(size=scores.shape))
        action = best(log_probability + noise, valid)
        logp += log_probability[rows, action]
        chosen.append(action)
        first += size
    actions = chosen[0] if action_spec.kind == "discrete" else np.stack(chosen, axis=-1)
    return actions.astype(action_spec.leaf.dtype), {"logp": _single(logp)}


def _gaussian(
    head: Head,
    action_spec: ActionSpec,
    outputs: dict[str, Array],
    greedy: Array,
    at_random: Array,
    rng: np.random.Generator,
) -> tuple[Array, dict[str, Array]]:
    """Draw from a diagonal normal law, squashed by tanh or not; actions are not clipped here."""
    environments = len(greedy)
    mean = outputs["mean"].reshape(environments, -1).astype(np.float64)
    log_std = outputs["log_std"].reshape(environments, -1).astype(np.float64)
    noise = np.where(greedy[:, None], 0.0, rng.standard_normal(mean.shape))
    drawn = mean + np.exp(log_std) * noise
    logp = -(0.5 * noise**2 + log_std + 0.5 * np.log(2.0 * np.pi)).sum(-1)
    if head.kind == "squashed":
        # log(1 - tanh(x)^2), written so that it stays finite far out
        logp -= (2.0 * (np.log(2.0) - drawn - np.logaddexp(0.0, -2.0 * drawn))).sum(-1)
        drawn = np.tanh(drawn)
        low, high = np.full_like(mean[0], -1.0), np.ones_like(mean[0])
    else:
        low, high = _bounds(action_spec)
    if at_random.any():
        uniform = _uniform(low.reshape(-1), high.reshape(-1), mean.shape, rng)
        density = (
            -np.log(np.maximum(high - low, 1e-12)).sum() if np.isfinite(high - low).all() else 0.0
        )
        drawn = np.where(at_random[:, None], uniform, drawn)
        logp = np.where(at_random, density, logp)
    shaped = drawn.reshape(environments, *action_spec.shape)
    return _single(shaped), {"logp": _single(logp)}


def _single(numbers: Array) -> Array:
    """Return numbers in single precision, the finite ones finite."""
    largest = np.finfo(np.float32).max
    single: Array = numbers.clip(-largest, largest).astype(np.float32)
    return single


def _uniform(low: Array, high: Array, shape: tuple[int, ...], rng: np.random.Generator) -> Array:
    """Draw uniformly where the box is bounded, and normally where it is not."""
    bounded = np.isfinite(low) & np.isfinite(high)
    start, width = np.where(bounded, low, 0.0), np.where(bounded, high - low, 0.0)
    return np.where(bounded, start + width * rng.random(shape), rng.standard_normal(shape))


@lru_cache(maxsize=64)
def _bounds(action_spec: ActionSpec) -> tuple[Array, Array]:
    low = np.array(action_spec.low, np.float32).reshape(action_spec.shape)
    high = np.array(action_spec.high, np.float32).reshape(action_spec.shape)
    return low, high
