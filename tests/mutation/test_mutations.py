"""Every equation that is got wrong on purpose makes a conformance test fail.

The tests called ``test_<number>_...`` say what any correct learner does. Here one line of the
package at a time is changed, in a copy, into a mistake that somebody has made before.
"""

import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import NamedTuple

import pytest

ROOT = Path(__file__).parents[2]
PACKAGE = ROOT / "soulsai"
OFF_POLICY = (
    "tests/unit/algorithms/test_conformance.py",
    "tests/unit/algorithms/dqn/test_learner.py",
)
ON_POLICY = (
    "tests/unit/algorithms/ppo/test_estimates.py",
    "tests/unit/algorithms/ppo/test_batches.py",
    "tests/unit/algorithms/ppo/test_learner.py",
)
TWINS = ("tests/contract/test_head_twins.py",)
DEMONSTRATED = ("tests/unit/algorithms/test_demonstrations.py",)


class Mutation(NamedTuple):
    mistake: str
    file: str
    right: str
    wrong: str
    tests: tuple[str, ...] = OFF_POLICY


MUTATIONS = (
    Mutation(
        "tau over the goal's axis, in the loss",
        "algorithms/quantiles.py",
        "level = levels(predicted)[:, None]",
        "level = levels(predicted)[None, :]",
    ),
    Mutation(
        "tau over the goal's axis, in the slope",
        "algorithms/quantiles.py",
        "upwards, both = pull.clamp(min=0.0).mean(2), pull.mean(2)\n"
        "    return weights * (level * upwards + (1.0 - level) * (both - upwards))",
        "upwards = pull.clamp(min=0.0)\n"
        "    return weights * (level * upwards + (1.0 - level) * (pull - upwards)).mean(2)",
    ),
    Mutation(
        "levels i / N",
        "algorithms/quantiles.py",
        "device=quantiles.device) + 0.5)",
        "device=quantiles.device))",
    ),
    Mutation(
        "the priority for the importance weight",
        "replay/prioritized.py",
        "weights = ((count * probability) ** -beta).reshape(batches, size)",
        "weights = self._tree.leaves[slots].reshape(batches, size)",
    ),
    Mutation(
        "priorities that nothing is drawn by",
        "replay/prioritized.py",
        "slots = self._tree.find((parts + offset) * (total / rows))",
        "slots = (offset * count).astype(np.int64)",
    ),
    Mutation(
        "values of components added up in the target",
        "algorithms/dqn/update.py",
        "(unscaled(future) if rescale else future).mean(1)",
        "(unscaled(future) if rescale else future).sum(1)",
    ),
    Mutation(
        "advantages centred over all components",
        "algorithms/networks.py",
        "[value + (part - part.mean(1, keepdim=True)) for part in advantages]",
        "[value + (part - out[:, 1:].mean(1, keepdim=True)) for part in advantages]",
    ),
    Mutation(
        "a stale write-back",
        "replay/prioritized.py",
        "present = self.ring.contains(ids)",
        "present = np.ones(len(ids), bool)",
    ),
    Mutation(
        "truncation as termination, n steps ahead",
        "algorithms/n_step_returns.py",
        "stretches.append(Stretch(pieces, closed, fragment.terminated, fragment.client))",
        "stretches.append(Stretch(pieces, closed, fragment.ended, fragment.client))",
    ),
    Mutation(
        "truncation as termination, in rollouts",
        "algorithms/ppo/rollouts.py",
        "terminated[final] = [fragment.terminated for",
        "terminated[final] = [fragment.ended for",
        ON_POLICY,
    ),
    Mutation(
        "always gamma ** n",
        "algorithms/n_step_returns.py",
        "discount = self.gamma**span *",
        "discount = self.gamma**self.n *",
    ),
    Mutation(
        "rewards that leak from one episode into another",
        "algorithms/n_step_returns.py",
        "reward[ahead:] * (span[:-ahead] > ahead)",
        "reward[ahead:]",
    ),
    Mutation(
        "a tail that is dropped where an episode is cut",
        "algorithms/n_step_returns.py",
        "pieces = (waiting, steps)",
        "pieces = (steps,)",
    ),
    Mutation(
        "a late fragment that is lost",
        "algorithms/n_step_returns.py",
        "stretches.append(Stretch((steps,), True, fragment.terminated, fragment.client))",
        "pass",
    ),
    Mutation(
        "advantages that leak from one episode into another",
        "algorithms/ppo/estimates.py",
        "advantage = scan(delta, discount * decay * ~end)",
        "advantage = scan(delta, discount * decay * (np.arange(len(end)) < len(end) - 1))",
        ON_POLICY,
    ),
    Mutation(
        "v-trace without its ratio in the difference",
        "algorithms/ppo/estimates.py",
        "delta = rho * (reward",
        "delta = (reward",
        ON_POLICY,
    ),
    Mutation(
        "v-trace that goes on with its values instead of their targets",
        "algorithms/ppo/estimates.py",
        "next_target = next_value + np.append(excess[1:], 0.0) * ~end",
        "next_target = next_value",
        ON_POLICY,
    ),
    Mutation(
        "observations that are kept as views of somebody's buffer",
        "algorithms/n_step_returns.py",
        "obs = {name: rows[first:].copy() for",
        "obs = {name: rows[first:] for",
    ),
    Mutation(
        "invalid actions in the target",
        "algorithms/dqn/update.py",
        "q = q.masked_fill(~mask, -torch.inf)",
        "pass",
    ),
    Mutation(
        "invalid actions, at random",
        "heads.py",
        "action = best_choices(action_spec.sizes, rng.random(q.shape), mask)",
        "action = best_choices(action_spec.sizes, rng.random(q.shape), None)",
    ),
    Mutation(
        "a gradient through invalid choices",
        "algorithms/distributions.py",
        "    if valid is not None:\n        logits = ",
        "    if valid is None:\n        logits = ",
        TWINS,
    ),
    Mutation(
        "the better of the clipped and the unclipped",
        "algorithms/ppo/estimates.py",
        "torch.minimum(",
        "torch.maximum(",
        ON_POLICY,
    ),
    Mutation(
        "no importance weight",
        "algorithms/ppo/estimates.py",
        "return weight * torch",
        "return torch",
        ON_POLICY,
    ),
    Mutation(
        "variances merged as if the means were equal",
        "algorithms/normalize.py",
        " + delta**2 * (self.count * BLOCK / total)",
        "",
    ),
    Mutation(
        "duplicates that are learnt from",
        "algorithms/ppo/batches.py",
        "if key in self._known:",
        "if False:",
        ON_POLICY,
    ),
    Mutation(
        "experience of any age, on policy",
        "algorithms/ppo/batches.py",
        "old = {order for order in orders if self.ages.lag(order) > self.max_lag}",
        "old: set[Order] = set()",
        ON_POLICY,
    ),
    Mutation(
        "a fast client that counts for more",
        "algorithms/ppo/rollouts.py",
        "np.minimum(1.0, total.mean() / total)[index]",
        "np.ones(len(index))",
        ON_POLICY,
    ),
    Mutation(
        "chance that no seed governs",
        "algorithms/dqn/learner.py",
        "rng=np.random.default_rng(replay_seed)",
        "rng=np.random.default_rng()",
    ),
    Mutation(
        "a margin for the demonstrated action, too",
        "algorithms/dqn/margin.py",
        "torch.full_like(part, MARGIN).scatter(1, shown, 0.0)",
        "torch.full_like(part, MARGIN)",
        DEMONSTRATED,
    ),
    Mutation(
        "imitation of experience, too",
        "algorithms/demonstrations.py",
        "weights[len(weights) - shown :] = weight",
        "weights[:] = weight",
        DEMONSTRATED,
    ),
    Mutation(
        "imitation without importance weights",
        "algorithms/dqn/update.py",
        "(rows[IMITATION] * weights * loss).mean()",
        "(rows[IMITATION] * loss).mean()",
        DEMONSTRATED,
    ),
    Mutation(
        "imitation that does not know the size of the values",
        "algorithms/sac/update.py",
        "(imitation.weight * distance).sum() / shown * value.abs().mean()",
        "(imitation.weight * distance).sum() / shown",
        DEMONSTRATED,
    ),
    Mutation(
        "imitation that experience dilutes",
        "algorithms/sac/update.py",
        "(imitation.weight > 0).sum().clamp_min(1)",
        "len(imitation.weight)",
        DEMONSTRATED,
    ),
    Mutation(
        "a conservative penalty of the best action only",
        "algorithms/dqn/cloning.py",
        "part.logsumexp(1) for part in parts",
        "part.amax(1) for part in parts",
        DEMONSTRATED,
    ),
    Mutation(
        "a conservative penalty without importance weights",
        "algorithms/sac/update.py",
        "critics(repeated, actions).mean(2) - density",
        "critics(repeated, actions).mean(2)",
        DEMONSTRATED,
    ),
    Mutation(
        "the likelihood of a squashed action without its slope",
        "algorithms/distributions.py",
        "- 0.5 * LOG_2PI - log_tanh_slope(before)).sum(-1)",
        "- 0.5 * LOG_2PI).sum(-1)",
        DEMONSTRATED,
    ),
    Mutation(
        "priorities of demonstrations from the errors of experience",
        "algorithms/replay_learner.py",
        "parts.append((self.demonstrations.replay, slice(own, None)))",
        "parts.append((self.demonstrations.replay, slice(own)))",
        DEMONSTRATED,
    ),
)
IDS = [mutation.mistake for mutation in MUTATIONS]


