"""The size of a policy, and the time that its updates take on this machine."""

import math
import time
from collections.abc import Callable, Iterator, Sequence

import msgspec
import numpy as np
import torch
from msgspec import Struct
from torch import Tensor

from soulsai.algorithms.base import Policy
from soulsai.algorithms.n_step_returns import transition_columns
from soulsai.algorithms.settings import LearnerSettings, ReplaySettings
from soulsai.config.schema import Config
from soulsai.training_node.start import build_algorithm, check_size, export
from soulsai.types import MASK, Fragment, Spec, zeros

FEW_ROWS = 8  # of the first batch that is timed
MOMENT = 1.0  # seconds that a whole batch may take to be timed, and that all updates may take
MOST_UPDATES = 200  # that are timed
SLOW = 20.0  # updates per second, below which learning is slow
LARGE_MB = 10.0  # of a version, above which clients on slow lines wait for it

SMALLER = "make images smaller (environment.image), or choose a smaller network"


class Forecast(Struct, frozen=True):
    """The policy of the settings, before any training."""

    version_bytes: int  # that each client receives with every version
    largest: str  # name of the largest weight: with images, of the first dense layer
    largest_shape: tuple[int, ...]
    largest_bytes: int
    updates_per_second: float | None  # on this machine alone; not known for all algorithms
    is_whole: bool = False  # whole updates were timed, and not only passes of the networks
    env_steps: int = 0  # planned; 0: no end
    updates: float = 0.0  # for these; 0: not known


def forecast(
    config: Config, spec: Spec, *, clock: Callable[[], float] = time.perf_counter
) -> Forecast:
    """Build the networks, and time a few updates.

    Args:
        config: All settings.
        spec: Observations and actions of the environment.
        clock: Seconds.

    Raises:
        ConfigError: The algorithm cannot learn these actions, a weight is too large to be sent, or
            a network that is not ours breaks its contract.
    """
    torch.set_num_threads(config.training.threads or 1)
    policy = build_algorithm(config, spec, seed=0).policy
    if isinstance(config.learner, LearnerSettings) and config.learner.custom:
        export(config, policy, spec)
    check_size(policy)
    weights = policy.twin().state_dict()
    name = max(weights, key=lambda each: weights[each].nbytes)
    learner = config.learner
    seconds, is_whole = _seconds(config, policy, spec, clock)
    planned, updates = config.run.max_env_steps, 0.0
    if isinstance(learner, LearnerSettings):
        updates = learner.updates(planned, spec.action.kind)
    return Forecast(
        version_bytes=sum(weight.nbytes for weight in weights.values()),
        largest=name,
        largest_shape=tuple(weights[name].shape),
        largest_bytes=weights[name].nbytes,
        updates_per_second=1.0 / seconds if seconds else None,
        is_whole=is_whole,
        env_steps=planned,
        updates=updates,
    )


def describe(found: Forecast) -> Iterator[str]:
    """Yield a forecast in words, and what to change where learning will be slow."""
    shape = " x ".join(map(str, found.largest_shape))
    yield (
        f"a version of the weights is {_mb(found.version_bytes)}; its largest layer has {shape} "
        f"weights, {_mb(found.largest_bytes)}"
    )
    if (rate := found.updates_per_second) is not None:
        about = "about" if found.is_whole else "at most"
        planned = ""
        if found.updates:
            least = _minutes(found.updates / rate)
            planned = f": {least} or more for the updates of {found.env_steps:,} env steps"
        yield f"{about} {_rounded(rate)} updates/s on this machine, as busy as it is now{planned}"
        yield "clients and nodes of the run share its processor; compiled updates are faster"
        if rate < SLOW:
            yield f"that is slow: {SMALLER}"
            return
    if found.version_bytes > 1e6 * LARGE_MB:
        yield f"{_mb(found.version_bytes)} for each version are much for slow links: {SMALLER}"


def _seconds(
    config: Config, policy: Policy, spec: Spec, clock: Callable[[], float]
) -> tuple[float, bool]:
    """Return the seconds of an update, 0 if unknown, and whether whole updates were timed."""
    learner = config.learner
    if not isinstance(learner, LearnerSettings):
        return 0.0, False
    rows, batch = learner.rows_per_update(spec.action.kind)
    if not rows:
        return 0.0, False
    row = batch_seconds(policy, spec, FEW_ROWS, clock) / FEW_ROWS
    if row * batch > MOMENT:
        return rows * row, False
    if isinstance(learner, ReplaySettings):
        return _update_seconds(config, learner, spec, clock), True
    # Small networks take hardly longer for a whole batch than for a few rows.
    return rows * batch_seconds(policy, spec, batch, clock) / batch, False


def _update_seconds(
    config: Config, settings: ReplaySettings, spec: Spec, clock: Callable[[], float]
) -> float:
    """Return the mean seconds of an update of a learner whose replay holds a few zeros."""
    steps = settings.batch_size + settings.n_step
    small = msgspec.structs.replace(
        settings, capacity=steps, learning_starts=1, replay_ratio=float(MOST_UPDATES)
    )
    own = msgspec.structs.replace(config, **{config.algorithm.name: small})
    obs = {name: zeros(leaf, steps + 1) for name, leaf in spec.obs.items()}
    if MASK in obs:
        obs[MASK][:] = True
    fragment = Fragment(
        client="forecast", epoch=1, episode=0, start=0, clock=0, generation=1, version=1,
        obs=obs, action=zeros(transition_columns(spec)["action"], steps),
        reward=np.zeros(steps, np.float32), terminated=True, truncated=False,
    )  # fmt: skip

    def arrivals() -> Iterator[Sequence[Fragment]]:
        yield [fragment]
        while True:
            yield []

    updates = build_algorithm(own, spec, seed=0).learn(arrivals())
    next(updates)  # the first one allocates
    began, done = clock(), 0
    while True:
        next(updates)
        done += 1
        seconds = clock() - began
        if done == MOST_UPDATES or seconds >= MOMENT:
            return seconds / done


def batch_seconds(policy: Policy, spec: Spec, rows: int, clock: Callable[[], float]) -> float:
    """Return the seconds of a forward and a backward pass of a batch."""
    device = next(policy.parameters()).device
    obs = {n: torch.from_numpy(zeros(spec.obs[n], rows)).to(device) for n in policy.inputs}
    memory = {n: torch.from_numpy(zeros(x, rows)).to(device) for n, x in policy.memory.items()}

    def batch() -> float:
        began = clock()
        outputs, _ = policy(obs, memory)
        total: Tensor = torch.stack([output.sum() for output in outputs.values()]).sum()
        total.backward()  # type: ignore[no-untyped-call]
        policy.zero_grad()
        total.item()  # waits for an accelerator
        return clock() - began

    batch()  # the first one allocates
    return min(batch() for _ in range(3))


def _mb(size: int) -> str:
    return f"{size / 1e6:.1f} MB" if size >= 1e5 else f"{size / 1e3:.0f} kB"


def _minutes(seconds: float) -> str:
    minutes = max(1.0, seconds / 60)
    return f"{minutes:.0f} min" if minutes < 120 else f"{minutes / 60:.0f} h"


def _rounded(rate: float) -> str:
    """Return a rough number with two digits."""
    digits = max(0, 1 - math.floor(math.log10(rate)))
    return f"{round(rate, 1 - math.floor(math.log10(rate))):,.{digits}f}"
