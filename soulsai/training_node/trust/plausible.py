"""Whether a client's world is like the others': its observations move, its rewards are of a size.

Clients are compared with those of the same kind only (what they play, greedy or not), with recent
experience only, and only where there are enough others: a fleet of two cannot say who lies.
"""

from collections import deque
from typing import NamedTuple

import numpy as np

from soulsai.training_node.trust.evidence import hits, unlikeness
from soulsai.types import Array, Episode, Fragment

BLOCK = 64  # env steps of one client that make one observation of ours
KEPT = 64  # blocks, and episodes, kept per client and kind
OTHERS = 2  # clients to compare with, at least
ENOUGH = 48  # blocks or episodes of theirs, at least
FACTOR = np.log(2.5)  # by which honest clients may differ in the size of their rewards
STILL = 0.95  # of a block: from there on, its observations stand still
MOVING = 0.05  # share of still blocks that is common anywhere

Kind = tuple[str, bool]  # what is played, and whether greedily


class Finding(NamedTuple):
    """One test of one client: its name, log-ratios [N, 3] to bet on, and a line about it."""

    test: str
    ratios: Array
    said: str


class _World:
    """What is remembered of one client in one kind."""

    def __init__(self) -> None:
        self.steps = 0
        self.still = 0
        self.moved = 0.0
        self.root_rewards = 0.0
        self.rewards: deque[float] = deque(maxlen=KEPT)  # per block, the logarithm of their size
        self.jumps: deque[float] = deque(maxlen=KEPT)  # per block, that of the mean change
        self.stills: deque[bool] = deque(maxlen=KEPT)  # per block
        self.returns: deque[float] = deque(maxlen=KEPT)  # per episode


class Plausibility:
    """Remembers the fleet's recent blocks and episodes, and compares each new one with them."""

    def __init__(self, moving: tuple[str, ...]) -> None:
        """Compare jumps in ``moving``: the leaves whose numbers have a distance."""
        self._moving = moving
        self._kinds: dict[Kind, dict[str, _World]] = {}

    def steps(self, fragment: Fragment, played: str) -> list[Finding]:
        """Take in steps; return findings whenever a block is full."""
        world = self._world((played, fragment.greedy), fragment.client)
        still, moved = _motion(fragment, self._moving)
        world.steps += len(fragment)
        world.still += still
        world.moved += moved
        world.root_rewards += float(np.sqrt(np.abs(fragment.reward)).sum())
        if world.steps < BLOCK:
            return []
        # Its size by the mean root: one large reward at the end must not hide all the others.
        reward = 2.0 * float(np.log(world.root_rewards / world.steps + 1e-9))
        jump = float(np.log(world.moved / world.steps + 1e-9))
        is_still = world.still >= STILL * world.steps
        world.steps = world.still = 0
        world.moved = world.root_rewards = 0.0
        others = self._others((played, fragment.greedy), fragment.client)
        findings = []
        stills = [one for other in others for one in other.stills]
        if _enough(others, len(stills)):
            honest = 1.0 - min(0.9, max(MOVING, 2.0 * float(np.mean(stills))))
            moves = np.array([not is_still])
            ratios = hits(moves, np.array([honest]), np.array([0.02]))
            findings.append(Finding("still", ratios, "its observations stand still"))
            rewards = np.array([one for other in others for one in other.rewards])
            jumps = np.array([one for other in others for one in other.jumps])
            findings += [
                _compared("reward", reward, rewards, FACTOR, "the size of its rewards"),
                _compared("jump", jump, jumps, FACTOR, "how far its observations jump"),
            ]
        world.stills.append(is_still)
        world.rewards.append(reward)
        world.jumps.append(jump)
        return findings

    def episode(self, episode: Episode, played: str) -> list[Finding]:
        """Take in an episode; return what it says."""
        kind = (played, episode.greedy)
        world, others = self._world(kind, episode.client), self._others(kind, episode.client)
        returns = np.array([one for other in others for one in other.returns])
        world.returns.append(episode.reward)
        if not _enough(others, len(returns)):
            return []
        low, high = np.quantile(returns, [0.1, 0.9])
        return [
            _compared(
                "return", episode.reward, returns, float(high - low), "the return of its episodes"
            )
        ]

    def forget(self, client: str) -> None:
        """Let what a client has shown no longer count as usual."""
        for worlds in self._kinds.values():
            worlds.pop(client, None)

    def _world(self, kind: Kind, client: str) -> _World:
        return self._kinds.setdefault(kind, {}).setdefault(client, _World())

    def _others(self, kind: Kind, client: str) -> list[_World]:
        worlds = self._kinds.get(kind, {})
        return [world for other, world in worlds.items() if other != client]


def _enough(others: list[_World], number: int) -> bool:
    heard = sum(bool(world.stills or world.returns) for world in others)
    return heard >= OTHERS and number >= ENOUGH


def _compared(test: str, value: float, others: Array, margin: float, what: str) -> Finding:
    return Finding(test, unlikeness(value, others, margin), f"{what} is not like the others'")


def _motion(fragment: Fragment, moving: tuple[str, ...]) -> tuple[int, float]:
    """Return the number of steps that changed no observation, and how far all of them moved."""
    same = np.ones(len(fragment), bool)
    moved = 0.0
    for name, rows in fragment.obs.items():
        flat = rows.reshape(len(rows), -1)
        same &= (flat[1:] == flat[:-1]).all(1)
        if name in moving:
            moved += float(np.sqrt(np.abs(np.diff(flat, axis=0)).mean(1)).sum())
    return int(same.sum()), moved
