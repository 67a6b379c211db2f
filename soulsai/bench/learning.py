"""Learning targets: whole runs over seeds, judged by greedy episodes of the final checkpoint.

The protocol: real server, separate client processes, env steps admitted by the training node, the
*final* checkpoint, 100 greedy episodes on environment seeds that training never uses, and the
interquartile mean over training seeds, which drops a quarter of the runs on either side
(arXiv:2108.13264).
"""

from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import msgspec
from msgspec import Struct

from soulsai.bench.calls import INTERRUPTED, Interrupted, answer, never, options
from soulsai.bench.ledger import Ledger, Seed, revision
from soulsai.bench.statistics import interval, iqm
from soulsai.bench.targets import Target
from soulsai.errors import SoulsAIError

EPISODES = 100
FIRST_SEED = 1_000_000  # of the evaluation's environments
# Runs go side by side, and nobody looks at their pages or goes on with them.
QUIET = ("web.enabled=false", "checkpoint.replay=false")


class Score(Struct, frozen=True):
    """What several seeds of one target reached; numbers are missing if no seed reached its end."""

    target: str
    iqm: float | None
    worst: float | None
    low: float | None  # 95 % bootstrap interval of the IQM; the number of seeds limits its worth
    high: float | None
    seeds: list[int]
    scores: list[float]
    env_steps: list[int]
    wall_seconds: list[float]
    bar: float
    floor: float
    runs: list[str]  # their folders
    settings: list[str]
    revisions: list[str]
    failed: dict[int, str]  # seeds that did not come to an end, and why

    @property
    def held(self) -> bool:
        """Whether the bar and the floor are reached, and no seed has failed."""
        if self.iqm is None or self.worst is None or self.failed:
            return False
        return self.iqm >= self.bar and self.worst >= self.floor


class Bench(Struct, frozen=True):
    """How targets are run; ``said`` is told each seed's result as it comes."""

    saves: Path
    parallel: int = 1
    overrides: tuple[str, ...] = ()
    resume: bool = False  # take over the results of seeds that are done
    stopped: Callable[[], bool] = never
    said: Callable[[Seed], object] = bool


def run(chosen: Target, seeds: Sequence[int], bench: Bench) -> Score:
    """Train and evaluate one target over seeds; a seed that fails does not stop the others."""
    ledger, source = Ledger(bench.saves), revision()
    settings = _settings(chosen, bench)
    known = ledger.done(chosen.name, settings) if bench.resume else {}

    def one(seed: int) -> Seed:
        if seed in known:
            return known[seed]
        if bench.stopped():
            raise Interrupted(INTERRUPTED)
        blank = Seed(chosen.name, seed, settings, source)
        result = _attempt(chosen, blank, bench)
        ledger.add(result)
        bench.said(result)
        return result

    with ThreadPoolExecutor(bench.parallel) as pool:
        return summed(chosen, settings, list(pool.map(one, seeds)))


def summed(chosen: Target, settings: list[str], results: Sequence[Seed]) -> Score:
    """Return what the seeds came to together."""
    ended = [(result, result.score) for result in results if result.score is not None]
    scores = [score for _, score in ended]
    low, high = interval(scores) if scores else (None, None)
    return Score(
        target=chosen.name,
        iqm=iqm(scores) if scores else None,
        worst=min(scores, default=None),
        low=low,
        high=high,
        seeds=[result.seed for result, _ in ended],
        scores=scores,
        env_steps=[result.env_steps for result, _ in ended],
        wall_seconds=[result.wall_seconds for result, _ in ended],
        bar=chosen.bar,
        floor=chosen.floor,
        runs=[result.run for result, _ in ended],
        settings=settings,
        revisions=sorted({result.revision for result, _ in ended}),
        failed={result.seed: result.fault for result in results if result.fault},
    )


def _attempt(chosen: Target, blank: Seed, bench: Bench) -> Seed:
    """Return the result of one seed, or why there is none."""
    try:
        return _train(chosen, blank, bench)
    except Interrupted:
        raise
    except SoulsAIError as error:
        return _with(blank, fault=str(error))


def _train(chosen: Target, blank: Seed, bench: Bench) -> Seed:
    named = {"--seed": blank.seed, "--saves": bench.saves}
    words = [*blank.settings, *options(named)]
    summary = answer("train", *words, stopped=bench.stopped)
    run, env_steps = str(summary["run"]), int(summary["env_steps"])
    if env_steps < chosen.steps:
        raise SoulsAIError(f"{run}: ended after {env_steps} of {chosen.steps} env steps")
    named = {"--episodes": EPISODES, "--seed": FIRST_SEED}
    played = answer("evaluate", run, *options(named), stopped=bench.stopped)
    return _with(
        blank,
        score=float(played["mean"]),
        env_steps=env_steps,
        wall_seconds=float(summary["wall_seconds"]),
        run=run,
    )


def _settings(chosen: Target, bench: Bench) -> list[str]:
    named = {
        "--env": chosen.environment,
        "--algorithm": chosen.algorithm,
        "--max-env-steps": chosen.steps,
        "--clients": chosen.clients,
    }
    sets = (*QUIET, *chosen.overrides, *bench.overrides)
    return [*options(named), *(f"--set={word}" for word in sets)]


def _with(blank: Seed, **known: Any) -> Seed:
    return msgspec.structs.replace(blank, **known)
