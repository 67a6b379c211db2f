"""Extensions of soulsai, one of each kind; docs/extending.md explains them.

``pip install examples/extending`` makes them known, and
``soulsai train --set algorithm.name=linear_q --env CartPole-v1`` uses the algorithm.
"""

from collections.abc import Iterable, Iterator, Sequence
from math import prod
from pathlib import Path
from typing import Any

import gymnasium
import numpy as np
import torch
from msgspec import Struct
from torch import Tensor, nn

from soulsai.algorithms.base import Policy, Stateful, Tensors
from soulsai.algorithms.n_step_returns import NStepReturns, transition_columns
from soulsai.algorithms.pace import Pace
from soulsai.algorithms.replay_learner import leaves, tensors
from soulsai.replay.ring import Batch, Ring
from soulsai.types import Fragment, Head, Leaf, Metrics, Spec

# ---- a network, and a feature extractor ----


class Gated(nn.Module):
    """A hidden layer, each unit of which has a gate: ``dqn.network: soulsai_example:Gated``."""

    def __init__(self, leaves: dict[str, Leaf], outputs: int) -> None:
        super().__init__()
        width = sum(prod(leaf.shape) for leaf in leaves.values())
        self.hidden, self.gate = nn.Linear(width, 64), nn.Linear(width, 64)
        self.out = nn.Linear(64, outputs)

    def forward(self, obs: dict[str, Tensor]) -> Tensor:
        """Map leaves [B, ...] to [B, outputs]."""
        x = torch.cat([leaf.reshape(leaf.shape[0], -1).float() for leaf in obs.values()], 1)
        values: Tensor = self.out(self.hidden(x).relu() * self.gate(x).sigmoid())
        return values


class Kinds(nn.Module):
    """Features of which each category is a learnt vector, and not a one of many."""

    def __init__(self, leaves: dict[str, Leaf]) -> None:
        super().__init__()
        kinds = {name: leaf.categories for name, leaf in leaves.items() if leaf.categories}
        self.kinds = nn.ModuleDict({name: nn.Embedding(n, 8) for name, n in kinds.items()})

    def forward(self, obs: dict[str, Tensor]) -> Tensor:
        """Map leaves [B, ...] to features [B, F]."""
        parts = [
            self.kinds[name](leaf.long()) if name in self.kinds else leaf.float()
            for name, leaf in obs.items()
        ]
        return torch.cat([part.reshape(part.shape[0], -1) for part in parts], 1)


# ---- a network for an algorithm of one's own ----


class LinearValues(Policy):
    """Values of discrete actions that are linear in the observation."""

    def __init__(self, spec: Spec) -> None:
        super().__init__(Head("epsilon_greedy"), spec, outputs=("q",))
        width = sum(int(np.prod(leaf.shape, dtype=int)) for leaf in spec.seen.values())
        self.values = nn.Linear(width, spec.action.sizes[0])

    def forward(self, obs: Tensors, memory: Tensors) -> tuple[Tensors, Tensors]:
        """Map leaves [B, ...] to ``q`` [B, A]; there is no memory."""
        seen = torch.cat([obs[name].flatten(1).float() for name in self.inputs], dim=1)
        return {"q": self.values(seen)}, memory


# ---- a replay ----


class NewestReplay:
    """Samples uniformly, and only from the newest rows.

    Args:
        capacity: Rows that are kept.
        newest: Rows that are sampled from.
        columns: Shape and type of each column.
        rng: Source of randomness.
    """

    def __init__(
        self, capacity: int, newest: int, columns: dict[str, Any], rng: np.random.Generator
    ) -> None:
        self.ring = Ring(capacity, columns)
        self.newest = newest
        self._rng = rng

    def append(self, rows: dict[str, np.ndarray]) -> None:
        """Add rows, overwriting the oldest."""
        self.ring.append(rows)

    def sample(self, size: int) -> Batch:
        """Draw ``size`` rows."""
        back = self._rng.integers(1, 1 + min(self.newest, len(self.ring)), size=size)
        slots = (self.ring.added - back) % self.ring.capacity
        return Batch(self.ring.rows(slots), self.ring.ids(slots), np.ones(size, np.float32))

    def state_dict(self) -> dict[str, Any]:
        """Return the rows."""
        return {"ring": self.ring.state_dict()}

    def load_state_dict(self, state_dict: dict[str, Any], /) -> None:
        """Load rows."""
        self.ring.load_state_dict(state_dict["ring"])


