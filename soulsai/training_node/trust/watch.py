"""Watches over what is admitted: played with the weights it names, in a world like the others."""

from collections.abc import Callable
from random import Random

import numpy as np

from soulsai.training_node.admission import Arrival
from soulsai.training_node.trust.action_check import SpotCheck
from soulsai.training_node.trust.evidence import Stake
from soulsai.training_node.trust.plausible import Finding, Plausibility
from soulsai.types import Fragment, Leaf

CHANCE = 1e-4  # that an honest client is ever accused, per test
FIRST = 20  # fragments of a client that are all checked
LATER = 0.125  # share of those after them
MOST_TIME = 0.02  # of our time that checks of actions may take
MOST = 4096  # clients remembered


class _Known:
    """One client as far as it was watched."""

    def __init__(self) -> None:
        self.played = ""
        self.checked = 0
        self.stakes: dict[str, Stake] = {}


class Watch:
    """Looks at the experience of every client, and says who is caught at what."""

    def __init__(
        self,
        spot_check: SpotCheck,
        leaves: dict[str, Leaf],
        *,
        rng: Random,
        clock: Callable[[], float],
    ) -> None:
        moving = tuple(
            name
            for name, leaf in leaves.items()
            if np.dtype(leaf.dtype).kind == "f" and not leaf.categories
        )
        self._spot_check = spot_check
        self._plausible = Plausibility(moving)
        self._rng = rng
        self._clock = clock
        self._known: dict[str, _Known] = {}
        self._began = clock()
        self._spent = 0.0  # seconds in checks of actions

    def seen(self, arrival: Arrival) -> str:
        """Look at what was let in; return what the client is caught at, or nothing."""
        known = self._client(arrival.client)
        if arrival.hello is not None:
            known.played = arrival.hello.environment
        caught = ""
        for fragment in arrival.fragments:
            findings = self._plausible.steps(fragment, known.played)
            checked = self._checked(fragment, known)
            if checked is not None:
                findings.append(checked)
            caught = caught or _judge(known, findings)
        for episode in arrival.episodes:
            caught = caught or _judge(known, self._plausible.episode(episode, known.played))
        if caught:
            self.forget(arrival.client)
        return caught

    def forget(self, client: str) -> None:
        """Forget what was seen of a client."""
        self._known.pop(client, None)
        self._plausible.forget(client)

    def _checked(self, fragment: Fragment, known: _Known) -> Finding | None:
        began = self._clock()
        if known.checked >= FIRST and self._rng.random() >= LATER:
            return None
        if self._spent > MOST_TIME * (began - self._began) + 1.0:
            return None
        checked = self._spot_check.check(fragment)
        self._spent += self._clock() - began
        if checked is None:
            return None
        known.checked += 1
        return Finding("action", checked.ratios, checked.said)

    def _client(self, name: str) -> _Known:
        known = self._known.pop(name, None) or _Known()
        self._known[name] = known  # last in order: the first is the one longest quiet
        if len(self._known) > MOST:
            self.forget(next(iter(self._known)))
        return known


def _judge(known: _Known, findings: list[Finding]) -> str:
    for finding in findings:
        stake = known.stakes.setdefault(finding.test, Stake(CHANCE))
        if stake.bet(finding.ratios):
            return finding.said
    return ""
