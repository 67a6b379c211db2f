"""Algorithms by name. To add one: write its file, and add its line here."""

from importlib.metadata import entry_points
from typing import Any

import msgspec
import torch

from soulsai.algorithms.base import Algorithm
from soulsai.algorithms.dqn.learner import DQN
from soulsai.algorithms.ppo.learner import PPO
from soulsai.algorithms.sac.learner import SAC
from soulsai.config.schema import Config
from soulsai.errors import ConfigError
from soulsai.types import Spec

GROUP = "soulsai.algorithms"  # the entry points by which other packages add theirs

ALGORITHMS: dict[str, Any] = {
    "dqn": DQN,
    "ppo": PPO,
    "sac": SAC,
}


def build(config: Config, spec: Spec, *, seed: int) -> Algorithm:
    """Make the algorithm that ``config`` names, on the device it names.

    Raises:
        ConfigError: No such algorithm or device, an option it does not have, or an environment it
            cannot learn.
    """
    name = config.algorithm.name
    kind = ALGORITHMS.get(name)
    if kind is not None:
        settings = msgspec.structs.asdict(config)[name]
        if config.algorithm.options:
            raise ConfigError(f"algorithm.options: settings of {name!r} stand in section {name!r}")
    else:
        kind = _installed(name)
        settings = _convert(config.algorithm.options, kind.Config)
    with _device(config.training.device):
        algorithm: Algorithm = kind(
            settings,
            spec,
            seed=seed,
            steps=config.run.max_env_steps,
            realtime=config.environment.realtime,
        )
    return algorithm


def _installed(name: str) -> Any:
    found = entry_points(group=GROUP)
    for entry in found:
        if entry.name == name:
            return entry.load()
    known = ", ".join(sorted({*ALGORITHMS, *found.names}))
    raise ConfigError(f"algorithm.name: no {name!r}; choose one of {known}")


def _convert(options: dict[str, Any], kind: Any) -> Any:
    try:
        return msgspec.convert(options, kind)
    except msgspec.ValidationError as error:
        raise ConfigError(f"algorithm.options: {error}") from error


def _device(name: str) -> torch.device:
    try:
        device = torch.device(name)
        torch.zeros(1, device=device)
    except (RuntimeError, AssertionError) as error:
        reason = str(error).splitlines()[0]
        raise ConfigError(f"training.device: {name!r} cannot be used: {reason}") from error
    return device
