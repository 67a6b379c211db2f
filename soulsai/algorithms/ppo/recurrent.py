"""A recurrent actor and critic: one LSTM below both, with its state kept by the client.

A fragment carries the state before its first step (stored state, as in R2D2), so learning does not
depend on the fragments before it.
"""

from collections.abc import Mapping, Sequence

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from soulsai.algorithms.base import Policy, Tensors
from soulsai.algorithms.networks import Observation
from soulsai.algorithms.ppo.network import (
    ActionHead,
    Activation,
    ActorCriticOutput,
    encoder,
    mlp,
    observations,
    orthogonal,
)
from soulsai.algorithms.ppo.rollouts import Rollout, sequences
from soulsai.types import Head, Leaf, Spec


class RecurrentActor(Policy):
    """The actor: observation and LSTM state to the parameters of an action distribution.

    Args:
        spec: Observations and actions.
        hidden: Widths of the layers before the LSTM.
        activation: ``tanh``, or ``relu`` after a LayerNorm.
        memory: Width of the LSTM.
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
        memory: int,
        normalize: bool,
        eval_fraction: float,
        custom: Mapping[str, str],
    ) -> None:
        actions = ActionHead(spec.action, memory)
        super().__init__(
            Head(actions.kind, eval_fraction=eval_fraction), spec, outputs=actions.outputs
        )
        self.memory = {"h": Leaf((memory,), "<f4"), "c": Leaf((memory,), "<f4")}
        self.observation = Observation(spec.seen, normalize=normalize, named=bool(custom))
        self.senses = encoder(self.observation, custom)
        self.before = mlp(self.senses.width, hidden, activation)
        self.lstm = nn.LSTM(hidden[-1], memory, batch_first=True)
        for name, parameter in self.lstm.named_parameters():
            (nn.init.orthogonal_ if name.startswith("weight") else nn.init.zeros_)(parameter)
        self.actions = actions

    def forward(self, obs: Tensors, memory: Tensors) -> tuple[Tensors, Tensors]:
        """Map leaves and state ``h``, ``c`` [B, memory] to distribution and next state."""
        # One explicit step: nn.LSTM does not export with a dynamic batch.
        weight_ih, weight_hh, bias_ih, bias_hh = self.lstm.parameters()
        gates = F.linear(self.lstm_input(obs), weight_ih, bias_ih)
        gates = gates + F.linear(memory["h"], weight_hh, bias_hh)
        i, f, g, o = gates.chunk(4, -1)
        c = f.sigmoid() * memory["c"] + i.sigmoid() * g.tanh()
        h = o.sigmoid() * c.tanh()
        outputs: Tensors = self.actions(h)
        return outputs, {"h": h, "c": c}

    def lstm_input(self, obs: Tensors) -> Tensor:
        """Map leaves [B, ...] to the LSTM's input [B, F]."""
        features: Tensor = self.before(self.senses.features(self.observation.parts(obs)))
        return features


class Recurrent:
    """Actor and critic above one LSTM; items are sequences of fragments.

    Args:
        policy: The actor.
        hidden: Widths of the actor's layers; the critic has one of the last width.
        activation: As the actor's.
        unroll: Steps of a sequence.
    """

    def __init__(
        self, policy: RecurrentActor, *, hidden: Sequence[int], activation: Activation, unroll: int
    ) -> None:
        self.policy = policy
        self.observation = policy.observation
        self.unroll = unroll
        self.critic = nn.Sequential(
            mlp(policy.lstm.hidden_size, hidden[-1:], activation),
            orthogonal(hidden[-1], 1, gain=1.0),
        )

    def columns(self, rollout: Rollout) -> Tensors:
        """Return the rows and padding mask of each sequence [S, L], and its initial state."""
        rows, real, begins = sequences(rollout, self.unroll)
        memory = {
            f"memory.{name}": np.stack([rollout.fragments[i].memory[name] for i in begins])
            for name in self.policy.memory
        }
        columns = {"sequence": rows, "real": real, **memory}
        return {name: torch.from_numpy(column) for name, column in columns.items()}

    def all_items(self, rollout: Tensors) -> Tensor:
        """Return the indices of all sequences [S]."""
        return torch.arange(len(rollout["sequence"]), device=rollout["sequence"].device)

    def step_items(self, rollout: Tensors) -> Tensor:
        """Return the indices of all sequences [S]."""
        return self.all_items(rollout)

    def evaluate(self, rollout: Tensors, items: Tensor) -> ActorCriticOutput:
        """Run LSTM, actor and critic along sequences."""
        real = rollout["real"][items]
        real = real[:, : int(real.sum(1).max())]  # [S, L]
        rows = rollout["sequence"][items, : real.shape[1]]
        inputs = self.policy.lstm_input(observations(rollout, self.policy, rows.flatten()))
        state = tuple(rollout[f"memory.{name}"][None, items] for name in ("h", "c"))
        hidden, _ = self.policy.lstm(inputs.view(*rows.shape, -1), state)
        hidden = hidden[real]  # [B, memory]
        return ActorCriticOutput(rows[real], self.policy.actions(hidden), self.critic(hidden)[:, 0])
