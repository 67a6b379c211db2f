"""Telemetry measured: the price of an episode, of a figure and of a memory, over a long run."""

import random
import resource
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

from benchmarks.figure import Figure, at_most
from soulsai.config.schema import TelemetrySettings
from soulsai.telemetry_node import figure, painter
from soulsai.telemetry_node.run import FollowedRun
from soulsai.types import (
    PROTOCOL,
    ActionSpec,
    EnvironmentOffer,
    Episode,
    Leaf,
    RunSpec,
    Spec,
)

EPISODES = 1_000_000
BATCH = 500  # episodes taken in at a time, as when the node catches up
INTAKE_LIMIT = 50.0  # microseconds per episode
FIGURE_LIMIT = 1.0  # seconds
MEMORY_LIMIT = 32.0  # MiB by which the second half of the run may grow
NEVER = 10**12
DRAWINGS = 5

_SPEC = RunSpec(
    run="bench",
    protocol=PROTOCOL,
    oldest_protocol=PROTOCOL,
    environment=EnvironmentOffer("LunarLander-v3"),
    spec=Spec({"obs": Leaf((8,), "<f4")}, ActionSpec("discrete", sizes=(4,))),
    algorithm="dqn",
    program_sha256="",
)


def measure(episodes: int = EPISODES) -> Iterator[Figure]:
    """Yield the figures of a run of so many episodes, which is really recorded on disk."""
    settings = TelemetrySettings(
        figure_every=NEVER, metrics={"long": "steps > 250", "fell": "info.fell"}
    )
    with tempfile.TemporaryDirectory() as folder:
        run = FollowedRun(Path(folder), _SPEC, settings)
        taken, halfway = 0.0, 0
        for start in range(0, episodes, BATCH):
            batch = list(_played(start, min(BATCH, episodes - start)))
            began = time.process_time()
            run.take(batch, gap=False)
            run.show()
            taken += time.process_time() - began
            if start < episodes // 2:
                halfway = _most_memory()
        grown = (_most_memory() - halfway) / 2**20
        yield at_most("intake per episode (processor)", 1e6 * taken / episodes, "us", INTAKE_LIMIT)
        yield at_most("memory, second half", grown, "MiB", MEMORY_LIMIT)
        yield at_most(
            f"figure of {episodes:,} (processor)", _drawn(run, Path(folder)), "s", FIGURE_LIMIT
        )
        run.close()


def _drawn(run: FollowedRun, folder: Path) -> float:
    """Return the seconds of the fastest of some drawings; the first one loads fonts."""
    took = []
    for _ in range(DRAWINGS):
        began = time.process_time()
        figure.save(figure.draw(run.snapshot()), folder / painter.NAME)
        took.append(time.process_time() - began)
    return min(took)


def _most_memory() -> int:
    return 1024 * resource.getrusage(resource.RUSAGE_SELF).ru_maxrss


def _played(start: int, count: int) -> Iterator[tuple[str, Episode]]:
    rng = random.Random(start)
    for number in range(start, start + count):
        yield (
            f"{number + 1}-0",
            Episode(
                generation=1,
                version=1 + number // 20,
                episode=number,
                reward=rng.gauss(0.0, 100.0),
                steps=rng.randint(60, 500),
                seconds=1.0,
                terminated=True,
                greedy=rng.random() < 0.05,
                epsilon=0.1,
                info={"fell": 1.0},
                client=f"client-{number % 100}",
                env_steps=240 * number,
                time=1e9 + number,
            ),
        )
