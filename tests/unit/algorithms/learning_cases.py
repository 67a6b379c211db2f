"""Small specs, episodes and their fragments, for tests of what learns."""

from collections.abc import Iterator, Sequence
from itertools import pairwise

import numpy as np

from soulsai.algorithms.dqn.settings import DQNSettings
from soulsai.types import MASK, ActionSpec, Array, Fragment, Leaf, Spec

ACTIONS = 3


def spec(*, masked: bool = False) -> Spec:
    mask = {MASK: Leaf((ACTIONS,), "|b1")} if masked else {}
    return Spec({"obs": Leaf((2,), "<f4"), **mask}, ActionSpec("discrete", (), (ACTIONS,)))


def settings(**changes) -> DQNSettings:
    """A learner small and eager enough for tests, whose updates can be looked at one by one."""
    small = {"hidden": (16,), "quantiles": 4, "learning_starts": 32, "batch_size": 16}
    small["updates_per_call"] = 1
    return DQNSettings(**{**small, "capacity": 500, "slack_steps": 64, **changes})


def episode(
    steps: int,
    *,
    number: int = 0,
    client: str = "a",
    terminated=True,
    truncated=False,
    masked=False,
) -> Fragment:
    """A whole episode whose numbers tell where they come from: obs[t] = (t, number)."""
    rng = np.random.default_rng((steps, number))
    rows = np.stack([np.arange(steps + 1), np.full(steps + 1, number)], axis=1)
    obs: dict[str, Array] = {"obs": rows.astype("<f4")}
    if masked:
        obs[MASK] = rng.random((steps + 1, ACTIONS)) < 0.6
        obs[MASK][:, 0] = True
    return Fragment(
        client=client,
        epoch=1,
        episode=number,
        start=0,
        clock=0,
        generation=0,
        version=0,
        obs=obs,
        action=rng.integers(ACTIONS, size=steps).astype("|u1"),
        reward=rng.normal(size=steps).astype("<f4"),
        terminated=terminated,
        truncated=truncated,
    )


def cut(whole: Fragment, at: Sequence[int]) -> list[Fragment]:
    """Cut an episode before each of the steps ``at``."""
    edges = [0, *sorted(set(at)), len(whole)]
    return [part(whole, a, b) for a, b in pairwise(edges)]


def part(whole: Fragment, first: int, last: int) -> Fragment:
    end = last == len(whole)
    return Fragment(
        client=whole.client,
        epoch=whole.epoch,
        episode=whole.episode,
        start=first,
        clock=first,
        generation=0,
        version=0,
        obs={name: rows[first : last + 1].copy() for name, rows in whole.obs.items()},
        action=whole.action[first:last].copy(),
        reward=whole.reward[first:last].copy(),
        terminated=whole.terminated and end,
        truncated=whole.truncated and end,
    )


def stream(count: int, *, masked: bool = False) -> list[Fragment]:
    """The fragments of ``count`` episodes of various lengths, by two clients in turns."""
    waiting = []
    for number in range(count):
        kind = number % 3
        whole = episode(
            3 + (number * 7) % 25,
            number=number,
            client="ab"[number % 2],
            terminated=kind == 0,
            truncated=kind == 1,
            masked=masked,
        )
        waiting.append(cut(whole, [k for k in (5, 6, 13) if k < len(whole)]))
    arrived = []
    for a, b in zip(waiting[::2], waiting[1::2], strict=False):
        arrived += [f for pair in zip(a, b, strict=False) for f in pair]
        arrived += a[len(b) :] + b[len(a) :]
    return arrived


def endless(fragments: Sequence[Fragment]) -> Iterator[list[Fragment]]:
    """One fragment at a time, and then nothing more, for ever."""
    for fragment in fragments:
        yield [fragment]
    while True:
        yield []
