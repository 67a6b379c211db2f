"""Networks and feature extractors of other packages and files, named in the settings.

A network is made as ``Network(leaves, outputs)`` and maps named leaves of observations [B, ...] to
[B, outputs]; a feature extractor is made as ``Extractor(leaves)`` and maps them to [B, F], with any
F. ``docs/extending.md`` has the contract; every clause of it is tried here before a run begins.
"""

import copy
import inspect
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor, nn

from soulsai.errors import ConfigError
from soulsai.extensions import error_line, import_named
from soulsai.types import Array, Leaf

ROWS = 4  # of the observations with which a module is tried
TOLERANCE = 1e-4  # of outputs that must be equal, relative to the largest


class CustomNetwork(nn.Module):
    """A module of somebody else, as a function of the parts of a named observation.

    Args:
        module: Maps a dict of leaves [B, ...] to [B, width].
        names: The leaf of each part, in order.
        width: Number of outputs per observation.
    """

    dropout = 0.0  # as of a tower

    def __init__(self, module: nn.Module, names: tuple[str, ...], width: int) -> None:
        super().__init__()
        self.module, self.names, self.width = module, names, width

    def forward(self, parts: list[Tensor], rng: torch.Generator | None = None) -> Tensor:
        """Map parts [B, ...] to [B, width]; no dropout is drawn from ``rng``."""
        del rng
        outputs: Tensor = self.module(dict(zip(self.names, parts, strict=True)))
        return outputs


class NamedParts(nn.Module):
    """Stands where an encoder would, before a custom network, which reads the parts itself."""

    def features(self, parts: list[Tensor]) -> Any:
        """Return the parts as they are."""
        return parts


def custom_network(setting: str, name: str, leaves: dict[str, Leaf], outputs: int) -> CustomNetwork:
    """Make a network, and try it.

    Args:
        setting: The setting that names it, for messages.
        name: ``module:Class`` or ``file.py:Class``.
        leaves: Shape and type of the leaves that it reads.
        outputs: Number of outputs per observation.

    Raises:
        ConfigError: It cannot be made, or breaks its contract.
    """
    module, width = _tried(setting, name, leaves, outputs)
    if not list(module.parameters()):
        raise ConfigError(f"{setting}: {name} has no parameters, so it cannot learn")
    return CustomNetwork(module, tuple(leaves), width)


def custom_features(setting: str, name: str, leaves: dict[str, Leaf]) -> CustomNetwork | None:
    """Make a feature extractor, and try it.

    Args:
        setting: The setting that names it, for messages.
        name: ``module:Class`` or ``file.py:Class``; empty: none.
        leaves: Shape and type of the leaves that it reads.

    Raises:
        ConfigError: It cannot be made, or breaks its contract.
    """
    if not name:
        return None
    module, width = _tried(setting, name, leaves, None)
    return CustomNetwork(module, tuple(leaves), width)


def random_leaves(leaves: dict[str, Leaf], batch: int) -> dict[str, Array]:
    """Return random observations, the same in every call.

    Args:
        leaves: Shape and type of each leaf.
        batch: Number of observations B.

    Returns:
        Leaves [B, ...]; integers are categories, or 0 and 1.
    """
    rng = np.random.default_rng(1)
    rows: dict[str, Array] = {}
    for name, leaf in leaves.items():
        shape = (batch, *leaf.shape)
        if np.dtype(leaf.dtype).kind == "f":
            rows[name] = rng.standard_normal(shape).astype(leaf.dtype)
        else:
            rows[name] = rng.integers(0, leaf.categories or 2, shape).astype(leaf.dtype)
    return rows


class _Candidate(NamedTuple):
    """A module that is tried, and how messages name it."""

    title: str
    module: nn.Module
    file: str  # that defines it

    def __call__(self, obs: dict[str, Tensor]) -> Any:
        try:
            return self.module(obs)
        except Exception as error:  # the code of others may raise anything
            shapes = (f"{n} {str(x.dtype)[6:]} {list(x.shape)}" for n, x in obs.items())
            raise ConfigError(
                f"{self.title} raised {error_line(error, self.file)}, given {', '.join(shapes)}"
            ) from error


def _tried(
    setting: str, name: str, leaves: dict[str, Leaf], outputs: int | None
) -> tuple[nn.Module, int]:
    """Return a module that keeps its contract, and its number of outputs."""
    kind = import_named(setting, name)
    arguments: tuple[Any, ...] = (leaves,) if outputs is None else (leaves, outputs)
    obs = _observations(leaves)
    seed = int(torch.randint(2**31, (), device="cpu"))
    candidates = []
    for _ in range(2):
        torch.manual_seed(seed)
        candidate = _candidate(f"{setting}: {name}", kind, arguments)
        with torch.no_grad():
            candidate(obs)  # lazy layers get their shapes
        candidates.append(candidate)
    one, other = candidates
    _check_parameters(one)
    if not _same(one.module.state_dict(), other.module.state_dict()):
        raise ConfigError(
            f"{one.title} is not deterministic: the same seed gives other weights; draw them from "
            "torch's own generator"
        )
    width = _check_outputs(one, obs, outputs)
    _check_determinism(one, obs)
    try:
        copy.deepcopy(one.module)
    except Exception as error:  # the code of others may raise anything
        raise ConfigError(f"{one.title} cannot be copied: {error_line(error)}") from error
    return one.module, width


