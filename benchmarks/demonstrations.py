"""What demonstrations, interventions and data alone are worth, against learning without them."""

from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import msgspec
from msgspec import Struct
from msgspec.structs import replace

from benchmarks.calls import answer, options
from benchmarks.environments import steered_lander
from benchmarks.experts import write_episodes, write_mixed
from benchmarks.figure import Figure, at_least, at_most
from benchmarks.learning import EPISODES, FIRST_SEED, Bench, Score, run
from benchmarks.statistics import STAYING, iqm, steps_to
from benchmarks.targets import Target
from benchmarks.tax import middle
from soulsai.errors import ConfigError, SoulsAIError
from soulsai.runs import POLICY
from soulsai.training_node.saving.atomic_folders import numbered
from soulsai.types import Status

MIXED = 100_000  # env steps of mixed quality
CLONE = 2_000  # updates of behaviour cloning
LANDER, PENDULUM, CARTPOLE = "LunarLander-v3", "Pendulum-v1", "CartPole-v1"
STEERED = f"{steered_lander.__module__}:{steered_lander.__name__}"
CARTPOLE_BAR, CARTPOLE_EPISODES = 400.0, 10
CARTPOLE_STEPS = 200  # far fewer than learning_starts: nothing is learnt but by cloning
LANDER_LIMIT, STEERED_LIMIT, PENDULUM_LIMIT = 0.5, 0.7, 0.6

# 8 clients, so that the same runs stand beside those in which two of eight are steered.
# Runs beside it end where they have missed their limit in any case.
LANDER_ALONE = Target("lander", LANDER, "dqn", 100_000, bar=200, clients=8, along=2_500)
PENDULUM_ALONE = Target("pendulum", PENDULUM, "sac", 10_000, bar=-200, along=250)
LANDER_STEERED = replace(
    LANDER_ALONE,
    name="lander-steered",
    steps=int(STEERED_LIMIT * LANDER_ALONE.steps),
    steered=STEERED,
    steered_clients=2,
    overrides=("demonstrations.interventions=true", "trust.action_check=quarantine"),
)


class Played(Struct, frozen=True):
    """The runs of one target over seeds."""

    to_bar: list[float]  # env steps; infinite if the bar was never reached
    runs: list[Path]


class Study:
    """Runs targets seed by seed, each once.

    Args:
        seeds: The seeds of training.
        bench: How targets are run.
    """

    def __init__(self, seeds: Sequence[int], bench: Bench) -> None:
        self.seeds, self.bench = seeds, bench
        self._scores: dict[tuple[str, int], Score] = {}

    def score(self, target: Target, seed: int) -> Score:
        """Return the result of one seed; raise ``SoulsAIError`` if the run failed."""
        key = target.name, seed
        if key not in self._scores:
            self._scores[key] = run(target, [seed], self.bench)
        found = self._scores[key]
        if found.failed:
            raise SoulsAIError(f"{target.name} seed {seed}: {found.failed[seed]}")
        return found

    def in_turns(
        self, *targets: Callable[[], Target], staying: int | None = STAYING
    ) -> list[Played]:
        """Run targets in turns, seed by seed.

        Args:
            targets: Return each target; called just before its run, so that one may use the data
                of those before it.
            staying: See ``steps_to``.
        """
        played = [Played([], []) for _ in targets]
        for seed in self.seeds:
            for found, target in zip(played, targets, strict=True):
                score = self.score(target(), seed)
                (curve,), (folder,) = score.curves, score.runs
                found.to_bar.append(steps_to(score.bar, curve, staying))
                found.runs.append(Path(folder))
        return played

    def shown(self, target: Target, episodes: int, share: float = 1.0) -> Target:
        """Return a target with demonstrations of what the first seed of it has learnt.

        Args:
            target: Without demonstrations.
            episodes: Demonstrated episodes.
            share: Of the env steps of ``target``.
        """
        name = f"{target.name}-shown"
        data = self.bench.saves / "demonstrations" / f"{name}-v0"
        if not data.exists():
            score = self.score(target, self.seeds[0])
            best = _best_policy(Path(score.runs[0]), score.curves[0])
            named = {"--policy": best, "--episodes": episodes, "--out": data}
            self._say(answer("record", "--env", target.environment, *options(named)))
        steps = int(share * target.steps)
        return replace(target, name=name, steps=steps, overrides=cloned(data))

    def _say(self, recorded: dict[str, Any]) -> None:
        """Keep the mean of demonstrations beside the results."""
        with (self.bench.saves / "demonstrations.jsonl").open("ab") as file:
            file.write(msgspec.json.encode(recorded) + b"\n")


def cloned(data: Path) -> tuple[str, ...]:
    """Return the settings by which a run begins with demonstrations."""
    return (f"demonstrations.data=[{data}]", f"demonstrations.clone_steps={CLONE}")


def _best_policy(folder: Path, curve: Sequence[tuple[int, float]]) -> Path:
    """Return the policy of a run's checkpoint with the best score."""
    checkpoints = numbered(folder / "checkpoints")
    best = max(range(len(curve)), key=lambda place: curve[place][1])
    return checkpoints[best] / POLICY


