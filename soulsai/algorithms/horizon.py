"""How far ahead a learner looks: n steps, and gamma; both may grow or shrink at the beginning."""

from msgspec import Struct

from soulsai.types import Array


class Horizon(Struct, frozen=True):
    """What n and gamma are in the end, and where they begin (as in BBF, arXiv:2305.19452)."""

    n: int
    gamma: float
    n_first: int = 0  # 0: n throughout
    gamma_first: float = 0.0  # 0: gamma throughout
    steps: int = 1  # env steps until the end

    @property
    def changes_gamma(self) -> bool:
        """Whether gamma must be put in when rows are drawn, not when they come."""
        return self.gamma_first > 0.0

    def n_at(self, step: int) -> int:
        """Return n after so many env steps: each time it is multiplied, not added to."""
        if not self.n_first:
            return self.n
        n: float = self.n_first * (self.n / self.n_first) ** self._done(step)
        return round(n)

    def gamma_at(self, step: int) -> float:
        """Return gamma after so many env steps: its distance from 1 is multiplied."""
        first, last = 1.0 - self.gamma_first, 1.0 - self.gamma
        if not self.changes_gamma or not first:
            return self.gamma
        away: float = first * (last / first) ** self._done(step)
        return 1.0 - away

    def discount(self, span: Array, step: int) -> Array:
        """Return what is worth what comes after so many steps; after 0, nothing ever comes."""
        worth: Array = (self.gamma_at(step) ** span.astype("<f4") * (span > 0)).astype("<f4")
        return worth

    def _done(self, step: int) -> float:
        return min(1.0, step / self.steps)
