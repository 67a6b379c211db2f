"""Actor and critic for on-policy learners: what acts travels, what judges stays here."""

import math
from collections.abc import Sequence
from typing import Literal, NamedTuple, Protocol

import torch
from torch import Tensor, nn

from soulsai.algorithms.base import Policy, Tensors
from soulsai.algorithms.networks import Encoder, Observation
from soulsai.algorithms.ppo.rollouts import Rollout
from soulsai.types import ActionSpec, Head, Spec

Activation = Literal["tanh", "relu"]


class Views(NamedTuple):
    """What actor and critic think of some rows [B] of a rollout."""

    rows: Tensor  # which [B]
    outputs: Tensors  # the policy's [B, ...]
    value: Tensor  # [B]


class Network(Protocol):
    """An actor and a critic, and how they look at a rollout: in *pieces* that may be shuffled."""

    @property
    def policy(self) -> Policy:
        """The actor, as clients run it."""
        ...

    @property
    def critic(self) -> nn.Module:
        """What judges beside it; clients never see it."""
        ...

    @property
    def observation(self) -> Observation:
        """What normalises observations, for both."""
        ...

    def columns(self, rollout: Rollout) -> Tensors:
        """Return what it needs to know beside the rows' own columns."""
        ...

    def everything(self, rollout: Tensors) -> Tensor:
        """Return the pieces that cover all rows."""
        ...

    def pieces(self, rollout: Tensors) -> Tensor:
        """Return the pieces that cover all steps, each once."""
        ...

    def view(self, rollout: Tensors, pieces: Tensor) -> Views:
        """Look at some pieces."""
        ...


class ActorCritic(Policy):
    """The actor: an action's law from one observation."""

    def __init__(
        self,
        spec: Spec,
        *,
        hidden: Sequence[int],
        activation: Activation,
        normalize: bool,
        eval_fraction: float,
    ) -> None:
        actions = ActionHead(spec.action, hidden[-1])
        super().__init__(
            Head(actions.kind, eval_fraction=eval_fraction), spec, outputs=actions.outputs
        )
        self.observation = Observation(spec.seen, normalize=normalize)
        self.senses = Encoder(self.observation, (), layer_norm=False)
        self.actor = trunk(self.senses.width, hidden, activation)
        self.actions = actions

    def forward(self, obs: Tensors, memory: Tensors) -> tuple[Tensors, Tensors]:
        """Return the law of the action, and the memory unchanged."""
        outputs: Tensors = self.actions(self.actor(self.sense(obs)))
        return outputs, memory

    def sense(self, obs: Tensors) -> Tensor:
        """Return what actor and critic both begin with [B, features]."""
        return self.senses.features(self.observation.parts(obs))


class Feedforward:
    """A critic beside the actor; each step stands for itself, so pieces are rows."""

    def __init__(
        self, policy: ActorCritic, *, hidden: Sequence[int], activation: Activation
    ) -> None:
        self.policy = policy
        self.observation = policy.observation
        self.critic = nn.Sequential(
            trunk(policy.senses.width, hidden, activation), linear(hidden[-1], 1, gain=1.0)
        )

    def columns(self, rollout: Rollout) -> Tensors:  # noqa: ARG002 - of the protocol
        """Return nothing."""
        return {}

    def everything(self, rollout: Tensors) -> Tensor:
        """Return all rows."""
        return torch.arange(len(rollout["step"]), device=rollout["step"].device)

    def pieces(self, rollout: Tensors) -> Tensor:
        """Return the rows that are steps."""
        return rollout["step"].nonzero()[:, 0]

    def view(self, rollout: Tensors, pieces: Tensor) -> Views:
        """Look at some rows."""
        features = self.policy.sense(look(rollout, self.policy, pieces))
        outputs = self.policy.actions(self.policy.actor(features))
        return Views(pieces, outputs, self.critic(features)[:, 0])


class ActionHead(nn.Module):
    """The parameters of an action's law: features [B, F] to the policy's outputs."""

    def __init__(self, action: ActionSpec, features: int) -> None:
        super().__init__()
        self.shape = action.shape
        self.is_box = action.kind == "box"
        choices = math.prod(action.shape) if self.is_box else sum(action.sizes)
        self.out = linear(features, choices, gain=0.01)  # at first, all actions are about as likely
        if self.is_box:
            self.log_std = nn.Parameter(torch.zeros(action.shape))

    @property
    def kind(self) -> Literal["categorical", "gaussian"]:
        """The head that draws from the law."""
        return "gaussian" if self.is_box else "categorical"

    @property
    def outputs(self) -> tuple[str, ...]:
        """The names of what ``forward`` returns."""
        return ("mean", "log_std") if self.is_box else ("logits",)

    def forward(self, features: Tensor) -> Tensors:
        """Return ``logits`` [B, choices], or ``mean`` and ``log_std`` [B, ...]."""
        out: Tensor = self.out(features)
        if not self.is_box:
            return {"logits": out}
        mean = out.view(-1, *self.shape)
        return {"mean": mean, "log_std": self.log_std + torch.zeros_like(mean)}


def look(rollout: Tensors, policy: Policy, rows: Tensor) -> Tensors:
    """Return the observation leaves of some rows, as the policy wants them."""
    return {name: rollout[f"obs.{name}"][rows] for name in policy.inputs}


def trunk(inputs: int, hidden: Sequence[int], activation: Activation) -> nn.Sequential:
    """Return layers of tanh, or of LayerNorm and ReLU."""
    layers: list[nn.Module] = []
    for width in hidden:
        layers.append(linear(inputs, width, gain=math.sqrt(2)))
        layers += [nn.Tanh()] if activation == "tanh" else [nn.LayerNorm(width), nn.ReLU()]
        inputs = width
    return nn.Sequential(*layers)


def linear(inputs: int, outputs: int, *, gain: float) -> nn.Linear:
    """Return a linear layer with orthogonal weights and no bias to begin with."""
    layer = nn.Linear(inputs, outputs)
    nn.init.orthogonal_(layer.weight, gain)
    nn.init.zeros_(layer.bias)
    return layer
