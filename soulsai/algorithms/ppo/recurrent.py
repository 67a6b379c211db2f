"""An actor and a critic that remember: one LSTM below both, its memory kept by the client.

A fragment says what was remembered before its first step, so learning begins there, whatever
became of the fragments before it.
"""

from collections.abc import Sequence

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from soulsai.algorithms.base import Policy, Tensors
from soulsai.algorithms.networks import Encoder, Observation
from soulsai.algorithms.ppo.network import ActionHead, Activation, Views, linear, look, trunk
from soulsai.algorithms.ppo.rollouts import Rollout, sequences
from soulsai.types import Head, Leaf, Spec


class RecurrentActor(Policy):
    """The actor: an action's law from an observation and what is remembered."""

    def __init__(
        self,
        spec: Spec,
        *,
        hidden: Sequence[int],
        activation: Activation,
        memory: int,
        normalize: bool,
        eval_fraction: float,
    ) -> None:
        actions = ActionHead(spec.action, memory)
        super().__init__(
            Head(actions.kind, eval_fraction=eval_fraction), spec, outputs=actions.outputs
        )
        self.memory = {"h": Leaf((memory,), "<f4"), "c": Leaf((memory,), "<f4")}
        self.observation = Observation(spec.seen, normalize=normalize)
        self.senses = Encoder(self.observation, (), layer_norm=False)
        self.before = trunk(self.senses.width, hidden, activation)
        self.lstm = nn.LSTM(hidden[-1], memory, batch_first=True)
        for name, parameter in self.lstm.named_parameters():
            (nn.init.orthogonal_ if name.startswith("weight") else nn.init.zeros_)(parameter)
        self.actions = actions

    def forward(self, obs: Tensors, memory: Tensors) -> tuple[Tensors, Tensors]:
        """Return the law of the action, and what to remember."""
        # One step, written out: nn.LSTM does not export with a dynamic batch
        enter, recall, enter_bias, recall_bias = self.lstm.parameters()
        gates = F.linear(self.enter(obs), enter, enter_bias)
        gates = gates + F.linear(memory["h"], recall, recall_bias)
        take, keep, new, show = gates.chunk(4, -1)
        c = keep.sigmoid() * memory["c"] + take.sigmoid() * new.tanh()
        h = show.sigmoid() * c.tanh()
        outputs: Tensors = self.actions(h)
        return outputs, {"h": h, "c": c}

    def enter(self, obs: Tensors) -> Tensor:
        """Return what the LSTM is told of observations [B, ...]."""
        told: Tensor = self.before(self.senses.features(self.observation.parts(obs)))
        return told


class Recurrent:
    """A critic above the same LSTM; pieces are sequences of fragments."""

    def __init__(
        self, policy: RecurrentActor, *, hidden: Sequence[int], activation: Activation, unroll: int
    ) -> None:
        self.policy = policy
        self.observation = policy.observation
        self.unroll = unroll
        self.critic = nn.Sequential(
            trunk(policy.lstm.hidden_size, hidden[-1:], activation), linear(hidden[-1], 1, gain=1.0)
        )

    def columns(self, rollout: Rollout) -> Tensors:
        """Return the rows of each sequence, which are real, and what was remembered before it."""
        rows, real, begins = sequences(rollout, self.unroll)
        memory = {
            f"memory.{name}": np.stack([rollout.fragments[i].memory[name] for i in begins])
            for name in self.policy.memory
        }
        columns = {"sequence": rows, "real": real, **memory}
        return {name: torch.from_numpy(column) for name, column in columns.items()}

    def everything(self, rollout: Tensors) -> Tensor:
        """Return all sequences."""
        return torch.arange(len(rollout["sequence"]), device=rollout["sequence"].device)

    def pieces(self, rollout: Tensors) -> Tensor:
        """Return all sequences."""
        return self.everything(rollout)

    def view(self, rollout: Tensors, pieces: Tensor) -> Views:
        """Remember through some sequences."""
        real = rollout["real"][pieces]
        longest = int(real.sum(1).max())
        real = real[:, :longest]  # [S, L]
        rows = rollout["sequence"][pieces, :longest]
        told = self.policy.enter(look(rollout, self.policy, rows.flatten()))
        start = tuple(rollout[f"memory.{name}"][None, pieces] for name in ("h", "c"))
        remembered, _ = self.policy.lstm(told.view(*rows.shape, -1), start)
        seen = remembered[real]  # [B, memory]
        return Views(rows[real], self.policy.actions(seen), self.critic(seen)[:, 0])