def _candidate(title: str, kind: Callable[..., Any], arguments: tuple[Any, ...]) -> _Candidate:
    try:
        file = inspect.getsourcefile(kind) or ""
    except TypeError:
        file = ""
    call = f"Class({', '.join(('leaves', 'outputs')[: len(arguments)])})"
    try:
        module = kind(*arguments)
    except Exception as error:  # the code of others may raise anything
        raise ConfigError(f"{title} cannot be made as {call}: {error_line(error, file)}") from error
    if not isinstance(module, nn.Module):
        raise ConfigError(f"{title} gives {type(module).__name__}, not a torch.nn.Module")
    return _Candidate(title, module, file)


def _observations(leaves: dict[str, Leaf]) -> dict[str, Tensor]:
    """Return observations as a module gets them: numbers are float32."""
    device, rows = torch.get_default_device(), random_leaves(leaves, ROWS)
    obs = {name: torch.from_numpy(row).to(device) for name, row in rows.items()}
    return {name: row.float() if leaves[name].normalised else row for name, row in obs.items()}


def _check_parameters(candidate: _Candidate) -> None:
    for name, parameter in candidate.module.named_parameters():
        if not parameter.requires_grad:
            raise ConfigError(
                f"{candidate.title}: the parameter {name!r} is frozen; register it as a buffer"
            )
        if parameter.dtype != torch.float32:
            raise ConfigError(
                f"{candidate.title}: the parameter {name!r} is {str(parameter.dtype)[6:]}; wanted "
                "float32"
            )


def _check_outputs(candidate: _Candidate, obs: dict[str, Tensor], outputs: int | None) -> int:
    """Return the number of outputs per observation."""
    found = candidate(obs)
    wanted = f"one tensor [B, {'F' if outputs is None else outputs}] of float32"
    if not isinstance(found, Tensor):
        raise ConfigError(
            f"{candidate.title} returns {type(found).__name__}; wanted {wanted} (it cannot have a "
            "memory of its own)"
        )
    shape, dtype = list(found.shape), str(found.dtype)[6:]
    right = len(shape) == 2 and shape[0] == ROWS and shape[1] == (outputs or max(1, shape[1]))
    if not right or found.dtype != torch.float32:
        raise ConfigError(
            f"{candidate.title} returns {dtype} {shape} for {ROWS} observations; wanted {wanted}, "
            "a row for each"
        )
    if not found.isfinite().all():
        raise ConfigError(f"{candidate.title} returns numbers that are not finite")
    _check_gradients(candidate, found)
    return shape[1]


def _check_gradients(candidate: _Candidate, outputs: Tensor) -> None:
    """Raise ``ConfigError`` if the outputs do not depend on every parameter."""
    parameters = dict(candidate.module.named_parameters())
    if not parameters:
        return
    if not outputs.requires_grad:
        raise ConfigError(
            f"{candidate.title}: no gradient reaches its parameters; leave out detach and no_grad"
        )
    gradients = torch.autograd.grad(outputs.sum(), list(parameters.values()), allow_unused=True)
    for name, gradient in zip(parameters, gradients, strict=True):
        if gradient is None:
            raise ConfigError(
                f"{candidate.title}: its outputs do not depend on the parameter {name!r}; remove it"
            )


def _check_determinism(candidate: _Candidate, obs: dict[str, Tensor]) -> None:
    """Compare outputs that must be equal: again, of fewer rows, and in evaluation."""
    module, title = candidate.module, candidate.title
    before = copy.deepcopy(module.state_dict())
    with torch.no_grad():
        first, again = candidate(obs), candidate(obs)
        fewer = candidate({name: row[1:] for name, row in obs.items()})
        module.eval()
        evaluated = candidate(obs)
        module.train()
    if not _same(before, module.state_dict()):
        raise ConfigError(
            f"{title}: its forward pass changes buffers; use LayerNorm, not BatchNorm"
        )
    if not _close(first, again):
        raise ConfigError(
            f"{title} is not deterministic: the same observations give other outputs; leave out "
            "dropout and noise"
        )
    if fewer.shape != first[1:].shape or not _close(first[1:], fewer):
        raise ConfigError(
            f"{title}: the outputs of an observation depend on the others of its batch; use "
            "LayerNorm instead of BatchNorm, and keep the first axis"
        )
    if not _close(first, evaluated):
        raise ConfigError(
            f"{title} gives other outputs in evaluation than in training; leave out such layers"
        )


def _close(one: Tensor, other: Tensor) -> bool:
    scale = max(1.0, float(one.abs().max()))
    return bool(torch.allclose(one, other, rtol=0.0, atol=TOLERANCE * scale))


def _same(one: dict[str, Any], other: dict[str, Any]) -> bool:
    """Return whether two states are equal."""
    return one.keys() == other.keys() and all(
        torch.equal(one[name], other[name]) if isinstance(one[name], Tensor) else True
        for name in one
    )
