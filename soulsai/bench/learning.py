"""Learning targets: whole runs over seeds, judged by greedy episodes of the final checkpoint.

The protocol: real server, separate client processes, env steps admitted by the training node, the
*final* checkpoint, 100 greedy episodes on environment seeds that training never uses, and the
interquartile mean over training seeds, which drops a quarter of the runs on either side
(arXiv:2108.13264).
"""

import subprocess
import sys
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
from msgspec import Struct

from soulsai.errors import ConfigError, SoulsAIError

EPISODES = 100
FIRST_SEED = 1_000_000  # of the evaluation's environments


class Target(Struct, frozen=True):
    """One thing to learn, and how well it must be learnt."""

    name: str
    environment: str
    algorithm: str
    steps: int
    bar: float = float("-inf")  # of the IQM over seeds
    floor: float = float("-inf")  # of the worst seed
    clients: int = 4


class Score(Struct, frozen=True):
    """What several seeds of one target reached."""

    target: str
    iqm: float
    worst: float
    low: float  # 95 % bootstrap interval of the IQM; the number of seeds limits its worth
    high: float
    seeds: list[int]
    scores: list[float]
    env_steps: list[int]
    wall_seconds: list[float]
    bar: float
    floor: float

    @property
    def held(self) -> bool:
        """Whether the bar and the floor are reached."""
        return self.iqm >= self.bar and self.worst >= self.floor


TARGETS = {
    target.name: target
    for target in (
        Target("T1", "CartPole-v1", "dqn", 50_000, bar=475, floor=400),
        Target("T3", "LunarLander-v3", "dqn", 150_000, bar=200, floor=120),
    )
}


def target(name: str) -> Target:
    """Return a named target, or one made from ``ENV:ALGORITHM:STEPS``."""
    if name in TARGETS:
        return TARGETS[name]
    environment, _, rest = name.rpartition(":")[0].rpartition(":")
    steps = name.rpartition(":")[2]
    if not environment or not rest or not steps.isdecimal():
        known = ", ".join(TARGETS)
        raise ConfigError(f"--targets: {name!r} is none of {known}, nor ENV:ALGORITHM:STEPS")
    return Target(name, environment, rest, int(steps))


def iqm(scores: Sequence[float]) -> float:
    """Return the mean of the middle half."""
    ordered = np.sort(np.asarray(scores, np.float64))
    cut = int(0.25 * len(ordered))
    return float(ordered[cut : len(ordered) - cut].mean())


def interval(scores: Sequence[float], reps: int = 5_000) -> tuple[float, float]:
    """Return the 95 % percentile bootstrap interval of the IQM."""
    rng = np.random.default_rng(0)
    drawn = np.sort(rng.choice(np.asarray(scores, np.float64), (reps, len(scores))), axis=1)
    cut = int(0.25 * len(scores))
    means = drawn[:, cut : len(scores) - cut].mean(axis=1)
    low, high = np.percentile(means, [2.5, 97.5])
    return float(low), float(high)


class _Run(Struct):
    """One seed's result."""

    score: float
    env_steps: int
    wall_seconds: float


def run(
    chosen: Target,
    seeds: Sequence[int],
    saves: Path,
    *,
    parallel: int = 1,
    overrides: Sequence[str] = (),
) -> Score:
    """Train and evaluate one target over seeds, ``parallel`` of them at a time."""
    with ThreadPoolExecutor(parallel) as pool:
        runs = list(pool.map(lambda seed: _one(chosen, seed, saves, overrides), seeds))
    scores = [one.score for one in runs]
    low, high = interval(scores)
    return Score(
        chosen.name, iqm(scores), min(scores), low, high, list(seeds), scores,
        [one.env_steps for one in runs], [one.wall_seconds for one in runs],
        chosen.bar, chosen.floor,
    )  # fmt: skip


def _one(chosen: Target, seed: int, saves: Path, overrides: Sequence[str]) -> _Run:
    options = {
        "--env": chosen.environment,
        "--algorithm": chosen.algorithm,
        "--max-env-steps": chosen.steps,
        "--clients": chosen.clients,
        "--seed": seed,
        "--saves": saves,
    }
    summary = _last_line("train", *_words(options), *(f"--set={word}" for word in overrides))
    options = {"--episodes": EPISODES, "--seed": FIRST_SEED}
    played = _last_line("evaluate", str(summary["run"]), *_words(options))
    return _Run(float(played["mean"]), int(summary["env_steps"]), float(summary["wall_seconds"]))


def _words(options: dict[str, object]) -> list[str]:
    return [str(word) for option in options.items() for word in option]


def _last_line(*words: str) -> dict[str, Any]:
    command = [sys.executable, "-m", "soulsai", *words, "--json"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)  # noqa: S603 - ours
    if done.returncode != 0:
        last = (done.stderr.strip().splitlines() or ["no message"])[-1]
        raise SoulsAIError(f"soulsai {words[0]} ended with {done.returncode}: {last}")
    return msgspec.json.decode(done.stdout.strip().splitlines()[-1], type=dict[str, Any])
