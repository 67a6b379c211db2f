"""Experience measured: the share of what clients play that is learnt from, with a busy learner."""

import json
import tempfile
from collections.abc import Iterator
from pathlib import Path

from benchmarks.calls import answer
from benchmarks.figure import Figure, at_least

LIMIT = 99.0  # per cent
STEPS = 200_000


def measure() -> Iterator[Figure]:
    """Yield the share of the env steps that two unthrottled clients took."""
    with tempfile.TemporaryDirectory() as saves:
        words = ["--env", "CartPole-v1", "--clients", "2", "--saves", saves]
        settings = ["--max-env-steps", str(STEPS), "--set=dqn.pace=free"]
        summary = answer("train", *words, *settings)
        status = json.loads((Path(summary["run"]) / "status.json").read_text())
    admitted = summary["admitted"]
    missing = status["lost"] + status["dropped"] + sum(status["rejected"].values())
    share = 100 * admitted / (admitted + missing)
    yield at_least("experience: share of valid env steps that reach replay", share, "%", LIMIT)