def _compared(what: str, both: Sequence[Played], limit: float) -> Figure:
    """Return the env steps to the bar, held against a share of those of runs without."""
    without, shown = both
    each = ", ".join(f"{a:g} for {b:g}" for a, b in zip(shown.to_bar, without.to_bar, strict=True))
    return at_most(
        f"demonstrations: {what} ({each})",
        middle(shown.to_bar),
        "env steps to the bar",
        limit * middle(without.to_bar),
    )


def cartpole(study: Study) -> Iterator[Figure]:
    """Yield the greedy mean of a first version that was cloned from a scripted expert."""
    data = study.bench.saves / "demonstrations" / "cartpole-v0"
    if not data.exists():
        write_episodes(CARTPOLE, CARTPOLE_EPISODES, data)
    target = Target("cartpole-cloned", CARTPOLE, "dqn", CARTPOLE_STEPS, overrides=cloned(data))
    scores = [study.score(target, seed).scores[0] for seed in study.seeds]
    each = ", ".join(f"{score:g}" for score in scores)
    yield at_least(
        f"demonstrations: CartPole, first version cloned from 10 episodes ({each})",
        iqm(scores),
        "greedy mean",
        CARTPOLE_BAR,
    )


def pendulum(study: Study) -> Iterator[Figure]:
    """Yield the env steps to the bar of sac with 5 demonstrated episodes, against none."""
    both = study.in_turns(
        lambda: PENDULUM_ALONE,
        lambda: study.shown(PENDULUM_ALONE, 5),
        staying=None,  # a cloned policy is there at once; from where on does it stay?
    )
    yield _compared("Pendulum, sac, 5 episodes", both, PENDULUM_LIMIT)


def lander(study: Study) -> Iterator[Figure]:
    """Yield the env steps to the bar of dqn with 20 demonstrated episodes, against none."""
    both = study.in_turns(lambda: LANDER_ALONE, lambda: study.shown(LANDER_ALONE, 20, LANDER_LIMIT))
    yield _compared("LunarLander, dqn, 20 episodes", both, LANDER_LIMIT)


def interventions(study: Study) -> Iterator[Figure]:
    """Yield the same with a scripted expert who takes over on 2 of 8 clients, and the ledger."""
    both = study.in_turns(lambda: LANDER_ALONE, lambda: LANDER_STEERED)
    yield _compared("LunarLander, dqn, 10 % taken over on 2 of 8 clients", both, STEERED_LIMIT)
    statuses = [_status(folder) for folder in both[1].runs]
    counted = sum(status.env_steps for status in statuses)
    missing = sum(_missing(status) for status in statuses)
    free = [not client.held for status in statuses for client in status.clients]
    name = "demonstrations: steps of a fleet with interventions"
    yield at_least(f"{name} that count", 100 * counted / (counted + missing), "%", 100)
    yield at_least(f"{name} whose clients are not shut out", 100 * sum(free) / len(free), "%", 100)


def _status(folder: Path) -> Status:
    return msgspec.json.decode((folder / "status.json").read_bytes(), type=Status)


def _missing(status: Status) -> int:
    """Return the env steps that never arrived or were thrown away, and the messages refused."""
    return status.lost + status.dropped + sum(status.rejected.values())


def offline(study: Study) -> Iterator[Figure]:
    """Yield by how much a policy learnt from mixed data alone exceeds the mean of the data."""
    saves = study.bench.saves
    data = saves / "demonstrations" / "mixed-v0"
    if not data.exists():
        write_mixed(LANDER, MIXED, data)
    above, each = [], []
    for seed in study.seeds:
        named = {"--env": LANDER, "--data": data, "--seed": seed, "--saves": saves}
        learnt = answer("train", "--offline", *options(named), stopped=study.bench.stopped)
        named = {"--episodes": EPISODES, "--seed": FIRST_SEED}
        played = answer("evaluate", learnt["folder"], *options(named), stopped=study.bench.stopped)
        above.append(float(played["mean"]) - float(learnt["data_mean"]))
        each.append(f"{played['mean']:.1f}")
    mean = float(learnt["data_mean"])
    yield at_least(
        f"demonstrations: dqn from {learnt['env_steps']:,} mixed transitions of mean {mean:.1f} "
        f"({', '.join(each)})",
        iqm(above),
        "reward above it",
        1.0,
    )


PARTS = {
    "cartpole": cartpole,
    "pendulum": pendulum,
    "lander": lander,
    "interventions": interventions,
    "offline": offline,
}


def measure(names: str, seeds: Sequence[int], bench: Bench) -> Iterator[Figure]:
    """Yield the figures of some parts.

    Args:
        names: Names of ``PARTS``, by commas.
        seeds: The seeds of training.
        bench: How targets are run.

    Raises:
        ConfigError: There is no such part.
    """
    for name in names.split(","):
        if name not in PARTS:
            raise ConfigError(f"{name!r} is none of {', '.join(PARTS)}")
    study = Study(seeds, bench)
    for name in names.split(","):
        yield from PARTS[name](study)
