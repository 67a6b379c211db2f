"""What clients may still send of what versions granted them, as far as a learner can tell."""

from soulsai.types import Fragment

Order = tuple[int, int]  # generation and number of a version


class Grants:
    """The account of env steps that were granted to a fleet and have not come yet.

    A version takes the place of older ones on the clients that get it. Which have got it is known
    only from what they send: once one client has played with it, the others are thought to have
    it, too. Until then, what older versions granted may still be played.
    """

    def __init__(self) -> None:
        self._newest: Order = (0, 0)
        self._open: dict[Order, int] = {}  # steps that may still come of what each version granted
        self._current: Order | None = None  # the version that came out in this iteration

    @property
    def coming(self) -> int:
        """Steps that may still come of what was granted before this iteration."""
        return sum(steps for order, steps in self._open.items() if order != self._current)

    def published(self, newest: Order, granted: int | None) -> bool:
        """Take note of what a version granted, if it is another; say whether it is.

        Another version in the same iteration takes the place of the one before it.
        """
        if newest == self._newest:
            return False
        self._newest = newest
        if granted is not None:
            if self._current is not None:
                self._open.pop(self._current, None)
            self._current = newest
            self._open[newest] = granted
        return True

    def came(self, fragment: Fragment) -> None:
        """Take a fragment's steps off what was granted with its version.

        Greedy episodes go on with the version that they began with, whatever their client has been
        granted since.
        """
        order = (fragment.generation, fragment.version)
        if not fragment.greedy:
            self._open = {other: left for other, left in self._open.items() if other >= order}
        elif self._open:
            order = min(self._open)
        if order in self._open:
            self._open[order] = max(0, self._open[order] - len(fragment))

    def all_but(self, steps: int) -> bool:
        """Say whether this iteration's version is out, and no more than so many steps may come."""
        return self._current is not None and sum(self._open.values()) <= steps

    def updated(self) -> None:
        """Begin the next iteration."""
        self._current = None

    def give_up(self) -> None:
        """Expect nothing more of what was granted."""
        self._open, self._current = {}, None
