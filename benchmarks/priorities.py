"""Prioritised replay measured: a batch and its new priorities, beside those of cpprb."""

import tempfile
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from benchmarks.figure import Figure, at_least, beside
from benchmarks.peers import BATCH, ROWS, WIDTH
from benchmarks.turns import Run, peer, rates, timed
from soulsai.algorithms.n_step_returns import transition_columns
from soulsai.replay import tree_routines
from soulsai.replay.prioritized import PrioritizedReplay
from soulsai.replay.tree_routines import TreeRoutines
from soulsai.types import ActionSpec, Leaf, Spec

LIMIT = 1.2  # times the peer's rate
COUNT, ROUNDS = 1000, 9
SPEC = Spec({"obs": Leaf((WIDTH,), "<f4")}, ActionSpec("discrete", sizes=(4,)))


def measure(peers: str) -> Iterator[Figure]:
    """Yield the rates of our replay, by compiled routines and by NumPy.

    Args:
        peers: The Python in which cpprb is installed.
    """
    with tempfile.TemporaryDirectory() as name:
        tree_routines.compile_routines(tree_routines.compiler(), Path(name))
        routines = tree_routines.load_routines(Path(name))
    with peer("cpprb", peers) as theirs:
        runs = {
            "peer": theirs,
            "compiled": timed(_ours(routines)),
            "numpy": timed(_ours(None)),
        }
        rate = rates(runs, COUNT, ROUNDS)
    what = f"priorities: {ROWS:,} rows, a batch of {BATCH} and its new priorities"
    yield at_least(f"{what}, compiled", rate["compiled"], "1/s", LIMIT * rate["peer"])
    yield beside(f"{what}, NumPy", rate["numpy"], "1/s", rate["peer"])


def _ours(routines: TreeRoutines | None) -> Run:
    rng = np.random.default_rng(0)
    columns = transition_columns(SPEC)
    replay = PrioritizedReplay(ROWS, columns, alpha=0.6, rng=rng)
    if routines is not None:
        replay.use_routines(routines)
    rows = {name: np.zeros((ROWS, *leaf.shape), leaf.dtype) for name, leaf in columns.items()}
    replay.append(rows)
    replay.update_priorities(np.arange(ROWS), rng.random(ROWS))

    def run(count: int) -> None:
        for _ in range(count):
            batch = replay.sample(BATCH, beta=0.4)
            replay.update_priorities(batch.ids, rng.random(BATCH))

    return run
