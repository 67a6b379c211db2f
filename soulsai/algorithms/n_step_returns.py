"""n-step returns: fragments become transitions, across the borders of fragments."""

from collections.abc import Sequence
from typing import Any

import numpy as np
from msgspec import Struct

from soulsai.replay.next_observations import NEXT_NUMBER, NUMBER
from soulsai.replay.ring import OWNER, owner
from soulsai.types import MASK, Array, Fragment, Leaf, Spec

SHOWN = "shown"  # extra column, if a person chose the action of any transition
Key = tuple[str, int, int]  # client, epoch, episode


class Horizon(Struct, frozen=True):
    """The number of steps n and the discount gamma, which may change early in a run.

    Both change exponentially, as in BBF (arXiv:2305.19452).
    """

    n: int
    gamma: float
    n_first: int = 0  # at the beginning; 0: n throughout
    gamma_first: float = 0.0  # at the beginning; 0: gamma throughout
    steps: int = 1  # env steps over which they change

    @property
    def changes_gamma(self) -> bool:
        """Whether discounts must be computed when rows are drawn, not when they arrive."""
        return self.gamma_first > 0.0

    def n_at(self, step: int) -> int:
        """Return n at an env step."""
        if not self.n_first:
            return self.n
        n: float = self.n_first * (self.n / self.n_first) ** self._done(step)
        return round(n)

    def gamma_at(self, step: int) -> float:
        """Return gamma at an env step; its distance from 1 changes exponentially."""
        first, last = 1.0 - self.gamma_first, 1.0 - self.gamma
        if not self.changes_gamma or not first:
            return self.gamma
        distance: float = first * (last / first) ** self._done(step)
        return 1.0 - distance

    def discount(self, span: Array, step: int) -> Array:
        """Return the discounts [B] at an env step for spans [B], zero for a span of 0."""
        discount: Array = (self.gamma_at(step) ** span.astype("<f4") * (span > 0)).astype("<f4")
        return discount

    def _done(self, step: int) -> float:
        return min(1.0, step / self.steps)


def transition_columns(spec: Spec, *, masks: bool = False, spans: bool = False) -> dict[str, Leaf]:
    """Return the columns of one n-step transition, as replay stores them.

    ``ret`` is the discounted sum of the next rewards, and ``discount`` the factor of the value of
    ``next_obs``, zero after termination.

    Args:
        spec: Observations and actions of the environment.
        masks: Whether to store the masks of ``obs``, too.
        spans: Whether to store ``span``, the number of steps between the two observations, which
            is zero where the discount is.
    """
    seen = {name: _stored(leaf) for name, leaf in spec.seen.items()}
    columns = {f"obs.{name}": leaf for name, leaf in seen.items()}
    columns |= {f"next_obs.{name}": leaf for name, leaf in seen.items()}
    if MASK in spec.obs:
        columns[f"next_obs.{MASK}"] = spec.obs[MASK]
        if masks:
            columns[f"obs.{MASK}"] = spec.obs[MASK]
    if spans:
        columns["span"] = Leaf((), "<u2")
    columns["action"] = spec.action.leaf
    columns["ret"] = columns["discount"] = Leaf((), "<f4")
    return columns


class Steps(Struct, eq=False):
    """Consecutive steps of one episode, with one observation more than actions."""

    obs: dict[str, Array]
    action: Array
    reward: Array
    shown: Array  # whether a person chose the action
    end: int  # index in the episode of the step after the last

    def last(self, count: int) -> "Steps":
        """Return a copy of the last ``count`` steps (a view would keep a whole message alive)."""
        first = max(0, len(self.reward) - count)
        obs = {name: rows[first:].copy() for name, rows in self.obs.items()}
        action, reward, shown = self.action[first:], self.reward[first:], self.shown[first:]
        return Steps(obs, action.copy(), reward.copy(), shown.copy(), self.end)

    def then(self, following: "Steps") -> "Steps":
        """Return these steps and the following ones, joined."""
        obs = {name: np.concatenate((a[:-1], following.obs[name])) for name, a in self.obs.items()}
        action = np.concatenate((self.action, following.action))
        reward = np.concatenate((self.reward, following.reward))
        shown = np.concatenate((self.shown, following.shown))
        return Steps(obs, action, reward, shown, following.end)


