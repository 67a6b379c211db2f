"""On-policy fragments laid out in rows: one per step, and one more where a stretch of them ends."""

from collections.abc import Sequence
from itertools import pairwise

import numpy as np
from msgspec import Struct

from soulsai.types import Array, Fragment


class Rollout(Struct, frozen=True, eq=False):
    """F fragments in R rows.

    Fragments that follow one another in an episode form a *stretch*; each stretch ends with a row
    that is not a step but what was seen last. So what was seen after the step in row r stands in
    row r + 1. Where a row is no step, its action, reward and ``logp`` are zeros.
    """

    fragments: Sequence[Fragment]
    obs: dict[str, Array]  # [R, ...]
    action: Array  # [R, ...]
    reward: Array  # [R]
    logp: Array  # [R] log-probability under the weights that acted
    step: Array  # [R] whether this row is a step
    end: Array  # [R] whether no step follows: true of the last step, and of what was seen last
    terminated: Array  # [R]
    first: Array  # [F] the row in which each fragment begins
    follows: Array  # [F] whether a fragment continues the one before it

    def __len__(self) -> int:
        """Return the number of steps."""
        return int(self.step.sum())

    @property
    def fragment(self) -> Array:
        """Return which fragment each row belongs to [R]."""
        return np.repeat(np.arange(len(self.first)), self.rows)

    @property
    def rows(self) -> Array:
        """Return the number of rows of each fragment [F]."""
        return np.diff(self.first, append=len(self.step))


def lay_out(fragments: Sequence[Fragment]) -> Rollout:
    """Return at least one fragment, in an order that does not depend on how they arrived."""
    fragments = sorted(fragments, key=_order)
    follows = np.array([False, *(_continues(*pair) for pair in pairwise(fragments))])
    last = np.append(~follows[1:], True)  # [F] whether a fragment ends its stretch
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
        _spread(np.concatenate([f.action for f in fragments]), step),
        _spread(np.concatenate([f.reward for f in fragments]).astype(np.float64), step),
        _spread(np.concatenate([f.extras["logp"] for f in fragments]), step),
        step,
        end,
        terminated,
        np.cumsum(rows) - rows,
        follows,
    )


def balance(clients: Sequence[str], steps: Sequence[int]) -> Array:
    """Return a weight per fragment [F] by which no client counts for more than the mean client.

    Variable experience rollout (arXiv:2210.05064): ``min(1, mean steps / this client's steps)``.
    """
    who, which = np.unique(np.asarray(clients), return_inverse=True)
    taken = np.bincount(which, weights=steps, minlength=len(who))
    weight: Array = np.minimum(1.0, taken.mean() / taken)[which]
    return weight


def sequences(rollout: Rollout, longest: int) -> tuple[Array, Array, Array]:
    """Cut the rows into sequences of whole fragments, to be remembered through.

    Fragments of one stretch are joined as long as they have no more than ``longest`` steps.
    Returns the rows of each sequence [S, L], which of them are not padding [S, L], and the
    fragment with which each sequence begins [S].
    """
    begins: list[int] = []
    taken = 0
    for fragment, (follows, steps) in enumerate(
        zip(rollout.follows, map(len, rollout.fragments), strict=True)
    ):
        if not follows or taken + steps > longest:
            begins.append(fragment)
            taken = 0
        taken += steps
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


def _spread(values: Array, step: Array) -> Array:
    """Put the values of steps into rows, and zeros between them."""
    rows = np.zeros((len(step), *values.shape[1:]), values.dtype)
    rows[step] = values
    return rows
