"""A trial of an environment, and its result in words: the command ``check-env``."""

import logging
import math
import time
from collections.abc import Callable, Iterator
from typing import Literal

import msgspec
import numpy as np
from msgspec import Struct

from soulsai.algorithms.registry import AlgorithmSections
from soulsai.algorithms.settings import LearnerSettings
from soulsai.algorithms.spec_text import describe_action, describe_leaf
from soulsai.client.environment import numbers
from soulsai.client.probe import SingleEnvironment, check_schedule, open_environment, random_action
from soulsai.client.spaces import Rows
from soulsai.client.vector_environment import FirstOfVector
from soulsai.config.schema import Config
from soulsai.config.yaml_file import emit
from soulsai.episode_metrics import asked_info
from soulsai.types import MASK, Array, Spec, zeros

MOST_STEPS = 200  # of a trial
MOST_SECONDS = 10.0
SLOW_SECONDS = 0.02  # of a step, from which it may be a game that goes on by itself
SEED = 1  # of the two resets that are compared
SMALLEST_SHARE = 1 / 256  # of a leaf's bounds, in which its numbers are told apart


Call = Literal["start", "reset", "step", "close"]  # to an environment


class EnvironmentReport(Struct, frozen=True):
    """The result of a trial with random actions."""

    id: str
    spec: Spec
    steps: int
    steps_per_second: float
    resets_seconds: float  # the longest reset
    episodes: int  # that ended
    rewards: tuple[float, float]  # least and largest of a step
    mask: str  # "info", "observation" or nothing
    info_keys: tuple[str, ...]  # of numbers in the infos of steps
    left_out: dict[str, str]  # leaves that cannot be read, with the reason
    warnings: tuple[str, ...]


def check(
    config: Config,
    *,
    steps: int = MOST_STEPS,
    clock: Callable[[], float] = time.perf_counter,
    before: Callable[[Call], object] = str,
) -> EnvironmentReport:
    """Play random actions in an environment.

    Args:
        config: All settings.
        steps: At most this many, and for at most ten seconds.
        clock: Seconds.
        before: Told of each call to the environment, before it.

    Raises:
        EnvironmentFault: It cannot be played; the message names the mistake.
    """
    settings = config.environment
    with _Warnings() as heard:
        before("start")
        environment = open_environment(settings, config.client)
        try:
            trial = _Trial(environment, clock, before)
            trial.play(steps)
        finally:
            before("close")
            environment.close()
    check_schedule(settings, config.client, environment.spec, lambda: before("start"))
    masked = MASK in environment.spec.obs
    together = environment.count if isinstance(environment, FirstOfVector) else 1
    mask = ("observation" if environment.mask_in_obs else "info") if masked else ""
    asked = asked_info(settings.info_keys, config.telemetry.metrics)
    warnings = [*heard.lines, *trial.warnings(settings.max_episode_steps)]
    if trial.ended:
        warnings += [
            f"no step gave info[{key!r}], which environment.info_keys or telemetry.metrics name"
            for key in asked
            if key not in trial.info
        ]
    return EnvironmentReport(
        id=settings.id,
        spec=environment.spec,
        steps=trial.steps,
        steps_per_second=together * trial.steps / max(trial.seconds, 1e-9),
        resets_seconds=trial.longest_reset,
        episodes=trial.ended,
        rewards=(trial.least, trial.largest),
        mask=mask,
        info_keys=tuple(sorted(trial.info)),
        left_out=environment.left_out,
        warnings=tuple(dict.fromkeys(warnings)),
    )


def describe(report: EnvironmentReport, config: Config) -> Iterator[str]:
    """Yield a report in words, the verdict first.

    Args:
        report: The result of the trial.
        config: The settings with which ``train`` would play.
    """
    spec, settings = report.spec, config.environment
    count = len(report.warnings)
    verdict = "OK" if not count else f"OK, with {count} warning{'' if count == 1 else 's'}"
    low, high = report.rewards
    yield (
        f"{verdict}: {report.id} played {report.steps} steps and ended {report.episodes} "
        f"episode{'' if report.episodes == 1 else 's'}"
    )
    for warning in report.warnings:
        yield f"  warning      {warning}"
    for name, leaf in spec.obs.items():
        if name != MASK:
            yield f"  observation  {name}: {describe_leaf(leaf)}"
    for name, reason in report.left_out.items():
        yield f"  left out     {name}: {reason}"
    yield f"  actions      {describe_action(spec.action)}"
    where = f"{report.mask} {settings.mask_key!r}" if report.mask else ""
    yield f"  action mask  {f'in the {where}' if where else 'none: every action is always valid'}"
    reward = f"always {low:g}" if low == high else f"{low:g} to {high:g}"
    yield f"  reward       {reward} per step"
    yield f"  info numbers {', '.join(report.info_keys) or 'none'}"
    step = 1 / report.steps_per_second
    yield (
        f"  speed        {report.steps_per_second:,.0f} steps/s ({_duration(step)} per step), "
        f"at most {_duration(report.resets_seconds)} per reset"
    )
    yield f"  isolation    {_isolation(config)}"
    if settings.vector:
        count = settings.offer.count
        yield f"  vector       {count} environments of each client in one, by the package"
    for stage in settings.schedule:
        yield f"  schedule     from env step {stage.env_step:,}: {emit(stage.kwargs)}"
    if step > SLOW_SECONDS and not settings.realtime:
        yield "               if it goes on by itself, set environment.realtime: true"
    yield f"  train        {_training(report, config)}"


