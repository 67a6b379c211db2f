"""Make an algorithm by its name, a built-in one or one of another package."""

from collections.abc import Mapping
from importlib.metadata import entry_points
from pkgutil import resolve_name
from typing import Any

import msgspec
import torch

from soulsai.algorithms.base import Algorithm
from soulsai.algorithms.demonstrations import LearnsFromDemonstrations
from soulsai.algorithms.registry import GROUP, AlgorithmSections, algorithm_names
from soulsai.algorithms.settings import DemonstrationSettings, LearnerSettings
from soulsai.errors import ConfigError
from soulsai.types import Spec

NO_DEMONSTRATIONS = DemonstrationSettings()


def build(
    name: str,
    settings: LearnerSettings | Mapping[str, Any],
    spec: Spec,
    *,
    seed: int,
    steps: int = 0,
    realtime: bool = False,
    device: str = "cpu",
    demonstrations: DemonstrationSettings = NO_DEMONSTRATIONS,
) -> Algorithm:
    """Make an algorithm.

    Args:
        name: A built-in algorithm, or an entry point of the group ``GROUP``.
        settings: Its settings, or a mapping that is converted to its ``Config``.
        spec: Observations and actions of the environment.
        seed: The only source of its randomness.
        steps: Env steps planned for the run; 0 if unknown.
        realtime: Whether the environment never waits for the learner.
        device: Torch device of its networks.
        demonstrations: Their settings; the algorithm is prepared for them if they are used.

    Raises:
        ConfigError: No such algorithm or device, an option it does not have, or an environment it
            cannot learn.
    """
    kind = _load(name)
    if isinstance(settings, Mapping):
        try:
            settings = msgspec.convert(settings, kind.Config)
        except msgspec.ValidationError as error:
            raise ConfigError(f"algorithm.options: {error}") from error
    if isinstance(settings, LearnerSettings) and not settings.can_learn(spec.action):
        others = [n for n, each in _built_in().items() if each.can_learn(spec.action)]
        if spec.action.kind in settings.actions:
            raise ConfigError(
                f"algorithm.name: {name} needs actions with finite bounds; set "
                f"environment.action_range to [low, high], or choose {' or '.join(others)}"
            )
        raise ConfigError(
            f"algorithm.name: {name} needs {' or '.join(settings.actions)} actions, "
            f"not {spec.action.kind!r}; choose {' or '.join(others)}"
        )
    with _device(device):
        algorithm: Algorithm = kind(settings, spec, seed=seed, steps=steps, realtime=realtime)
        if demonstrations.used:
            if not isinstance(algorithm, LearnsFromDemonstrations):
                raise ConfigError(f"demonstrations.data: {name} cannot learn from demonstrations")
            algorithm.prepare_demonstrations(demonstrations)
    return algorithm


def _load(name: str) -> Any:
    """Return the class of an algorithm."""
    built_in = _built_in()
    if name in built_in:
        return resolve_name(built_in[name].learner)
    for entry in entry_points(group=GROUP):
        if entry.name == name:
            return entry.load()
    known = ", ".join(algorithm_names())
    raise ConfigError(f"algorithm.name: no {name!r}; choose one of {known}")


def _built_in() -> dict[str, LearnerSettings]:
    return msgspec.structs.asdict(AlgorithmSections())


def _device(name: str) -> torch.device:
    try:
        device = torch.device(name)
        torch.zeros(1, device=device)
    except (RuntimeError, AssertionError) as error:
        reason = str(error).splitlines()[0]
        raise ConfigError(f"training.device: {name!r} cannot be used: {reason}") from error
    return device