# ---- an algorithm ----


class LinearQ:
    """Q-learning (Watkins 1989) with a linear network, from replay."""

    class Config(Struct, frozen=True, forbid_unknown_fields=True):
        """Settings, as ``algorithm.options``."""

        lr: float = 0.01
        gamma: float = 0.99
        batch_size: int = 32
        capacity: int = 10_000

    def __init__(
        self, config: Config, spec: Spec, *, seed: int, steps: int, realtime: bool
    ) -> None:
        del steps  # nothing here is planned over the run
        self.config = config
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            self.policy = LinearValues(spec)
        self.policy.warmup = 200
        self.optimizer = torch.optim.Adam(self.policy.parameters(), lr=config.lr)
        self.returns = NStepReturns(spec, n=1, gamma=config.gamma)
        self.replay = NewestReplay(
            config.capacity, 5000, transition_columns(spec), np.random.default_rng(seed)
        )
        self.pace = Pace(
            "free" if realtime else "hold",
            samples_per_insert=0.5,
            error_buffer=500,
            learning_starts=self.policy.warmup,
        )
        self.policy.quota = self.pace.quota()
        # Everything that a checkpoint has to hold, by name.
        self.parts: dict[str, Stateful] = {
            "policy": self.policy,
            "optimizer": self.optimizer,
            "returns": self.returns,
            "replay": self.replay,
            "pace": self.pace,
        }

    def learn(self, arrivals: Iterable[Sequence[Fragment]]) -> Iterator[Metrics]:
        """Take what came; yield the metrics of each update."""
        for fragments in arrivals:
            if fragments:
                self.replay.append(self.returns.assemble(fragments))
                self.pace.arrived(sum(map(len, fragments)))
                self.policy.quota = self.pace.quota()
            if self.pace.due:
                loss = self._update(self.replay.sample(self.config.batch_size))
                self.pace.updated()
                self.policy.quota = self.pace.quota()
                yield {"loss": loss}

    def _update(self, batch: Batch) -> float:
        rows = tensors(batch.rows, torch.device("cpu"))
        q = self._values(leaves(rows, "obs."))  # [B, A]
        taken = q.gather(1, rows["action"].long()[:, None]).squeeze(1)
        with torch.no_grad():
            best = self._values(leaves(rows, "next_obs.")).amax(1)
            target = rows["ret"] + rows["discount"] * best
        loss = nn.functional.smooth_l1_loss(taken, target)
        self.optimizer.zero_grad()
        loss.backward()
        self.optimizer.step()
        return float(loss)

    def _values(self, obs: Tensors) -> Tensor:
        return self.policy.forward(obs, {})[0]["q"]


# ---- a wrapper ----


class Fuel(gymnasium.Wrapper[Any, Any, Any, Any]):
    """Charges each step that fires the main engine, and counts them in the info."""

    def reset(self, **options: Any) -> tuple[Any, dict[str, Any]]:
        """Begin with a full tank."""
        self.burnt = 0
        return self.env.reset(**options)

    def step(self, action: Any) -> tuple[Any, float, bool, bool, dict[str, Any]]:
        """Take a step; ``info["burnt"]`` is the number of steps so far that fired."""
        obs, reward, terminated, truncated, info = self.env.step(action)
        self.burnt += int(action == 1)
        return obs, float(reward) - 0.1 * (action == 1), terminated, truncated, {
            **info, "burnt": self.burnt,
        }  # fmt: skip


def make(**kwargs: Any) -> gymnasium.Env[Any, Any]:
    """Make the environment with the wrapper: ``--env soulsai_example:make``."""
    return Fuel(gymnasium.make("CartPole-v1", **kwargs))


# ---- a sink ----


class Lines:
    """Writes each point as one line of text into the run's folder.

    Args:
        folder: The run's folder.
        name: The file's name.
    """

    def __init__(self, folder: Path, name: str = "points.txt") -> None:
        self._file = (folder / name).open("a")

    def write(self, item: Any) -> None:
        """Write one point: its env steps, and the values of its curves."""
        self._file.write(f"{item.env_steps} {dict(item.values)}\n")

    def flush(self) -> None:
        """Make the lines visible to others."""
        self._file.flush()

    def close(self) -> None:
        """Close the file."""
        self._file.close()

    def abort(self) -> None:
        """Do nothing: writes to a disk end by themselves."""
