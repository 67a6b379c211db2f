"""The number of environments that each client plays, chosen by what a step of one takes."""

import logging
import time
from collections.abc import Callable

import msgspec
import numpy as np

from soulsai.algorithms.settings import LearnerSettings
from soulsai.client.probe import SingleEnvironment, probe, random_action
from soulsai.config.schema import Config
from soulsai.types import MASK, Spec, zeros

log = logging.getLogger(__name__)

CHEAP_SECONDS = 2e-4  # of a step: a client with one environment takes some 50 us around each
MOST_TOGETHER = 16  # of all clients; more gain little
TRIAL_STEPS = 500
TRIAL_SECONDS = 0.2  # after which a trial ends in any case


def probed(
    config: Config, saved: int = 0, clock: Callable[[], float] = time.perf_counter
) -> tuple[Config, Spec]:
    """Return settings with a number of environments in each client, and the environment's spec.

    The environment is opened once for both. Only a learner that waits for env steps gains by more
    than one environment.

    Args:
        config: All settings.
        saved: The number of a run that is resumed, which keeps it; 0: there is none.
        clock: Seconds, monotonic.
    """
    count = config.environment.count or saved
    taken: list[float] = []

    def trial(environment: SingleEnvironment) -> None:
        if not count and _may_gain(config):
            taken.append(step_seconds(environment, clock))

    spec = probe(config.environment, config.client, trial)
    for seconds in taken:
        count = chosen(seconds, config.run.clients)
        log.info("environments of each client=%d step_us=%.1f", count, 1e6 * seconds)
    return _counted(config, count or 1), spec


def chosen(seconds: float, clients: int) -> int:
    """Return how many environments each client plays.

    Args:
        seconds: What a step of one takes.
        clients: The number of clients on this machine.
    """
    return max(1, MOST_TOGETHER // max(1, clients)) if seconds <= CHEAP_SECONDS else 1


def step_seconds(environment: SingleEnvironment, clock: Callable[[], float]) -> float:
    """Return the seconds of a random step; the median, as the machine may be busy.

    Args:
        environment: The environment; it stays open.
        clock: Seconds.
    """
    spec, rng = environment.spec, np.random.default_rng(0)
    rows = {name: zeros(leaf) for name, leaf in spec.obs.items()}
    environment.reset(rows, 0)
    taken: list[float] = []
    while len(taken) < TRIAL_STEPS and sum(taken) < TRIAL_SECONDS:
        action = random_action(spec.action, rows.get(MASK), rng)
        began = clock()
        result = environment.step(action, rows)
        taken.append(clock() - began)
        if result.terminated or result.truncated:
            environment.reset(rows)
    return float(np.median(taken))


def _may_gain(config: Config) -> bool:
    """Return whether more than one may be played, and would bring what the learner waits for."""
    environment, learner = config.environment, config.learner
    numbered = environment.client_kwargs or "{" in str([*environment.kwargs.values()])
    apart = environment.realtime or environment.isolate is True or environment.vector
    waits = isinstance(learner, LearnerSettings) and learner.waits_for_steps
    return waits and not (numbered or apart or environment.spec_file)


def _counted(config: Config, count: int) -> Config:
    environment = msgspec.structs.replace(config.environment, count=count)
    return msgspec.structs.replace(config, environment=environment)
