"""Bets against honesty: how much evidence there is, so that the honest are hardly ever accused.

Each observation multiplies a stake by how much likelier it is for a liar than for the honest. If
whoever is observed is honest, the stake ever grows to ``1 / chance`` with at most that chance,
however long one looks (Ville's inequality). So one may look all the time, and stop at any time.
"""

import numpy as np
from msgspec import Struct

from soulsai.types import Array

WINDOW = 4096  # observations, after which a new stake is set: old honesty must not cover new lies
SHARES = np.array([0.1, 0.3, 1.0])  # of what a liar does that may be a lie
POWERS = np.array([0.25, 0.6, 0.25])  # of bets on small p-values


class Stake(Struct):
    """One bet on several kinds of liars at once, set anew after every window.

    The k-th window may err with ``chance / (k * (k + 1))``, so all together with ``chance``.
    """

    chance: float
    logs: tuple[float, ...] = (0.0, 0.0, 0.0)
    seen: int = 0
    window: int = 1

    def bet(self, ratios: Array) -> bool:
        """Take in logarithms of likelihood ratios [N, 3]; return whether the stake is won."""
        logs = np.asarray(self.logs) + ratios.sum(0)
        self.seen += len(ratios)
        top = float(logs.max())
        wealth = top + float(np.log(np.exp(logs - top).mean()))
        won = wealth >= np.log(self.window * (self.window + 1) / self.chance)
        if self.seen >= WINDOW or won:
            logs, self.seen, self.window = np.zeros(3), 0, self.window + 1
        self.logs = tuple(logs.tolist())
        return bool(won)


def hits(hit: Array, honest: Array, liar: Array) -> Array:
    """Return log-ratios [N, 3] of hits [N], which the honest have at least with ``honest`` [N].

    Of what a liar does, one of ``SHARES`` hits only with ``liar`` [N].
    """
    share = SHARES * np.ones((len(hit), 1))
    honest, liar = honest[:, None], np.minimum(liar, honest)[:, None]
    lying = (1.0 - share) * honest + share * liar
    return np.where(hit[:, None], np.log(lying / honest), np.log((1.0 - lying) / (1.0 - honest)))


def unlikeness(value: float, others: Array, margin: float) -> Array:
    """Return log-ratios [1, 3] of a value that is like those of others, if the client is honest.

    Values that differ by less than ``margin`` count as alike. The bets are on larger ones, twice,
    and on smaller ones.
    """
    above = np.count_nonzero(others >= value - margin)
    below = np.count_nonzero(others <= value + margin)
    p_values = np.array([above, above, below]) + 1.0
    ratios: Array = np.log(POWERS) + (POWERS - 1.0) * np.log(p_values / (len(others) + 1))
    return ratios[None]
