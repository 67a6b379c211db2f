"""The size of a policy, and the updates per second to expect on this machine."""

import math
import time
from collections.abc import Callable, Iterator

import torch
from msgspec import Struct
from torch import Tensor

from soulsai.algorithms.base import Policy
from soulsai.algorithms.settings import LearnerSettings
from soulsai.config.schema import Config
from soulsai.training_node.start import build_algorithm, check_size, export
from soulsai.types import Spec, zeros

FEW_ROWS = 8  # of the first batch that is timed
MOMENT = 1.0  # seconds that a whole batch may take to be timed
SLOW = 20.0  # updates per second, below which learning is slow
LARGE_MB = 10.0  # of a version, above which clients on slow lines wait for it


class Forecast(Struct, frozen=True):
    """The policy of the settings, before any training."""

    version_bytes: int  # that each client receives with every version
    largest: str  # name of the largest weight: with images, of the first dense layer
    largest_shape: tuple[int, ...]
    largest_bytes: int
    updates_per_second: float | None  # on this machine alone; not known for all algorithms


def forecast(
    config: Config, spec: Spec, *, clock: Callable[[], float] = time.perf_counter
) -> Forecast:
    """Build the networks, and time a batch of zeros.

    Args:
        config: All settings.
        spec: Observations and actions of the environment.
        clock: Seconds.

    Raises:
        ConfigError: The algorithm cannot learn these actions, a weight is too large to be sent, or
            a network that is not ours breaks its contract.
    """
    torch.set_num_threads(config.training.threads)
    policy = build_algorithm(config, spec, seed=0).policy
    if isinstance(config.learner, LearnerSettings) and config.learner.custom:
        export(config, policy, spec)
    check_size(policy)
    weights = policy.twin().state_dict()
    name = max(weights, key=lambda each: weights[each].nbytes)
    seconds, learner = 0.0, config.learner
    if isinstance(learner, LearnerSettings):
        rows, batch = learner.rows_per_update(spec.action.kind)
        seconds = rows * _row_seconds(policy, spec, batch, clock) if rows else 0.0
    return Forecast(
        version_bytes=sum(weight.nbytes for weight in weights.values()),
        largest=name,
        largest_shape=tuple(weights[name].shape),
        largest_bytes=weights[name].nbytes,
        updates_per_second=1.0 / seconds if seconds else None,
    )


def describe(found: Forecast) -> Iterator[str]:
    """Yield a forecast in words, and what to change where learning will be slow."""
    shape = " x ".join(map(str, found.largest_shape))
    yield (
        f"a version of the weights is {_mb(found.version_bytes)}; its largest layer has {shape} "
        f"weights, {_mb(found.largest_bytes)}"
    )
    rate = found.updates_per_second
    if rate is not None:
        yield f"about {_rounded(rate)} updates/s on this machine, if it does nothing else"
    if rate is not None and rate < SLOW:
        yield "that is slow: make images smaller (environment.image), or choose a smaller network"
    elif found.version_bytes > 1e6 * LARGE_MB:
        yield "that is much for slow lines: make images smaller (environment.image), or the network"


def _row_seconds(policy: Policy, spec: Spec, batch: int, clock: Callable[[], float]) -> float:
    """Return the seconds in which one row of a batch passes forward and back."""
    seconds = _batch_seconds(policy, spec, FEW_ROWS, clock) / FEW_ROWS
    if seconds * batch > MOMENT:
        return seconds
    # Small networks take hardly longer for a whole batch than for a few rows.
    return _batch_seconds(policy, spec, batch, clock) / batch


def _batch_seconds(policy: Policy, spec: Spec, rows: int, clock: Callable[[], float]) -> float:
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


def _rounded(rate: float) -> str:
    """Return a rough number with two digits."""
    digits = max(0, 1 - math.floor(math.log10(rate)))
    return f"{round(rate, 1 - math.floor(math.log10(rate))):,.{digits}f}"
