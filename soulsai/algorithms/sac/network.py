"""The networks: a squashed normal actor, and truncated quantile critics (arXiv:2005.04269)."""

import math
from functools import partial
from math import prod
from typing import Any

import torch
from torch import Tensor, nn

from soulsai.algorithms.base import Policy, Tensors
from soulsai.algorithms.compile.dense import Tower
from soulsai.algorithms.custom_networks import (
    CustomNetwork,
    NamedParts,
    custom_features,
    custom_network,
)
from soulsai.algorithms.networks import Encoder, Observation
from soulsai.algorithms.quantiles import quantile_huber_slope
from soulsai.algorithms.sac.settings import SACSettings
from soulsai.algorithms.settings import is_custom
from soulsai.errors import ConfigError
from soulsai.types import Head, Leaf, Spec

ACTION = "action"  # the leaf in which custom critics find the action
LOG_STD = -5.0, 2.0  # bounds of the actor's output


class SquashedActor(Policy):
    """The policy: a normal distribution of actions, squashed into -1..1 by tanh."""

    def __init__(self, config: SACSettings, spec: Spec) -> None:
        head = Head("squashed", eval_fraction=config.eval_fraction)
        super().__init__(head, spec, outputs=("mean", "log_std"))
        self.shape = spec.action.shape
        named, outputs = bool(config.custom), 2 * prod(self.shape)
        self.observation = Observation(spec.seen, normalize=config.normalize_obs, named=named)
        self.encoder: Encoder | NamedParts
        self.tower: Tower | CustomNetwork
        if is_custom(config.network):
            self.encoder = NamedParts()
            self.tower = custom_network("sac.network", config.network, spec.seen, outputs)
        else:
            self.encoder = _encoder(config, self.observation)
            self.tower = Tower(self.encoder.width, config.hidden, outputs)

    def forward(self, obs: Tensors, memory: Tensors) -> tuple[Tensors, Tensors]:
        """Map leaves [B, ...] to ``mean`` and ``log_std`` [B, *shape]."""
        mean, log_std = self.parameters_of(self.observation.parts(obs))
        shape = (-1, *self.shape)
        return {"mean": mean.reshape(shape), "log_std": log_std.reshape(shape)}, memory

    def parameters_of(self, parts: list[Tensor]) -> tuple[Tensor, Tensor]:
        """Map the parts of an observation to mean and log standard deviation [B, A]."""
        mean, log_std = self.tower(self.encoder.features(parts)).chunk(2, dim=1)
        return mean, log_std.clamp(*LOG_STD)


class Temperature(nn.Module):
    """The weight of a nat of entropy relative to reward, learnt as a logarithm."""

    def __init__(self, initial: float) -> None:
        super().__init__()
        self.log = nn.Parameter(torch.tensor([math.log(initial)]))

    @property
    def value(self) -> Tensor:
        """The temperature [1]."""
        return self.log.detach().exp()


class Critics(nn.Module):
    """Independent critics on shared features.

    Dropout precedes LayerNorm, as in DroQ (arXiv:2110.02034), and is always active.

    Args:
        config: The settings.
        observation: Source of the features.
        actions: Number of elements A of an action.
    """

    def __init__(self, config: SACSettings, observation: Observation, actions: int) -> None:
        super().__init__()
        self.encoder: Encoder | NamedParts
        towers: list[Tower | CustomNetwork]
        if is_custom(config.network):
            self.encoder = NamedParts()
            leaves = _with_action(observation.leaves, actions)
            network = partial(custom_network, "sac.network", config.network, leaves)
            towers = [network(config.quantiles) for _ in range(config.critics)]
        else:
            self.encoder = _encoder(config, observation)
            inputs = self.encoder.width + actions
            norm, dropout = config.layer_norm, config.dropout
            tower = partial(Tower, inputs, config.hidden, layer_norm=norm, dropout=dropout)
            towers = [tower(outputs=config.quantiles) for _ in range(config.critics)]
        self.towers = nn.ModuleList(towers)

    def quantiles(
        self, parts: list[Tensor], action: Tensor, generator: torch.Generator | None
    ) -> Tensor:
        """Map observations and actions to quantiles of the return.

        Args:
            parts: The parts of the observations [B, ...].
            action: Actions [B, A].
            generator: Source of the dropout masks.

        Returns:
            Quantiles [B, C, N].
        """
        features = self.encoder.features(parts)
        x: Any = (
            [*features, action]
            if isinstance(self.encoder, NamedParts)
            else torch.cat((features, action), 1)
        )
        return torch.stack([tower(x, generator) for tower in self.towers], 1)


def _encoder(config: SACSettings, observation: Observation) -> Encoder:
    extractor = custom_features(
        "sac.feature_extractor", config.feature_extractor, observation.leaves
    )
    return Encoder(observation, (), layer_norm=False, extractor=extractor)


def _with_action(leaves: dict[str, Leaf], actions: int) -> dict[str, Leaf]:
    """Return the leaves that a custom critic reads: those of the observation, and the action."""
    if ACTION in leaves:
        raise ConfigError(
            f"sac.network: the observation has a leaf {ACTION!r}, as critics call the action; "
            "rename it by a wrapper, or name a feature_extractor instead of a network"
        )
    return {**leaves, ACTION: Leaf((actions,), "<f4")}


def actor_value(quantiles: Tensor) -> Tensor:
    """Return the value that the actor maximises.

    Args:
        quantiles: Quantiles [B, C, N].

    Returns:
        Values [B]: the mean, or the minimum over critics if there is one quantile (plain SAC).
    """
    return quantiles.amin((1, 2)) if quantiles.shape[2] == 1 else quantiles.mean((1, 2))


def truncated(quantiles: Tensor, drop: int) -> Tensor:
    """Return the pooled quantiles of all critics without the highest, against overestimation.

    Args:
        quantiles: Quantiles [B, C, N].
        drop: Number of quantiles to drop per critic.

    Returns:
        The pool [B, M], unordered; only the minimum if there is one quantile (plain SAC).
    """
    _, critics, n = quantiles.shape
    kept = 1 if n == 1 else (n - drop) * critics
    return quantiles.flatten(1).topk(kept, dim=1, largest=False, sorted=False).values


def critic_loss_slope(predicted: Tensor, target: Tensor, weights: Tensor) -> Tensor:
    """Return the derivative of the critics' weighted loss by their quantiles.

    The loss is the mean quantile Huber loss, or half the mean squared error of one quantile.

    Args:
        predicted: Quantiles [B, C, N].
        target: Target quantiles [B, M].
        weights: Importance weights [B].

    Returns:
        The derivative [B, C, N].
    """
    batch, critics, n = predicted.shape
    if n == 1:
        return (predicted - target[:, None]) * (weights / (batch * critics))[:, None, None]
    flat = quantile_huber_slope(
        predicted.flatten(0, 1),
        target.repeat_interleave(critics, 0),
        weights.repeat_interleave(critics),
    )
    return flat.view_as(predicted)
