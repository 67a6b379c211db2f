"""The start of a run from another policy: its networks and its normaliser, and nothing else."""

import logging
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from soulsai.algorithms.base import Algorithm
from soulsai.algorithms.normalize import ObservationNormalizer
from soulsai.config.schema import StartSettings
from soulsai.errors import CheckpointError, ConfigError
from soulsai.training_node import onnx_export
from soulsai.training_node.saving import atomic_folders, run_folder, snapshot, state_file

POLICY_PART = "policy"
SHOWN = 5  # misfits that a message names
STATISTICS = ("observation.mean", "observation.inv_std")

log = logging.getLogger(__name__)

States = dict[str, dict[str, Tensor]]  # tensors of each network, by the name of its part


def start_from(settings: StartSettings, saves: Path, algorithm: Algorithm) -> None:
    """Load the networks and the normaliser of another policy.

    Args:
        settings: Name the other policy.
        saves: The folder of runs.
        algorithm: The learner, changed in place.

    Raises:
        ConfigError: Something does not fit, and ``start.partial`` is not set.
        CheckpointError: There is no such policy, or it is damaged.
    """
    if not settings.policy:
        return
    source = find(settings.policy, saves)
    states = _of_file(source) if source.is_file() else _of_checkpoint(source, algorithm)
    misfits: list[str] = []
    taken: list[str] = []
    for name, network in _networks(algorithm, states):
        own = network.state_dict()
        fitting = {key: value for key, value in states[name].items() if _fits(own.get(key), value)}
        misfits += _misfits(name, own, states[name])
        if fitting:
            taken.append(name)
        network.load_state_dict(own | fitting)
    if misfits and not settings.partial:
        more = f" and {len(misfits) - SHOWN} more" if len(misfits) > SHOWN else ""
        raise ConfigError(
            f"start.policy: {source}: {'; '.join(misfits[:SHOWN])}{more}; "
            "start.partial: true takes the rest"
        )
    if not taken:
        raise ConfigError(f"start.policy: {source}: nothing of it fits this run")
    _load_normalizer(source, algorithm)
    log.info("started from %s: took %s, left out %d", source, ", ".join(taken), len(misfits))


def find(policy: str, saves: Path) -> Path:
    """Return the file of a policy, or the folder of a checkpoint.

    Args:
        policy: A ``policy.onnx``, the folder of a checkpoint, or a run by its id or folder.
        saves: The folder of runs.
    """
    named = Path(policy)
    if named.is_file():
        return named
    if (named / snapshot.PROGRESS).is_file():
        return named
    if (named / snapshot.POLICY).is_file():
        return named / snapshot.POLICY
    return run_folder.find(saves, policy).newest()[0]


def warm(settings: StartSettings, algorithm: Algorithm) -> None:
    """Let clients act by the policy from the first step, without a phase of random actions."""
    policy = algorithm.policy
    policy.warm = bool(settings.policy)
    if policy.warm and "random" in policy.exploration:
        policy.exploration = policy.exploration | {"random": 0.0}


def _networks(algorithm: Algorithm, states: States) -> Iterator[tuple[str, nn.Module]]:
    """Yield the networks to load, each with the name of its source."""
    for name, part in algorithm.parts.items():
        if not isinstance(part, nn.Module):
            continue
        if name in states:
            yield name, part
        elif part is algorithm.policy.twin() and POLICY_PART in states:
            yield POLICY_PART, part  # of a file, which holds one network


def _of_checkpoint(folder: Path, algorithm: Algorithm) -> States:
    """Return the networks of a checkpoint that the algorithm has, too."""
    states: States = {}
    for name, part in algorithm.parts.items():
        if isinstance(part, nn.Module) and (folder / (name + snapshot.SUFFIX)).is_file():
            states[name] = _tensors(_state(folder, name))
    if POLICY_PART not in states:
        raise CheckpointError(f"{folder}: holds no {POLICY_PART}{snapshot.SUFFIX}")
    return states


def _state(folder: Path, name: str) -> Any:
    return state_file.decode(atomic_folders.read(folder, name + snapshot.SUFFIX))


def _tensors(state: Mapping[str, Any]) -> dict[str, Tensor]:
    return {name: value for name, value in state.items() if isinstance(value, Tensor)}


def _of_file(path: Path) -> States:
    """Return the weights of a ``policy.onnx``."""
    return {POLICY_PART: onnx_export.weights_of(path)}


def _fits(own: Tensor | None, value: Tensor) -> bool:
    return own is not None and own.shape == value.shape


def _misfits(name: str, own: Mapping[str, Tensor], theirs: Mapping[str, Tensor]) -> Iterator[str]:
    for key, value in theirs.items():
        if key not in own:
            yield f"{name}.{key} is not in this run's network"
        elif own[key].shape != value.shape:
            yield f"{name}.{key} has shape {tuple(value.shape)}, {tuple(own[key].shape)} here"
    for key in own.keys() - theirs.keys():
        yield f"{name}.{key} is missing"


def _load_normalizer(source: Path, algorithm: Algorithm) -> None:
    """Load the statistics of observations, or estimate them from the buffers of the policy."""
    normalizer = algorithm.parts.get("normalizer")
    if not isinstance(normalizer, ObservationNormalizer):
        return
    mean, inverse = (algorithm.policy.state_dict().get(name) for name in STATISTICS)
    if mean is None or inverse is None:
        return
    if source.is_dir() and (source / f"normalizer{snapshot.SUFFIX}").is_file():
        state = _state(source, "normalizer")
        if np.shape(state["mean"]) == normalizer.statistics.mean.shape:
            normalizer.load_state_dict(state)
            return
    with torch.no_grad():
        normalizer.statistics.assume(mean.double().cpu().numpy(), inverse.double().cpu().numpy())
