"""On-policy rollouts: fragments as rows, one per step and one more at the end of each segment."""

from collections.abc import Sequence
from itertools import pairwise

import numpy as np
from msgspec import Struct

from soulsai.types import Array, Fragment


class Rollout(Struct, frozen=True, eq=False):
    """F fragments in R rows.

    Consecutive fragments of an episode form a *segment*. Each segment ends with a row that is not
    a step but holds its last observation, so the observation after the step in row r is in row
    r + 1. In rows that are no steps, action, reward and ``logp`` are zero.
    """

    fragments: Sequence[Fragment]
    obs: dict[str, Array]  # [R, ...]
    action: Array  # [R, ...]
    reward: Array  # [R]
    logp: Array  # [R] log-probability under the behaviour policy
    step: Array  # [R] whether this row is a step
    intervened: Array  # [R] whether a person chose the action
    end: Array  # [R] true in the last step of a segment and in the row of its last observation
    terminated: Array  # [R]
    first: Array  # [F] first row of each fragment
    follows: Array  # [F] whether a fragment continues the previous one

    def __len__(self) -> int:
        """Return the number of steps."""
        return int(self.step.sum())

    @property
    def fragment(self) -> Array:
        """The index of the fragment of each row [R]."""
        return np.repeat(np.arange(len(self.first)), self.rows)

    @property
    def rows(self) -> Array:
        """The number of rows of each fragment [F]."""
        return np.diff(self.first, append=len(self.step))


def lay_out(fragments: Sequence[Fragment]) -> Rollout:
    """Return a rollout of one or more fragments, independent of their order."""
    fragments = sorted(fragments, key=_order)
    follows = np.array([False, *(_continues(*pair) for pair in pairwise(fragments))])
    last = np.append(~follows[1:], True)  # [F] whether a fragment ends its segment
    steps = np.array([len(fragment) for fragment in fragments])
    rows = steps + last
    final = np.cumsum(rows) - 1 - last  # [F] the row of each fragment's last step
    step = np.ones(rows.sum(), bool)
    step[final[last] + 1] = False
    end = ~step
    end[final[last]] = True
    terminated = np.zeros(len(step), bool)
    terminated[final] = [fragment.terminated for fragment in fragments]
    obs = {
        name: np.concatenate(
            [f.obs[name][:count] for f, count in zip(fragments, rows, strict=True)]
        )
        for name in fragments[0].obs
    }
    return Rollout(
        fragments,
        obs,
        _by_row(np.concatenate([f.action for f in fragments]), step),
        _by_row(np.concatenate([f.reward for f in fragments]).astype(np.float64), step),
        _by_row(np.concatenate([f.extras["logp"] for f in fragments]), step),
        step,
        _by_row(np.concatenate([_marks(f) for f in fragments]), step),
        end,
        terminated,
        np.cumsum(rows) - rows,
        follows,
    )


def client_weights(clients: Sequence[str], steps: Sequence[int]) -> Array:
    """Weight fragments so that no client contributes more than the mean client.

    Variable experience rollout (arXiv:2210.05064): ``min(1, mean steps / this client's steps)``.

    Args:
        clients: The client of each fragment [F].
        steps: The number of steps of each fragment [F].

    Returns:
        Weights [F], at most 1.
    """
    names, index = np.unique(np.asarray(clients), return_inverse=True)
    total = np.bincount(index, weights=steps, minlength=len(names))
    weights: Array = np.minimum(1.0, total.mean() / total)[index]
    return weights


def sequences(rollout: Rollout, longest: int) -> tuple[Array, Array, Array]:
    """Cut rows into sequences of whole fragments, for backpropagation through time.

    Args:
        rollout: The rows; fragments of one segment share a sequence while it fits.
        longest: Steps of a sequence, exceeded only by a single fragment.

    Returns:
        The rows of each of S sequences [S, L], a mask of those that are no padding [S, L], and the
        index of each sequence's first fragment [S].
    """
    begins: list[int] = []
    length = 0
    for fragment, (follows, steps) in enumerate(
        zip(rollout.follows, map(len, rollout.fragments), strict=True)
    ):
        if not follows or length + steps > longest:
            begins.append(fragment)
            length = 0
        length += steps
    first = rollout.first[begins]
    lengths = np.diff(first, append=len(rollout.step))
    place = np.arange(lengths.max())
    real = place < lengths[:, None]
    return np.where(real, first[:, None] + place, first[:, None]), real, np.array(begins)


def _order(fragment: Fragment) -> tuple[str, int, int, int]:
    return fragment.client, fragment.epoch, fragment.episode, fragment.start


def _continues(one: Fragment, other: Fragment) -> bool:
    end = (one.client, one.epoch, one.episode, one.start + len(one))
    return not one.ended and _order(other) == end


def _marks(fragment: Fragment) -> Array:
    marks = fragment.intervened
    return np.zeros(len(fragment), np.bool_) if marks is None else marks


def _by_row(values: Array, step: Array) -> Array:
    """Scatter the values of steps into rows [R, ...], zero elsewhere."""
    rows = np.zeros((len(step), *values.shape[1:]), values.dtype)
    rows[step] = values
    return rows
