"""The next observations of rows by their place, so that replay keeps each observation once."""

import numpy as np

from soulsai.types import Array, Leaf

# Extra columns of appended rows: numbers of their observations, equal for equal observations, which
# increase from row to row; rows of different clients never share a number.
NUMBER, NEXT_NUMBER = "number", "next_number"

OBS, NEXT_OBS = "obs.", "next_obs."  # prefixes of the columns of both


def twins(columns: dict[str, Leaf]) -> dict[str, str]:
    """Return the columns of next observations that have a column of observations like them.

    Args:
        columns: Shape and type of each column.

    Returns:
        The column of observations by that of next observations.
    """
    names = {name: OBS + name.removeprefix(NEXT_OBS) for name in columns}
    return {
        name: twin
        for name, twin in names.items()
        if name.startswith(NEXT_OBS) and columns.get(twin) == columns[name]
    }


class NextObservations:
    """Finds the next observation of each row of a ring.

    It is the observation of a later row, which goes after this one. If there is none, as at the end
    of an episode or of a fragment, it lies behind the rows of its column, in a place that ends with
    the last row that refers to it; consecutive rows may share it.

    Args:
        columns: Arrays [2C, ...] by column of next observations: C rows, and as many places.
    """

    def __init__(self, columns: dict[str, Array]) -> None:
        self._columns = columns
        length = len(next(iter(columns.values())))
        self._capacity = length // 2
        small = length < np.iinfo(np.int32).max
        # By slot; below C a slot, else a place behind the rows.
        self.places: Array = np.zeros(self._capacity, np.int32 if small else np.int64)
        self._used = 0  # places behind the rows that were ever used, free ones included
        self._free: Array = np.zeros(0, np.int64)

    @property
    def behind(self) -> int:
        """The number of observations behind the rows."""
        return self._used - len(self._free)

    def get(self, slots: Array) -> dict[str, Array]:
        """Return copies of the next observations of the rows in ``slots`` [B]."""
        places = self.places.take(slots)
        return {name: column.take(places, axis=0) for name, column in self._columns.items()}

    def put(self, slots: Array, rows: dict[str, Array]) -> None:
        """Set the next observations of new rows, whose observations are in their columns already.

        Args:
            slots: Slots of the rows [N], the oldest first.
            rows: Next observations [N, ...], and the numbers if there are any.
        """
        count = len(slots)
        if not count:
            return
        each = np.arange(count)
        here, there = rows.get(NUMBER, 2 * each), rows.get(NEXT_NUMBER, 2 * each + 1)
        later = np.minimum(here.searchsorted(there), count - 1)
        linked = (here[later] == there) & (later > each)
        first = ~linked  # of consecutive rows with the same observation
        first[1:] &= there[1:] != there[:-1]
        behind = self._take(int(first.sum()))
        places = slots[later]
        if len(behind):
            places = np.where(linked, places, behind[np.cumsum(first) - 1])
        self.places[slots] = places
        for name, column in self._columns.items():
            column[behind] = rows[name][first]

    def clear(self) -> None:
        """Free all places, because all rows are about to be overwritten."""
        self._used, self._free = 0, np.zeros(0, np.int64)

    def release(self, slots: Array) -> None:
        """Free the places of the oldest rows, which are about to be overwritten; one row is not.

        Args:
            slots: Slots of these rows [N], the oldest first.
        """
        if not len(slots):
            return
        places = self.places[slots]
        following = np.append(places[1:], self.places[(slots[-1] + 1) % self._capacity])
        freed = places[(places >= self._capacity) & (places != following)]
        if len(freed):
            self._free = np.concatenate((self._free, freed))

    def keep(self, kept: Array, removed: Array) -> None:
        """Move rows to the first slots, and free the places of others.

        Args:
            kept: Slots of the rows that remain [N], the oldest first.
            removed: Slots of the others.
        """
        behind = self.places[removed]
        freed = np.setdiff1d(behind[behind >= self._capacity], self.places[kept])
        self._free = np.concatenate((self._free, freed))
        self.places[: len(kept)] = _moved(self.places[kept], kept)

    def state(self, count: int) -> dict[str, Array]:
        """Return the places of the first ``count`` slots, and the observations behind the rows.

        These are counted down from -1 by the slots that refer to them, so that equal rows have
        equal states, wherever their observations lie.
        """
        places = self.places[:count].astype(np.int64)
        is_behind = places >= self._capacity
        behind, first, which = np.unique(places[is_behind], return_index=True, return_inverse=True)
        order = first.argsort()
        places[is_behind] = -1 - order.argsort()[which]
        return {
            "places": places,
            **{name: column[behind[order]] for name, column in self._columns.items()},
        }

    def restore(self, state: dict[str, Array], slots: Array) -> None:
        """Load a state for rows that now are in the first slots.

        Args:
            state: What ``state`` returned, perhaps of a ring of another capacity.
            slots: Slots of these rows in that ring [N], the oldest first.
        """
        saved = np.asarray(state["places"])
        saved = saved[slots]
        is_behind = saved < 0
        behind, which = np.unique(saved[is_behind], return_inverse=True)
        fresh = self._capacity + np.arange(len(behind))
        places = _moved(np.where(is_behind, 0, saved), slots)
        places[is_behind] = fresh[which]
        self.places[: len(slots)] = places
        self.clear()
        self._used = len(behind)
        for name, column in self._columns.items():
            column[fresh] = np.asarray(state[name])[-1 - behind]

    def restore_copies(self, columns: dict[str, Array]) -> None:
        """Load the next observations [N, ...] of the first rows, all of them behind the rows."""
        count = len(next(iter(columns.values())))
        self.clear()
        self._used = count
        self.places[:count] = self._capacity + np.arange(count)
        for name, column in self._columns.items():
            column[self._capacity : self._capacity + count] = columns[name]

    def _take(self, count: int) -> Array:
        """Return free places behind the rows, the ones that were freed last first."""
        left = max(0, len(self._free) - count)
        reused, self._free = self._free[left:], self._free[:left]
        new = self._capacity + self._used + np.arange(count - len(reused))
        self._used += len(new)
        return np.concatenate((reused, new))


def next_columns(columns: dict[str, Array], state: dict[str, Array]) -> dict[str, Array]:
    """Return the next observations [N, ...] of all rows, as copies.

    Args:
        columns: The rows by column [N, ...].
        state: The state of their next observations.
    """
    places = np.asarray(state["places"])
    found = {}
    for name, behind in state.items():
        if name.startswith(NEXT_OBS):
            rows = np.asarray(columns[OBS + name.removeprefix(NEXT_OBS)])
            found[name] = np.concatenate((rows, behind))[
                np.where(places < 0, len(rows) - 1 - places, places)
            ]
    return found


def _moved(places: Array, slots: Array) -> Array:
    """Return places [N] after the rows of ``slots`` [N] have moved to the first slots."""
    if not len(slots):
        return places
    size = int(slots.max()) + 1
    moved = np.zeros(size, np.int64)
    moved[slots] = np.arange(len(slots))
    return np.where(places < size, moved[np.minimum(places, size - 1)], places)
