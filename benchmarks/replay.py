"""Replay measured: bytes per transition of pictures and vectors, and the time of a batch."""

import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from benchmarks.figure import Figure, at_most, beside
from soulsai.algorithms.n_step_returns import NStepReturns, transition_columns
from soulsai.frame_stacks import FrameStack
from soulsai.replay.prioritized import PrioritizedReplay
from soulsai.replay.ring import Ring
from soulsai.types import (
    PROTOCOL,
    ActionSpec,
    Array,
    EnvironmentOffer,
    Fragment,
    Leaf,
    RunSpec,
    Spec,
)
from soulsai.wire.codec import encode_message, pack

STACK = FrameStack(4, 84, 84, last=True)
SPEC = Spec({"obs": Leaf(STACK.shape, "|u1")}, ActionSpec("discrete", sizes=(6,)))
RUN = RunSpec("bench", PROTOCOL, PROTOCOL, EnvironmentOffer("Atari"), SPEC, "dqn", "")
CAPACITY, STEPS, EPISODE = 20_000, 30_000, 960  # more steps than rows: it is full, and goes round
FRAGMENT, BATCH = 64, 64
ROUNDS = 300
BYTES, SECONDS = 8192.0, 0.5e-3
VECTOR, SHARED = 74, 0.6  # numbers, and the share of a replay with copies


def measure() -> Iterator[Figure]:
    """Yield what a transition takes on its way and in replay, and the times of both."""
    fragment = next(_fragments())
    began = time.perf_counter()
    for _ in range(ROUNDS):
        entry = pack([encode_message(fragment, RUN)])
    packing = (time.perf_counter() - began) / ROUNDS / FRAGMENT
    yield at_most("wire: 84x84x4, noise, per transition", len(entry) / FRAGMENT, "B", BYTES)
    yield beside("wire: 84x84x4, packing a step", packing * 1e6, "us", 1e3)
    replay = PrioritizedReplay(
        CAPACITY, transition_columns(SPEC), alpha=0.6, rng=np.random.default_rng(0)
    )
    returns = NStepReturns(SPEC, n=3, gamma=0.99)
    before, spent = _resident(), 0.0
    for fragment in _fragments():
        began = time.perf_counter()
        replay.append(returns.assemble([fragment]))
        spent += time.perf_counter() - began
    held = (_resident() - before) / len(replay)
    what = "replay: 84x84x4, 3 steps ahead"
    yield at_most(f"{what}, memory per transition", held, "B", BYTES)
    times = []
    for _ in range(ROUNDS):
        began = time.perf_counter()
        replay.sample(BATCH, beta=0.5)
        times.append(time.perf_counter() - began)
    yield at_most(f"{what}, a batch of 64", float(np.median(times)) * 1e3, "ms", SECONDS * 1e3)
    copied = _copying() * 1e3
    yield beside(f"{what}, a batch of 64, fastest", min(times) * 1e3, "ms", copied)
    yield beside(f"{what}, taking a step in", spent / STEPS * 1e6, "us", 1e3)
    once, copied = (_vector_bytes(shared=shared) for shared in (True, False))
    yield at_most(f"replay: {VECTOR} numbers, memory per transition", once, "B", SHARED * copied)


def _vector_bytes(*, shared: bool) -> float:
    """Return the bytes that a transition of vectors takes in the columns of replay.

    Args:
        shared: Whether each observation is kept once.
    """
    spec = Spec({"obs": Leaf((VECTOR,), "<f4")}, ActionSpec("discrete", sizes=(6,)))
    ring = Ring(CAPACITY, transition_columns(spec), shared=shared)
    returns, rng = NStepReturns(spec, n=3, gamma=0.99), np.random.default_rng(0)
    for first in range(0, STEPS, FRAGMENT):
        seen = rng.normal(size=(FRAGMENT + 1, VECTOR)).astype(np.float32)
        fragment = _fragment({"obs": seen}, first, rng)
        ring.append(returns.assemble([fragment]))
    total = sum(column.nbytes for column in ring.columns.values())
    if ring.next is not None:
        total += ring.next.places.nbytes + ring.next.behind * seen[0].nbytes
    return total / len(ring)


def _fragments() -> Iterator[Fragment]:
    rng = np.random.default_rng(0)
    frames: Array = np.zeros((0, 84, 84), np.uint8)
    for first in range(0, STEPS, FRAGMENT):
        start = first % EPISODE
        old = frames[-4:] if start else rng.integers(256, size=(4, 84, 84), dtype=np.uint8)
        new = rng.integers(256, size=(FRAGMENT, 84, 84), dtype=np.uint8)
        frames = np.concatenate((old, new))
        yield _fragment({"obs": STACK.rolled(frames)}, first, rng)


def _fragment(obs: dict[str, Array], first: int, rng: np.random.Generator) -> Fragment:
    start = first % EPISODE
    return Fragment(
        client="bench",
        epoch=1,
        episode=first // EPISODE,
        start=start,
        clock=first,
        generation=1,
        version=1,
        obs=obs,
        action=rng.integers(6, size=FRAGMENT).astype(np.uint8),
        reward=np.zeros(FRAGMENT, np.float32),
        terminated=start + FRAGMENT == EPISODE,
        truncated=False,
    )


def _copying() -> float:
    """Return the seconds in which memory copies as many bytes as a batch has, one frame a time."""
    source = np.ones((4096, 84, 84), np.uint8)
    places = np.random.default_rng(0).integers(len(source), size=8 * BATCH)
    times = []
    for _ in range(ROUNDS):
        began = time.perf_counter()
        source.take(places, axis=0)
        times.append(time.perf_counter() - began)
    return min(times)


def _resident() -> int:
    """Return how many bytes of memory this process takes."""
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * 4096
