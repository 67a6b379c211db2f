"""Learning targets: whole runs over seeds, judged by greedy episodes of the final checkpoint.

The protocol: real server, separate client processes, env steps admitted by the training node, the
*final* checkpoint, 100 greedy episodes on environment seeds that training never uses, and the
interquartile mean over training seeds, which drops a quarter of the runs on either side
(arXiv:2108.13264).
"""

import math
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import msgspec
from msgspec import Struct

from benchmarks.calls import INTERRUPTED, Interrupted, answer, never, options
from benchmarks.crowd import Crowd
from benchmarks.ledger import Ledger, Seed, revision
from benchmarks.statistics import interval, iqm, steps_to
from benchmarks.targets import Target
from soulsai.client.actor import Actor
from soulsai.client.evaluate import evaluate
from soulsai.config.schema import RedisSettings
from soulsai.errors import SoulsAIError
from soulsai.runs import POLICY
from soulsai.training_node.saving.atomic_folders import numbered

EPISODES = 100
ALONG_EPISODES = 20  # for each checkpoint along the way
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
    to_bar: list[float | None]  # env steps after which greedy episodes reached the bar for good
    curves: list[list[tuple[int, float]]]  # env steps and scores of checkpoints along the way
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
    curves: bool = False  # but only if checkpoints along the way were evaluated
    stopped: Callable[[], bool] = never
    said: Callable[[Seed], object] = bool


def run(chosen: Target, seeds: Sequence[int], bench: Bench) -> Score:
    """Train and evaluate one target over seeds; a seed that fails does not stop the others."""
    ledger, source = Ledger(bench.saves), revision()
    settings = _settings(chosen, bench)
    known = ledger.done(chosen.name, settings, curves=bench.curves) if bench.resume else {}

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
        to_bar=[finite(steps_to(chosen.bar, result.curve)) for result, _ in ended],
        curves=[result.curve for result, _ in ended],
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
    words = [*_words(chosen, bench), *options(named)]
    summary = _trained(chosen, words, blank.seed, bench)
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
        curve=evaluations(Path(run), chosen.environment) if chosen.along else [],
    )


def _trained(chosen: Target, words: list[str], seed: int, bench: Bench) -> dict[str, Any]:
    """Train to the end, with clients of the command's own or with ours."""
    if chosen.own_clients:
        return answer("train", *words, stopped=bench.stopped)
    from soulsai.wire.redis.embedded_server import EmbeddedServer

    with EmbeddedServer() as server:
        redis = RedisSettings(url=server.url, secrets=str(server.secrets))
        words = [*words, f"--set=redis.url={redis.url}", f"--set=redis.secrets={redis.secrets}"]
        crowd = Crowd(
            redis,
            chosen.environments,
            seed=seed,
            faults=chosen.faults,
            log=bench.saves / f"crowd-{chosen.name}-{seed}.log",
        )
        with crowd:
            return answer("train", *words, stopped=bench.stopped, meanwhile=crowd.tend)


def evaluations(run: Path, environment: str) -> list[tuple[int, float]]:
    """Return env steps and scores of checkpoints of a run, oldest first.

    Of those at one env step, of which there are many while a policy is cloned, the last counts.
    """
    policies = {}
    for folder in numbered(run / "checkpoints"):
        policy = folder / POLICY
        policies[Actor.from_file(policy)[1].env_steps] = policy
    return [
        (
            steps,
            evaluate(
                policy, episodes=ALONG_EPISODES, seed=FIRST_SEED, environment=environment
            ).mean,
        )
        for steps, policy in policies.items()
    ]


def finite(number: float) -> float | None:
    """Return a number, or nothing in the place of infinity: JSON has none."""
    return number if math.isfinite(number) else None


def _words(chosen: Target, bench: Bench) -> list[str]:
    """Return what all seeds have in common on the command line."""
    named = {
        "--env": chosen.environment,
        "--algorithm": chosen.algorithm,
        "--max-env-steps": chosen.steps,
        "--clients": chosen.clients if chosen.own_clients else 0,
    }
    kept = (f"checkpoint.every={chosen.along}", "checkpoint.keep=1000") if chosen.along else ()
    sets = (*QUIET, *kept, *chosen.overrides, *bench.overrides)
    return [*options(named), *(f"--set={word}" for word in sets)]


def _settings(chosen: Target, bench: Bench) -> list[str]:
    """Return all that a result depends on but the seed and the source."""
    words = _words(chosen, bench)
    if chosen.own_clients:
        return words
    suffering = msgspec.json.encode(chosen.faults).decode()
    words.append(f"and {chosen.clients} clients that suffer {suffering}")
    if chosen.steered_clients:
        words.append(f"{chosen.steered_clients} of them in {chosen.steered}")
    return words


def _with(blank: Seed, **known: Any) -> Seed:
    return msgspec.structs.replace(blank, **known)
