"""Replay in which every row is as likely as any other."""

from typing import Any

import numpy as np

from soulsai.replay.ring import Batch, Ring, rng_state, set_rng_state
from soulsai.replay.storage import Room, in_memory
from soulsai.types import Array, Leaf


class UniformReplay:
    """Samples with replacement from the last ``capacity`` rows; all weights are one."""

    def __init__(
        self,
        capacity: int,
        columns: dict[str, Leaf],
        *,
        rng: np.random.Generator,
        room: Room = in_memory,
    ) -> None:
        self.ring = Ring(capacity, columns, room=room)
        self._rng = rng

    def __len__(self) -> int:
        """Return the number of rows held."""
        return len(self.ring)

    def append(self, rows: dict[str, Array]) -> None:
        """Add rows, over the oldest if need be."""
        self.ring.append(rows)

    def sample(self, size: int, *, beta: float) -> Batch:  # noqa: ARG002
        """Draw a batch; ``beta`` has nothing to correct here."""
        slots = self._rng.integers(len(self.ring), size=size)
        return Batch(self.ring.rows(slots), self.ring.ids(slots), np.ones(size, np.float32))

    def forget(self, client: str) -> int:
        """Remove the rows of one client; return how many they were."""
        held = len(self.ring)
        return held - len(self.ring.remove(client))

    def learned(self, ids: Array, errors: Array) -> None:
        """Ignore how wrong the learner was about a batch."""

    def state_dict(self) -> dict[str, Any]:
        """Return the rows and the sampler's state."""
        return {"ring": self.ring.state_dict(), "rng": rng_state(self._rng)}

    def load_state_dict(self, state_dict: dict[str, Any], /) -> None:
        """Take over the rows and the sampler's state of another."""
        self.ring.load_state_dict(state_dict["ring"])
        set_rng_state(self._rng, state_dict["rng"])
