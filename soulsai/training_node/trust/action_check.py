"""Whether a client's actions are those of the weights that it names.

Published weights are run once more on a client's observations. Each step multiplies a stake by
the ratio of its likelihood under a dishonest client to that under an honest one. For an honest
client the stake ever exceeds ``1 / chance`` with a probability of at most ``chance`` (Ville's
inequality), so the check may run for ever and decide at any time.
"""

import copy
import logging
from collections.abc import Callable
from random import Random
from typing import NamedTuple

import numpy as np
import torch
from msgspec import Struct
from torch import Tensor

from soulsai.algorithms.base import Policy, Tensors
from soulsai.algorithms.distributions import distribution
from soulsai.config.schema import ActionCheckMode
from soulsai.training_node.admission import Arrival
from soulsai.training_node.publisher import PublishedVersion
from soulsai.training_node.trust.audit_log import AuditLog
from soulsai.types import MASK, Array, Event, Fragment, Program, RunSpec

CHANCE = 1e-4  # that an honest client is ever reported
WINDOW = 4096  # steps, after which a new stake is set: old honesty must not cover new lies
SHARES = np.array([0.1, 0.3, 1.0])  # of a dishonest client's steps that are dishonest
FIRST = 20  # fragments of a client that are all checked
LATER = 0.125  # share of the later ones
MOST_TIME = 0.02  # share of the node's time that checks may take
MOST_CLIENTS = 4096  # remembered
TOLERANCE = 0.02  # of honest steps may differ all the same: ties, and other arithmetic
NEAR = 1e-3  # of the largest value: actions whose values are that close count as equally good
LOGP_NEAR = 0.05  # by which an honest log-probability may differ
SQUASHED_NEAR = 0.02  # by which a greedy action may
FAR = 5.0  # deviations, beyond which no honest action is drawn

Published = Callable[[int, int], PublishedVersion | None]

log = logging.getLogger(__name__)


class Finding(NamedTuple):
    """The check of one fragment."""

    ratios: Array  # [N, 3] log-likelihood ratios of its steps, for each of ``SHARES``
    text: str


class Stake(Struct):
    """Evidence against one client, begun anew after every window.

    The k-th window may err with ``CHANCE / (k * (k + 1))``, so all together with ``CHANCE``.
    """

    logs: tuple[float, ...] = (0.0, 0.0, 0.0)
    steps: int = 0
    window: int = 1

    def add(self, ratios: Array) -> bool:
        """Add log-likelihood ratios [N, 3]; return whether the evidence is enough."""
        logs = np.asarray(self.logs) + ratios.sum(0)
        self.steps += len(ratios)
        top = float(logs.max())
        wealth = top + float(np.log(np.exp(logs - top).mean()))
        won = wealth >= np.log(self.window * (self.window + 1) / CHANCE)
        if self.steps >= WINDOW or won:
            logs, self.steps, self.window = np.zeros(3), 0, self.window + 1
        self.logs = tuple(logs.tolist())
        return bool(won)


class ActionCheck:
    """Samples fragments, and reports clients with actions that do not follow the weights."""

    def __init__(
        self,
        mode: ActionCheckMode,
        recompute: "Recomputation",
        audit: AuditLog,
        *,
        announce: Callable[[Event], object],
        rng: Random,
        clock: Callable[[], float],
    ) -> None:
        """Check nothing yet.

        Args:
            mode: ``off``, ``report`` (log, event and audit line) or ``quarantine``.
            recompute: Runs published weights on a fragment.
            audit: Receives a line for each client that is reported.
            announce: Publishes an event.
            rng: Draws the fragments to check.
            clock: Monotonic seconds.
        """
        self._mode = mode
        self._recompute = recompute
        self._audit = audit
        self._announce = announce
        self._rng = rng
        self._clock = clock
        self._checked: dict[str, int] = {}  # fragments, by client; the longest quiet is first
        self._stakes: dict[str, Stake] = {}
        self._reports: dict[str, str] = {}
        self._began = clock()
        self._spent = 0.0  # seconds

    def judge(self, arrival: Arrival) -> str:
        """Check an arrival's fragments; return the reason to exclude its client, or ``""``."""
        for fragment in arrival.fragments:
            if self._mode == "off" or not self._is_drawn(fragment.client):
                continue
            began = self._clock()
            finding = self._recompute.check(fragment)
            self._spent += self._clock() - began
            if finding is None:
                continue
            self._checked[fragment.client] += 1
            if self._stakes.setdefault(fragment.client, Stake()).add(finding.ratios):
                if self._mode == "quarantine":
                    return finding.text
                self._report(fragment.client, finding.text)
        return ""

    def report(self, client: str) -> str:
        """Return the first finding against a client, or an empty text."""
        return self._reports.get(client, "")

    def forget(self, client: str) -> None:
        """Forget the evidence against a client."""
        for known in (self._checked, self._stakes, self._reports):
            known.pop(client, None)

    def _is_drawn(self, client: str) -> bool:
        checked = self._checked.pop(client, 0)
        self._checked[client] = checked
        if len(self._checked) > MOST_CLIENTS:
            self.forget(next(iter(self._checked)))
        if checked >= FIRST and self._rng.random() >= LATER:
            return False
        return self._spent <= MOST_TIME * (self._clock() - self._began) + 1.0

    def _report(self, client: str, text: str) -> None:
        if client in self._reports:
            return
        self._reports[client] = text
        log.warning("action check client=%s finding=%r", client, text)
        self._audit.write("action_check", client=client, finding=text)
        self._announce(Event("client", f"{client} may not play with the weights it names: {text}"))