class _Warnings(logging.Handler):
    """Collects the warnings that reading an environment logs, without the environment's name."""

    def __init__(self) -> None:
        super().__init__(logging.WARNING)
        self.lines: list[str] = []
        self._logger = logging.getLogger("soulsai.client")

    def __enter__(self) -> "_Warnings":
        self._logger.addHandler(self)
        self._logger.propagate = False
        return self

    def __exit__(self, *_: object) -> None:
        self._logger.removeHandler(self)
        self._logger.propagate = True

    def emit(self, record: logging.LogRecord) -> None:
        """Keep the text of a record."""
        text = record.getMessage().removesuffix("; said once")
        if "left out, as" in text:
            return  # the report names these by themselves
        self.lines.append(text.partition(" leaf=")[2] or text)


class _Trial:
    """Random play, and the numbers that it yields."""

    def __init__(
        self,
        environment: SingleEnvironment,
        clock: Callable[[], float],
        before: Callable[[Call], object],
    ) -> None:
        self._environment = environment
        self._clock = clock
        self._before = before
        self._rng = np.random.default_rng(0)
        self.steps = self.ended = 0
        self.seconds = self.longest_reset = 0.0
        self.least, self.largest = math.inf, -math.inf
        self.info: set[str] = set()
        self._same_seed_differs = False
        # Integers that are divided by their bounds, with the range that was seen
        self._ranges = {
            name: (math.inf, -math.inf)
            for name, leaf in environment.spec.seen.items()
            if np.dtype(leaf.dtype).kind in "iu" and not (leaf.categories or leaf.normalised)
        }

    def play(self, steps: int) -> None:
        """Play at most this many steps."""
        environment = self._environment
        rows = {name: zeros(leaf) for name, leaf in environment.spec.obs.items()}
        first = self._reset(rows, SEED)
        second = self._reset(rows, SEED)
        self._same_seed_differs = any(not np.array_equal(first[n], second[n]) for n in rows)
        while self.steps < steps and (not self.steps or self.seconds < MOST_SECONDS):
            action = random_action(environment.spec.action, rows.get(MASK), self._rng)
            self._before("step")
            began = self._clock()
            result = environment.step(action, rows)
            self.seconds += self._clock() - began
            self.steps += 1
            self.least, self.largest = (
                min(self.least, result.reward), max(self.largest, result.reward),
            )  # fmt: skip
            for name, (low, high) in self._ranges.items():
                row = rows[name]
                self._ranges[name] = min(low, float(row.min())), max(high, float(row.max()))
            self.info |= numbers(environment.info, [*map(str, environment.info)]).keys()
            if result.terminated or result.truncated:
                self.ended += 1
                self._reset(rows, None)
            environment.check_bounds({name: row[None] for name, row in rows.items()})

    def warnings(self, most_steps: int) -> Iterator[str]:
        """Yield doubts about what was seen."""
        if self._same_seed_differs:
            yield (
                f"reset(seed={SEED}) gives another observation each time; call "
                "super().reset(seed=seed), and draw from self.np_random"
            )
        if not self.ended and not most_steps:
            yield (
                f"no episode ended in {self.steps} steps; if that is never so, set "
                "environment.max_episode_steps"
            )
        for name, (low, high) in self._ranges.items():
            leaf = self._environment.spec.obs[name]
            bound = max(abs(leaf.low or 0.0), abs(leaf.high or 0.0), 1.0)
            if 0 < high - low < SMALLEST_SHARE * bound:
                yield (
                    f"observation leaf {name!r}: {low:g} to {high:g}, of bounds up to {bound:g}, "
                    "look like a constant to the network; give observation_space nearer bounds"
                )
        if self.least == self.largest == 0 and self.ended:
            yield "the reward of every step was 0; random play may never find any"

    def _reset(self, rows: Rows, seed: int | None) -> dict[str, Array]:
        self._before("reset")
        began = self._clock()
        self._environment.reset(rows, seed)
        self.longest_reset = max(self.longest_reset, self._clock() - began)
        return {name: row.copy() for name, row in rows.items()}


def _duration(seconds: float) -> str:
    units = ((3600.0, "h"), (60.0, "min"), (1.0, "s"))
    size, unit = next(((size, unit) for size, unit in units if seconds >= 2 * size), (1e-3, "ms"))
    value = seconds / size
    return f"{value:.0f} {unit}" if value >= 10 else f"{value:.2g} {unit}"


def _isolation(config: Config) -> str:
    isolate = config.environment.isolate
    if isolate is True or (isolate == "auto" and config.environment.realtime):
        return "in a process of its own, which is started again if it hangs or crashes"
    return (
        "in the client's process: a crash or hang of it takes the client along; "
        "environment.isolate: true protects it"
    )


def _training(report: EnvironmentReport, config: Config) -> str:
    name, action = config.algorithm.name, report.spec.action
    settings = config.learner
    if isinstance(settings, LearnerSettings) and not settings.can_learn(action):
        sections = msgspec.structs.asdict(AlgorithmSections())
        others = [each for each, section in sections.items() if section.can_learn(action)]
        within = action.kind in settings.actions
        mend = "set environment.action_range, or " if within else ""
        return f"{name} cannot learn these actions; {mend}give --algorithm {' or '.join(others)}"
    run = config.run
    together = 1 if config.environment.vector else config.environment.offer.count
    rate = report.steps_per_second * max(1, run.clients) * together
    steps = f"{run.max_env_steps:,} env steps" if run.max_env_steps else "no planned end"
    least = ""
    if run.max_env_steps:
        least = f"; the environment alone takes {_duration(run.max_env_steps / rate)}"
    return f"{name}, {run.clients} clients, {steps}{least}"
