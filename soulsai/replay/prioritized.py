"""Prioritised experience replay (arXiv:1511.05952): rows with large errors are drawn more often."""

from typing import Any, Protocol, runtime_checkable

import numpy as np

from soulsai.replay.ring import Batch, Ring, rng_state, set_rng_state
from soulsai.replay.storage import Allocate, in_memory
from soulsai.replay.sum_tree import CompiledSumTree, SumTree, Tree
from soulsai.replay.tree_routines import TreeRoutines
from soulsai.types import Array, Leaf

UNIFORM_SHARE = 1e-3  # fraction of draws that ignore priorities, so that no row starves
DECAY = 0.9999  # of the largest priority, per update: one outlier must not keep it high for ever


@runtime_checkable
class HasTrees(Protocol):
    """A part of an algorithm that draws by priorities."""

    def use_routines(self, routines: TreeRoutines) -> None:
        """Set and find priorities by compiled routines from now on."""
        ...


class PrioritizedReplay:
    """Samples in proportion to ``(|error| + 1e-6) ** alpha``; weights correct the bias.

    Args:
        capacity: Number of rows kept.
        columns: Shape and type of each column.
        alpha: Exponent of the errors; 0 samples uniformly.
        rng: Source of randomness.
        allocate: Allocates the columns.
        shared: Whether to store each observation once; else next observations are copies.
    """

    def __init__(
        self,
        capacity: int,
        columns: dict[str, Leaf],
        *,
        alpha: float,
        rng: np.random.Generator,
        allocate: Allocate = in_memory,
        shared: bool = True,
    ) -> None:
        self.ring = Ring(capacity, columns, allocate=allocate, shared=shared)
        self.alpha = alpha
        self._routines: TreeRoutines | None = None
        self._tree = self._new_tree()
        self._largest = 1.0  # priority of new rows
        self._rng = rng

    def __len__(self) -> int:
        """Return the number of rows."""
        return len(self.ring)

    def use_routines(self, routines: TreeRoutines) -> None:
        """Set and find priorities by compiled routines from now on."""
        priorities = self.priorities
        self._routines = routines
        self._tree = self._new_tree()
        self._tree.set(np.arange(len(priorities)), priorities)

    def _new_tree(self) -> Tree:
        size = self.ring.capacity
        return SumTree(size) if self._routines is None else CompiledSumTree(size, self._routines)

    @property
    def priorities(self) -> Array:
        """The priority of each used slot [N]."""
        return self._tree.leaves[: len(self.ring)]

    def append(self, rows: dict[str, Array]) -> None:
        """Add rows with the largest priority, overwriting the oldest."""
        self._tree.set(self.ring.append(rows), self._largest)

    def sample(self, size: int, *, beta: float, batches: int = 1) -> Batch:
        """Draw batches, stratified: one row from each of equal parts of the probability.

        Each batch has a row of every ``batches``-th part, so it is stratified, too.

        Args:
            size: Number of rows of each batch.
            beta: Exponent of the importance weights; 1 corrects the bias fully.
            batches: Number of batches, drawn at once with the same priorities.

        Returns:
            The rows of all batches, one batch after the other; see ``Batch.split``.
        """
        count, total, rows = len(self.ring), self._tree.total, size * batches
        offset, mixture, uniform = self._rng.random((3, rows))
        parts = np.arange(rows).reshape(size, batches).T.ravel()
        slots = self._tree.find((parts + offset) * (total / rows))
        slots = np.where(mixture < UNIFORM_SHARE, (uniform * count).astype(np.int64), slots)
        probability = (1.0 - UNIFORM_SHARE) * self._tree.leaves[slots] / total
        probability += UNIFORM_SHARE / count
        weights = ((count * probability) ** -beta).reshape(batches, size)
        weights = (weights / weights.max(axis=1, keepdims=True)).astype(np.float32).ravel()
        return Batch(self.ring.rows(slots), self.ring.ids(slots), weights)

    def forget(self, client: str) -> int:
        """Remove the rows of one client; return their number."""
        before, priorities = len(self.ring), self.priorities.copy()
        kept = self.ring.remove(client)
        self._tree = self._new_tree()
        self._tree.set(np.arange(len(kept)), priorities[kept])
        return before - len(kept)

    def update_priorities(self, ids: Array, errors: Array) -> None:
        """Set priorities of rows by id [B] from their errors [B]; skip overwritten rows."""
        present = self.ring.contains(ids)
        priorities = (np.abs(errors[present]).astype(np.float64) + 1e-6) ** self.alpha
        self._tree.set(ids[present] % self.ring.capacity, priorities)
        self._largest = max(self._largest * DECAY, float(priorities.max(initial=0.0)))

    def state_dict(self) -> dict[str, Any]:
        """Return rows, priorities and the generator's state."""
        return {
            "ring": self.ring.state_dict(),
            "priorities": self.priorities,
            "largest": self._largest,
            "rng": rng_state(self._rng),
        }

    def load_state_dict(self, state_dict: dict[str, Any], /) -> None:
        """Load rows, priorities and generator state; rows of a uniform replay get the largest."""
        slots = self.ring.load_state_dict(state_dict["ring"])
        self._tree = self._new_tree()
        self._largest = float(state_dict.get("largest", 1.0))
        priorities = (
            np.asarray(state_dict["priorities"])[slots]
            if "priorities" in state_dict
            else self._largest
        )
        self._tree.set(np.arange(len(self.ring)), priorities)
        set_rng_state(self._rng, state_dict["rng"])
