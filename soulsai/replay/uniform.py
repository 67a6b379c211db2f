"""Uniform replay: every row is drawn with the same probability."""

from typing import Any

import numpy as np

from soulsai.replay.ring import Batch, Ring, rng_state, set_rng_state
from soulsai.replay.storage import Allocate, in_memory
from soulsai.types import Array, Leaf


class UniformReplay:
    """Samples with replacement from the last ``capacity`` rows; all weights are one.

    Args:
        capacity: Number of rows kept.
        columns: Shape and type of each column.
        rng: Source of randomness.
        allocate: Allocates the columns.
        shared: Whether to store each observation once; else next observations are copies.
    """

    def __init__(
        self,
        capacity: int,
        columns: dict[str, Leaf],
        *,
        rng: np.random.Generator,
        allocate: Allocate = in_memory,
        shared: bool = True,
    ) -> None:
        self.ring = Ring(capacity, columns, allocate=allocate, shared=shared)
        self._rng = rng

    def __len__(self) -> int:
        """Return the number of rows."""
        return len(self.ring)

    def append(self, rows: dict[str, Array]) -> None:
        """Add rows, overwriting the oldest."""
        self.ring.append(rows)

    def sample(self, size: int, *, beta: float, batches: int = 1) -> Batch:  # noqa: ARG002
        """Draw batches one after the other; ``beta`` has no effect: no weight needs correction."""
        slots = self._rng.integers(len(self.ring), size=batches * size)
        return Batch(self.ring.rows(slots), self.ring.ids(slots), np.ones(len(slots), np.float32))

    def forget(self, client: str) -> int:
        """Remove the rows of one client; return their number."""
        before = len(self.ring)
        return before - len(self.ring.remove(client))

    def update_priorities(self, ids: Array, errors: Array) -> None:
        """Ignore the errors: there are no priorities."""

    def state_dict(self) -> dict[str, Any]:
        """Return the rows and the generator's state."""
        return {"ring": self.ring.state_dict(), "rng": rng_state(self._rng)}

    def load_state_dict(self, state_dict: dict[str, Any], /) -> None:
        """Load rows and generator state."""
        self.ring.load_state_dict(state_dict["ring"])
        set_rng_state(self._rng, state_dict["rng"])
