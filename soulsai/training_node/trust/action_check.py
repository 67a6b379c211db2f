"""Whether actions are those of the weights that a client says it acted with."""

import copy
from collections.abc import Callable
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from soulsai.algorithms.base import Policy, Tensors
from soulsai.algorithms.distributions import distribution
from soulsai.training_node.publisher import Kept
from soulsai.training_node.trust.evidence import SHARES, hits
from soulsai.types import MASK, Array, Fragment, Program, RunSpec

SLIP = 0.02  # of honest steps may differ all the same: ties, and other arithmetic
NEAR = 1e-3  # of the largest value: actions whose values are that close count as equally good
LOGP_NEAR = 0.05  # by which an honest log-probability may differ
SQUASHED_NEAR = 0.02  # by which a greedy action may
FAR = 5.0  # deviations, beyond which nobody draws

Published = Callable[[int, int], Kept | None]


class Checked(NamedTuple):
    """What a check of one fragment came to: log-ratios [N, 3] to bet on, and a line about it."""

    ratios: Array
    said: str


class SpotCheck:
    """Runs published weights once more. ``published`` gives weights and knobs, if still kept."""

    def __init__(
        self, policy: Policy, program: Program, spec: RunSpec, published: Published
    ) -> None:
        self._twin = copy.deepcopy(policy.twin()).cpu().eval().requires_grad_(False)
        self._names = self._twin.state_dict()
        self._program = program
        self._spec = spec
        self._published = published
        self._loaded = (-1, -1)

    def check(self, fragment: Fragment) -> Checked | None:
        """Return what speaks against a fragment's actions; ``None`` where nothing can be said."""
        found = self._published(fragment.generation, fragment.version)
        if found is None:
            return None
        at_random = 0.0 if fragment.greedy else found.knobs.get("random", 0.0)
        by_epsilon = self._program.head.kind == "epsilon_greedy"
        if at_random >= 1.0 or (at_random and not by_epsilon):
            return None
        self._load((fragment.generation, fragment.version), found.arrays)
        # What a recurrent policy remembered is known of the first step only.
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

    def _greedy(self, fragment: Fragment, q: Array, mask: Array | None, epsilon: float) -> Checked:
        count = len(q)
        rows = np.arange(count)
        q = np.where(mask, q, -np.inf) if mask is not None else q
        choices = np.full(count, q.shape[1]) if mask is None else np.maximum(1, mask.sum(1))
        best = q.max(1)
        near = NEAR * np.maximum(1.0, np.abs(np.where(np.isfinite(best), best, 0.0)))
        action = fragment.action[:count].astype(np.int64)
        follows = (q[rows, action] >= best - near) | ~np.isfinite(best)
        alike = (q >= (best - near)[:, None]).sum(1) / choices  # that chance alone follows
        honest = (1.0 - epsilon) * (1.0 - SLIP) + epsilon * alike
        honest = np.clip(honest, 0.0, 1.0 - SLIP)
        said = (
            f"{follows.mean():.0%} of its actions follow version {fragment.version}, "
            f"where {honest.mean():.0%} should"
        )
        return Checked(hits(follows, honest, np.clip(alike, 0.01, 0.99)), said)

    def _drawn(
        self, fragment: Fragment, outputs: Tensors, mask: Array | None, count: int
    ) -> Checked:
        action = torch.from_numpy(fragment.action[:count].copy())
        masks = None if mask is None else torch.from_numpy(mask.copy())
        ours = distribution(self._program.head, self._spec.spec.action, outputs, masks).log_prob(
            action
        )
        differs = np.abs(ours.numpy() - fragment.extras["logp"][:count])
        near = differs <= LOGP_NEAR * np.maximum(1.0, np.abs(ours.numpy()))
        said = f"{near.mean():.0%} of its log-probabilities are those of version {fragment.version}"
        ratios = hits(near, np.full(count, 1.0 - SLIP), np.full(count, 0.05))
        if self._program.head.kind == "categorical" and not fragment.greedy:
            # The numbers may be right, and the actions drawn without regard to them.
            uniform = 1.0 / self._choices(mask, count) / np.exp(np.maximum(ours.numpy(), -15.0))
            ratios = ratios + np.log((1.0 - SHARES) + SHARES * uniform[:, None])
        return Checked(ratios, said)

    def _squashed(self, fragment: Fragment, outputs: Tensors, count: int) -> Checked:
        mean, deviation = outputs["mean"].numpy(), np.exp(outputs["log_std"].numpy())
        action = fragment.action[:count].astype(np.float64)
        if fragment.greedy:
            fits = np.abs(action - np.tanh(mean)) <= SQUASHED_NEAR
        else:
            inside = np.abs(action) < 0.999  # further out, the rounding is larger than the law
            before = np.arctanh(np.clip(action, -0.999, 0.999))
            fits = (np.abs(before - mean) <= FAR * deviation) | ~inside
        follows = fits.reshape(count, -1).all(1)
        said = f"{follows.mean():.0%} of its actions are likely under version {fragment.version}"
        return Checked(hits(follows, np.full(count, 1.0 - SLIP), np.full(count, 0.3)), said)

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