class Stretch(Struct, eq=False):
    """Consecutive steps that are assembled together; ``closed`` if no later step counts."""

    pieces: tuple[Steps, ...]
    closed: bool
    terminated: bool
    client: str

    def __len__(self) -> int:
        """Return the number of steps."""
        return sum(len(piece.reward) for piece in self.pieces)


class NStepReturns:
    """Assembles the transitions of many interleaved episodes; each step becomes one transition.

    The last ``n - 1`` steps of an unfinished episode wait for its next fragment. They are assembled
    with a shorter look-ahead if a fragment between is missing, or if more than ``episodes`` are
    unfinished and this one received nothing for the longest time. A fragment that arrives late is
    assembled on its own.

    Args:
        spec: Observations and actions of the environment.
        n: Number of rewards in a return.
        gamma: Discount per step.
        episodes: Number of unfinished episodes that may wait.
    """

    def __init__(self, spec: Spec, *, n: int, gamma: float, episodes: int = 4096) -> None:
        self.n, self.gamma, self.episodes = n, gamma, episodes
        self._leaves = tuple(spec.seen) + ((MASK,) if MASK in spec.obs else ())
        self._columns = transition_columns(spec, masks=True, spans=True)
        self._waiting: dict[Key, Steps] = {}  # least recently continued first
        self._numbered = 0  # observations of all groups so far

    def __len__(self) -> int:
        """Return the number of steps that wait for their look-ahead."""
        return sum(len(steps.reward) for steps in self._waiting.values())

    def assemble(self, fragments: Sequence[Fragment]) -> dict[str, Array]:
        """Return the transitions that ``fragments`` complete, by column, in order of arrival."""
        stretches: list[Stretch] = []
        for fragment in fragments:
            self._follow(fragment, stretches)
        return self._transitions(stretches)

    def flush(self) -> dict[str, Array]:
        """Return the transitions of all waiting steps, with a shorter look-ahead."""
        stretches = [
            Stretch((steps,), True, False, client)
            for (client, _, _), steps in self._waiting.items()
        ]
        self._waiting.clear()
        return self._transitions(stretches)

    def forget(self, client: str) -> int:
        """Drop the waiting steps of one client; return their number."""
        theirs = [key for key in self._waiting if key[0] == client]
        return sum(len(self._waiting.pop(key).reward) for key in theirs)

    def _follow(self, fragment: Fragment, stretches: list[Stretch]) -> None:
        """Join ``fragment`` with the steps that wait for it, and add the stretch to assemble."""
        key = (fragment.client, fragment.epoch, fragment.episode)
        obs = {name: fragment.obs[name] for name in self._leaves}
        end = fragment.start + len(fragment)
        shown = fragment.intervened
        shown = np.zeros(len(fragment), np.bool_) if shown is None else shown
        steps = Steps(obs, fragment.action, fragment.reward, shown, end)
        waiting = self._waiting.get(key)
        if waiting is not None and fragment.start < waiting.end:
            stretches.append(Stretch((steps,), True, fragment.terminated, fragment.client))
            return
        pieces: tuple[Steps, ...] = (steps,)
        if waiting is not None:
            del self._waiting[key]
            if fragment.start == waiting.end:
                pieces = (waiting, steps)
            else:
                stretches.append(Stretch((waiting,), True, False, fragment.client))
        closed = fragment.ended or self.n == 1
        stretches.append(Stretch(pieces, closed, fragment.terminated, fragment.client))
        if not closed:
            self._keep(key, pieces, stretches)

    def _keep(self, key: Key, pieces: tuple[Steps, ...], stretches: list[Stretch]) -> None:
        """Let the last steps wait; if too many episodes do, assemble the stalest."""
        last = pieces[-1]
        if len(pieces) == 2 and len(last.reward) < self.n - 1:
            last = pieces[0].then(last)
        self._waiting[key] = last.last(self.n - 1)
        if len(self._waiting) > self.episodes:
            stalest = next(iter(self._waiting))
            stretches.append(Stretch((self._waiting.pop(stalest),), True, False, stalest[0]))

    def _transitions(self, stretches: Sequence[Stretch]) -> dict[str, Array]:
        """Compute the returns of all steps at once.

        All stretches lie end to end: T steps in all, and one observation more per stretch.
        """
        if not stretches:
            return {name: np.zeros((0, *c.shape), c.dtype) for name, c in self._columns.items()}
        lengths = np.array([len(stretch) for stretch in stretches])
        which = np.repeat(np.arange(len(stretches)), lengths)  # [T] the stretch of each step
        step = np.arange(len(which))
        left = np.cumsum(lengths)[which] - step  # steps from here to the stretch's end, at least 1
        span = np.minimum(left, self.n)
        closed = np.array([stretch.closed for stretch in stretches])
        terminated = np.array([stretch.terminated for stretch in stretches])
        reward = _join([piece.reward for s in stretches for piece in s.pieces]).astype(np.float64)
        ret = reward.copy()
        for ahead in range(1, min(self.n, len(reward))):
            ret[:-ahead] += self.gamma**ahead * reward[ahead:] * (span[:-ahead] > ahead)
        discount = self.gamma**span * ~(terminated[which] & (left <= self.n))
        complete = np.flatnonzero(closed[which] | (left >= self.n))

        action = _join([piece.action for s in stretches for piece in s.pieces])
        here = (step + which)[complete]
        there = here + span[complete]
        rows = {"action": action[complete], "ret": ret[complete], "discount": discount[complete]}
        owners = np.array([owner(stretch.client) for stretch in stretches], np.uint64)
        rows[OWNER] = owners[which[complete]]
        rows[NUMBER], rows[NEXT_NUMBER] = self._numbered + here, self._numbered + there
        self._numbered += len(which) + len(stretches)
        shown = _join([piece.shown for s in stretches for piece in s.pieces])[complete]
        if shown.any():
            rows[SHOWN] = shown
        for name in self._leaves:
            seen = self._observations(stretches, name)
            rows[f"next_obs.{name}"] = seen.take(there, axis=0)
            rows[f"obs.{name}"] = seen.take(here, axis=0)
            if name == MASK:  # a state without valid actions has no value
                rows["discount"] = rows["discount"] * rows[f"next_obs.{MASK}"].any(-1)
        rows["span"] = span[complete] * (rows["discount"] > 0.0)
        return rows

    def _observations(self, stretches: Sequence[Stretch], name: str) -> Array:
        parts = []
        for stretch in stretches:
            parts += [piece.obs[name][:-1] for piece in stretch.pieces[:-1]]
            parts.append(stretch.pieces[-1].obs[name])
        return _join(parts)

    def state_dict(self) -> dict[str, Any]:
        """Return the waiting steps, and the number of numbered observations."""
        return {
            "numbered": self._numbered,
            "waiting": [
                {
                    "client": client,
                    "epoch": epoch,
                    "episode": episode,
                    "end": steps.end,
                    "obs": dict(steps.obs),
                    "action": steps.action,
                    "reward": steps.reward,
                    "shown": steps.shown,
                }
                for (client, epoch, episode), steps in self._waiting.items()
            ],
        }

    def load_state_dict(self, state_dict: dict[str, Any], /) -> None:
        """Restore the waiting steps."""
        self._numbered = int(state_dict.get("numbered", 0))
        self._waiting = {
            (saved["client"], saved["epoch"], saved["episode"]): Steps(
                {name: np.array(rows) for name, rows in saved["obs"].items()},
                np.array(saved["action"]),
                np.array(saved["reward"]),
                np.array(saved.get("shown", np.zeros(len(saved["reward"]), np.bool_))),
                saved["end"],
            )
            for saved in state_dict["waiting"]
        }


def _join(parts: list[Array]) -> Array:
    return parts[0] if len(parts) == 1 else np.concatenate(parts)


def _stored(leaf: Leaf) -> Leaf:
    """Return a leaf as replay stores it: floats in single precision."""
    kind = np.dtype(leaf.dtype).kind
    return Leaf(leaf.shape, "<f4", leaf.categories, leaf.low, leaf.high) if kind == "f" else leaf
