"""The networks of PPO: an actor that clients run, and a critic that stays on the learner.

A pair of both evaluates a rollout by *items* that may be shuffled: single rows here, sequences in
``recurrent``.
"""

import math
from collections.abc import Mapping, Sequence
from typing import Any, Literal, NamedTuple

import torch
from torch import Tensor, nn

from soulsai.algorithms.base import Policy, Tensors
from soulsai.algorithms.custom_networks import NamedParts, custom_features, custom_network
from soulsai.algorithms.networks import Encoder, Observation
from soulsai.algorithms.ppo.rollouts import Rollout
from soulsai.types import ActionSpec, Head, HeadKind, Spec

Activation = Literal["tanh", "relu"]


class ActorCriticOutput(NamedTuple):
    """Outputs of actor and critic on some rows of a rollout."""

    rows: Tensor  # [B] indices
    outputs: Tensors  # of the policy [B, ...]
    value: Tensor  # [B]


class ActorCritic(Policy):
    """The actor: one observation to the parameters of an action distribution.

    Args:
        spec: Observations and actions.
        hidden: Widths of the layers.
        activation: ``tanh``, or ``relu`` after a LayerNorm.
        normalize: Normalise float observations.
        eval_fraction: Share of greedy episodes.
        custom: The networks that are not ours, by setting.
    """

    def __init__(
        self,
        spec: Spec,
        *,
        hidden: Sequence[int],
        activation: Activation,
        normalize: bool,
        eval_fraction: float,
        custom: Mapping[str, str],
    ) -> None:
        network = custom.get("network", "")
        actions = ActionHead(spec.action, 0 if network else hidden[-1])
        super().__init__(
            Head(actions.kind, eval_fraction=eval_fraction), spec, outputs=actions.outputs
        )
        self.observation = Observation(spec.seen, normalize=normalize, named=bool(custom))
        self.senses: Encoder | NamedParts
        self.actor: nn.Module
        if network:
            self.senses = NamedParts()
            self.actor = custom_network("ppo.network", network, spec.seen, actions.width)
        else:
            self.senses = encoder(self.observation, custom)
            self.actor = mlp(self.senses.width, hidden, activation)
        self.actions = actions

    def forward(self, obs: Tensors, memory: Tensors) -> tuple[Tensors, Tensors]:
        """Map leaves [B, ...] to distribution parameters [B, ...] and an unchanged memory."""
        outputs: Tensors = self.actions(self.actor(self.features(obs)))
        return outputs, memory

    def features(self, obs: Tensors) -> Any:
        """Map leaves [B, ...] to the inputs [B, F] of actor and critic, or to named parts."""
        return self.senses.features(self.observation.parts(obs))


class Feedforward:
    """Actor and critic without memory; items are rows.

    Args:
        policy: The actor.
        hidden: Widths of the critic's layers.
        activation: As the actor's.
        network: The name of a custom network, of which the critic is one; empty: none.
    """

    def __init__(
        self,
        policy: ActorCritic,
        *,
        hidden: Sequence[int],
        activation: Activation,
        network: str = "",
    ) -> None:
        self.policy = policy
        self.observation = policy.observation
        self.critic: nn.Module = (
            nn.Sequential(
                mlp(policy.senses.width, hidden, activation), orthogonal(hidden[-1], 1, gain=1.0)
            )
            if isinstance(policy.senses, Encoder)
            else custom_network("ppo.network", network, self.observation.leaves, 1)
        )

    def columns(self, rollout: Rollout) -> Tensors:  # noqa: ARG002 - of the protocol
        """Return no further columns."""
        return {}

    def all_items(self, rollout: Tensors) -> Tensor:
        """Return the indices of all rows [R]."""
        return torch.arange(len(rollout["step"]), device=rollout["step"].device)

    def step_items(self, rollout: Tensors) -> Tensor:
        """Return the indices of the rows that are steps."""
        return rollout["step"].nonzero()[:, 0]

    def evaluate(self, rollout: Tensors, items: Tensor) -> ActorCriticOutput:
        """Run actor and critic on rows."""
        features = self.policy.features(observations(rollout, self.policy, items))
        outputs = self.policy.actions(self.policy.actor(features))
        return ActorCriticOutput(items, outputs, self.critic(features)[:, 0])


class ActionHead(nn.Module):
    """The parameters of an action distribution.

    Args:
        action: The actions.
        features: Number of inputs F of its layer; 0: the inputs are the parameters.
    """

    def __init__(self, action: ActionSpec, features: int) -> None:
        super().__init__()
        self.choices, numbers = sum(action.sizes), len(action.low)
        self.shape = (numbers,) if self.choices else action.shape
        self.width = self.choices + numbers
        self.out: nn.Module = nn.Identity()
        if features:
            self.out = orthogonal(features, self.width, gain=0.01)  # nearly uniform
        self.kind: HeadKind = "categorical"
        self.outputs: tuple[str, ...] = ("logits",) if self.choices else ()
        if numbers:
            self.log_std = nn.Parameter(torch.zeros(self.shape))
            self.kind = "hybrid" if self.choices else "scaled_gaussian"
            self.outputs += ("mean", "log_std")

    def forward(self, features: Tensor) -> Tensors:
        """Map features [B, F] to ``logits`` [B, A], ``mean`` and ``log_std`` [B, ...]."""
        out: Tensor = self.out(features)
        logits = {"logits": out[:, : self.choices]} if self.choices else {}
        if self.kind == "categorical":
            return logits
        mean = out[:, self.choices :].view(-1, *self.shape)
        return {**logits, "mean": mean, "log_std": self.log_std + torch.zeros_like(mean)}


def encoder(observation: Observation, custom: Mapping[str, str]) -> Encoder:
    """Return what lies below actor and critic: vision encoders, or a feature extractor.

    Args:
        observation: The source of its parts.
        custom: The networks that are not ours, by setting.
    """
    name = custom.get("feature_extractor", "")
    extractor = custom_features("ppo.feature_extractor", name, observation.leaves)
    return Encoder(observation, (), layer_norm=False, extractor=extractor)


def observations(rollout: Tensors, policy: Policy, rows: Tensor) -> Tensors:
    """Return the policy's observation leaves of some rows.

    Args:
        rollout: Columns [R, ...].
        policy: Names its inputs.
        rows: Indices [B].

    Returns:
        Leaves [B, ...].
    """
    return {name: rollout[f"obs.{name}"][rows] for name in policy.inputs}


def mlp(inputs: int, hidden: Sequence[int], activation: Activation) -> nn.Sequential:
    """Return layers of tanh, or of LayerNorm and ReLU.

    Args:
        inputs: Number of inputs.
        hidden: Widths of the layers.
        activation: ``tanh`` or ``relu``.
    """
    layers: list[nn.Module] = []
    for width in hidden:
        layers.append(orthogonal(inputs, width, gain=math.sqrt(2)))
        layers += [nn.Tanh()] if activation == "tanh" else [nn.LayerNorm(width), nn.ReLU()]
        inputs = width
    return nn.Sequential(*layers)


def orthogonal(inputs: int, outputs: int, *, gain: float) -> nn.Linear:
    """Return a linear layer with orthogonal weights and zero bias.

    Args:
        inputs: Number of inputs.
        outputs: Number of outputs.
        gain: Scale of the weights.
    """
    layer = nn.Linear(inputs, outputs)
    nn.init.orthogonal_(layer.weight, gain)
    nn.init.zeros_(layer.bias)
    return layer