@pytest.mark.parametrize("mutation", MUTATIONS, ids=IDS)
def test_what_is_to_be_mutated_is_there_once(mutation):
    assert (PACKAGE / mutation.file).read_text().count(mutation.right) == 1


@pytest.fixture(scope="module")
def copied(tmp_path_factory):
    """A copy of the package with its conformance tests, which pass there."""
    copy = tmp_path_factory.mktemp("mutated")
    for part in ("soulsai", "tests/unit", "tests/contract"):
        shutil.copytree(ROOT / part, copy / part, ignore=shutil.ignore_patterns("__pycache__"))
    for file in ("pyproject.toml", "tests/conftest.py"):
        shutil.copy(ROOT / file, copy / file)
    failed, said = fails(copy, (*OFF_POLICY, *ON_POLICY, *TWINS, *DEMONSTRATED))
    assert not failed, said
    return copy


@pytest.mark.mutation
@pytest.mark.parametrize("mutation", MUTATIONS, ids=IDS)
def test_a_conformance_test_notices(mutation, copied):
    file = copied / "soulsai" / mutation.file
    right = file.read_text()
    try:
        file.write_text(right.replace(mutation.right, mutation.wrong))
        failed, said = fails(copied, mutation.tests)
    finally:
        file.write_text(right)
    assert failed, said


def fails(where, files) -> tuple[bool, str]:
    """Run the conformance tests of some files there; say whether one fails, as it should."""
    words = ["-m", "pytest", "-x", "-q", "-m", "conformance", "-p", "no:cacheprovider", *files]
    environ = {**os.environ, "PYTHONPATH": str(where), "PYTHONDONTWRITEBYTECODE": "1"}
    ran = subprocess.run(
        [sys.executable, *words],
        cwd=where,
        env=environ,
        capture_output=True,
        text=True,
        check=False,
    )
    said = ran.stdout + ran.stderr
    assert ran.returncode in (0, 1), said  # neither passed nor failed: it did not even run
    return ran.returncode == 1, said