class Recomputation:
    """Runs published weights once more on a client's observations."""

    def __init__(
        self, policy: Policy, program: Program, spec: RunSpec, published: Published
    ) -> None:
        """Copy the network.

        Args:
            policy: The learner's policy; only its structure is used.
            program: The published program; its head says how actions come about.
            spec: The published run.
            published: Returns the weights and exploration of (generation, version), if still kept.
        """
        self._twin = copy.deepcopy(policy.twin()).cpu().eval().requires_grad_(False)
        self._names = self._twin.state_dict()
        self._program = program
        self._spec = spec
        self._published = published
        self._loaded = (-1, -1)

    def check(self, fragment: Fragment) -> Finding | None:
        """Compare a fragment's actions; return ``None`` where nothing can be concluded.

        Steps that a person chose are left out.
        """
        finding = self._compared(fragment)
        if finding is None or fragment.intervened is None:
            return finding
        own = ~fragment.intervened[: len(finding.ratios)]
        return finding._replace(ratios=finding.ratios[own]) if own.any() else None

    def _compared(self, fragment: Fragment) -> Finding | None:
        kept = self._published(fragment.generation, fragment.version)
        if kept is None:
            return None
        at_random = 0.0 if fragment.greedy else kept.exploration.get("random", 0.0)
        by_epsilon = self._program.head.kind == "epsilon_greedy"
        if at_random >= 1.0 or (at_random and not by_epsilon):
            return None
        self._load((fragment.generation, fragment.version), kept.arrays)
        # The memory of a recurrent policy is known before the first step only.
        count = 1 if self._program.memory else len(fragment)
        outputs = self._outputs(fragment, count)
        mask = fragment.obs[MASK][:count] if MASK in fragment.obs else None
        if by_epsilon:
            # Knobs count at once, so a later version's smaller share may have counted: never more.
            epsilon = max(fragment.epsilon, at_random)
            return self._greedy(fragment, outputs["q"].numpy(), mask, epsilon)
        if self._program.head.kind == "squashed":
            return self._squashed(fragment, outputs, count)
        return self._drawn(fragment, outputs, mask, count)

    def _greedy(self, fragment: Fragment, q: Array, mask: Array | None, epsilon: float) -> Finding:
        count = len(q)
        actions = fragment.action[:count].astype(np.int64).reshape(count, -1)
        follows, alike = np.ones(count, np.bool_), np.ones(count)
        edges = np.cumsum(self._spec.spec.action.sizes)[:-1]
        masks = [None] * actions.shape[1] if mask is None else np.split(mask, edges, axis=1)
        for part, valid, action in zip(np.split(q, edges, axis=1), masks, actions.T, strict=True):
            values = part if valid is None else np.where(valid, part, -np.inf)
            choices = part.shape[1] if valid is None else np.maximum(1, valid.sum(1))
            best = values.max(1)
            near = NEAR * np.maximum(1.0, np.abs(np.where(np.isfinite(best), best, 0.0)))
            follows &= (values[np.arange(count), action] >= best - near) | ~np.isfinite(best)
            # the probability that random choices follow
            alike *= (values >= (best - near)[:, None]).sum(1) / choices
        honest = (1.0 - epsilon) * (1.0 - TOLERANCE) + epsilon * alike
        honest = np.clip(honest, 0.0, 1.0 - TOLERANCE)
        text = (
            f"{follows.mean():.0%} of its actions follow version {fragment.version}, "
            f"where {honest.mean():.0%} should"
        )
        return Finding(_ratios(follows, honest, np.clip(alike, 0.01, 0.99)), text)

    def _drawn(
        self, fragment: Fragment, outputs: Tensors, mask: Array | None, count: int
    ) -> Finding:
        action = torch.from_numpy(fragment.action[:count].copy())
        masks = None if mask is None else torch.from_numpy(mask.copy())
        ours = distribution(self._program.head, self._spec.spec.action, outputs, masks).log_prob(
            action
        )
        differs = np.abs(ours.numpy() - fragment.extras["logp"][:count])
        near = differs <= LOGP_NEAR * np.maximum(1.0, np.abs(ours.numpy()))
        text = f"{near.mean():.0%} of its log-probabilities are those of version {fragment.version}"
        ratios = _ratios(near, np.full(count, 1.0 - TOLERANCE), np.full(count, 0.05))
        if self._program.head.kind == "categorical" and not fragment.greedy:
            # The numbers may be right, and the actions drawn without regard to them.
            uniform = 1.0 / self._choices(mask, count) / np.exp(np.maximum(ours.numpy(), -15.0))
            ratios = ratios + np.log((1.0 - SHARES) + SHARES * uniform[:, None])
        return Finding(ratios, text)

    def _squashed(self, fragment: Fragment, outputs: Tensors, count: int) -> Finding:
        mean, deviation = outputs["mean"].numpy(), np.exp(outputs["log_std"].numpy())
        action = fragment.action[:count].astype(np.float64)
        if fragment.greedy:
            fits = np.abs(action - np.tanh(mean)) <= SQUASHED_NEAR
        else:
            inside = np.abs(action) < 0.999  # further out, rounding exceeds the deviation
            before = np.arctanh(np.clip(action, -0.999, 0.999))
            fits = (np.abs(before - mean) <= FAR * deviation) | ~inside
        follows = fits.reshape(count, -1).all(1)
        text = f"{follows.mean():.0%} of its actions are likely under version {fragment.version}"
        return Finding(_ratios(follows, np.full(count, 1.0 - TOLERANCE), np.full(count, 0.3)), text)

    def _choices(self, mask: Array | None, count: int) -> Array:
        sizes = self._spec.spec.action.sizes
        if mask is None:
            return np.full(count, float(np.prod(sizes)))
        parts = np.split(mask, np.cumsum(sizes)[:-1], axis=1)
        choices: Array = np.prod([np.maximum(1, part.sum(1)) for part in parts], axis=0)
        return choices

    def _outputs(self, fragment: Fragment, count: int) -> Tensors:
        obs = {
            name: torch.from_numpy(fragment.obs[name][:count].copy()) for name in self._twin.inputs
        }
        memory = {
            name: torch.from_numpy(rows[None].copy()) for name, rows in fragment.memory.items()
        }
        with torch.inference_mode():
            outputs, _ = self._twin(obs, memory)
        return {name: rows.float() for name, rows in outputs.items()}

    def _load(self, order: tuple[int, int], arrays: dict[str, Array]) -> None:
        if order == self._loaded:
            return
        state: dict[str, Tensor] = {
            name if name in self._names else name.removeprefix("weights."): torch.from_numpy(array)
            for name, array in arrays.items()
        }
        self._twin.load_state_dict(state, strict=False)
        self._loaded = order


def _ratios(hit: Array, honest: Array, liar: Array) -> Array:
    """Return log-likelihood ratios [N, 3] of hits [N].

    Args:
        hit: [N] Whether each step agrees with the weights.
        honest: [N] Least probability of a hit of an honest client.
        liar: [N] Probability of a hit of a dishonest step.
    """
    share = SHARES * np.ones((len(hit), 1))
    honest, liar = honest[:, None], np.minimum(liar, honest)[:, None]
    lying = (1.0 - share) * honest + share * liar
    return np.where(hit[:, None], np.log(lying / honest), np.log((1.0 - lying) / (1.0 - honest)))
