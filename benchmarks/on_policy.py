"""PPO measured: env steps per second of whole runs, beside Stable-Baselines3 on the same cores."""

import tempfile
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from benchmarks import learning
from benchmarks.figure import Figure, at_least
from benchmarks.learning import Bench
from benchmarks.targets import TARGETS
from benchmarks.turns import peer
from soulsai.errors import SoulsAIError

LIMIT = 3.0  # times the peer
ROUNDS = 3
TARGET = TARGETS["T2-calm"]


def measure(peers: str) -> Iterator[Figure]:
    """Yield our env steps per second by the clock, from the first to the last version.

    Args:
        peers: The Python in which Stable-Baselines3 is installed.

    Raises:
        SoulsAIError: A run has failed.
    """
    ours, theirs = [], []
    with tempfile.TemporaryDirectory() as saves, peer("sb3-ppo", peers, "wall") as sb3:
        for seed in range(ROUNDS):
            theirs.append(TARGET.steps / sb3(TARGET.steps))
            score = learning.run(TARGET, [seed], Bench(Path(saves)))
            if score.failed:
                raise SoulsAIError(score.failed[seed])
            ours.append(score.env_steps[0] / score.wall_seconds[0])
    yield at_least(
        f"on-policy: env steps of {TARGET.environment}, ppo with {TARGET.clients} clients",
        float(np.median(ours)),
        "1/s",
        LIMIT * float(np.median(theirs)),
    )
