"""PPO's gradient steps, shared among ranks: all have the batch, each does a part of a minibatch."""

from typing import TYPE_CHECKING

import torch
from torch import Tensor

from soulsai.algorithms.base import Tensors
from soulsai.algorithms.sharing import Ranks, Step, buffers, hold

if TYPE_CHECKING:
    from soulsai.algorithms.ppo import PPO, Update

BATCH, DESCEND = "batch", "descend"
PIECES, METRICS = "pieces", "metric."


class SharedDescent:
    """A gradient step, as it is called with a whole minibatch, and our part of it."""

    def __init__(self, ppo: "PPO", kind: "type[Update]", ranks: Ranks) -> None:
        self._ppo = ppo
        self._kind = kind
        self._ranks = ranks
        self._update: Update | None = None  # what all ranks have the batch of
        self.parts: dict[str, Step] = {BATCH: self._take, DESCEND: self._descend_part}

    def __call__(self, update: "Update", pieces: Tensor) -> bool:
        """Descend together; for the first rank."""
        if update is not self._update:
            metrics = {
                METRICS + name: torch.tensor(now, dtype=torch.float64)
                for name, now in update.metrics.items()
            }
            whole = {**update.rollout, **metrics, **buffers(policy=self._ppo.policy)}
            self._ranks.tell(BATCH, {}, whole)
            self._update = update
        return self._descend_part(self._ranks.tell(DESCEND, {PIECES: pieces}, {}))

    def _take(self, columns: Tensors) -> None:
        metrics = {
            name.removeprefix(METRICS): column.item()
            for name, column in columns.items()
            if name.startswith(METRICS)
        }
        self._update = self._kind(columns, metrics, minibatches=0)

    def _descend_part(self, columns: Tensors) -> bool:
        if self._update is None:
            return False
        return self._ppo.descend_pieces(self._update, columns[PIECES])


def held(ppo: "PPO") -> Tensors:
    """Return what all ranks must hold alike."""
    return buffers(policy=ppo.policy) | hold(weights=ppo.weights, adam=ppo.optimizer.state_dict())
