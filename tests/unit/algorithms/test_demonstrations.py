"""The equations of learning from demonstrations, by number, and their bookkeeping."""

import copy
import itertools
from functools import partial

import msgspec
import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch.distributions import Normal, TanhTransform, TransformedDistribution

from soulsai.algorithms.distributions import squashed_log_prob
from soulsai.algorithms.dqn import update as dqn_update
from soulsai.algorithms.dqn.cloning import clone, conservative_penalty
from soulsai.algorithms.dqn.learner import DQN
from soulsai.algorithms.dqn.margin import MARGIN, large_margin_loss
from soulsai.algorithms.normalize import ASSUMED
from soulsai.algorithms.sac import update as sac_update
from soulsai.algorithms.settings import DemonstrationSettings
from soulsai.errors import ConfigError
from soulsai.replay.ring import owner
from soulsai.types import MASK
from tests.contract.algorithm_cases import CASES, make, stream
from tests.unit.algorithms.learning_cases import cut, episode, settings, spec

SETTINGS = DemonstrationSettings(data=("x",))
SHOWN = [name for name in CASES if name.endswith(", demonstrations")]
REPLAYED = [name for name in SHOWN if not name.startswith("ppo")]
DONE = torch.ones(1, dtype=torch.bool)  # of a batch of one update


def demonstrated(**changes):
    learner = DQN(settings(n_step=3), spec(), seed=0, steps=0, realtime=False)
    learner.prepare_demonstrations(DemonstrationSettings(data=("x",), **changes))
    return learner


def test_1_the_large_margin_loss_is_that_of_dqfd():
    """Equation 2 of arXiv:1704.03732, a sum written out."""
    rng = np.random.default_rng(0)
    q = rng.normal(size=(50, 4))
    shown = rng.integers(4, size=50)
    found = large_margin_loss(torch.tensor(q), torch.tensor(shown), None, (4,))
    for row, action, loss in zip(q, shown, found, strict=True):
        margins = [0.0 if a == action else MARGIN for a in range(4)]
        assert loss.item() == pytest.approx(max(row + margins) - row[action])
    assert (found >= 0).all()


def test_1_the_large_margin_loss_ends_where_the_margin_is_kept():
    q = torch.tensor([[1.0, 1.0 - MARGIN, 0.0], [1.0, 1.1 - MARGIN, 0.0]], requires_grad=True)
    loss = large_margin_loss(q, torch.tensor([0, 0]), None, (3,))
    assert loss.tolist() == pytest.approx([0.0, 0.1])
    (gradient,) = torch.autograd.grad(loss[1], q)
    assert gradient.tolist() == [[0, 0, 0], [-1, 1, 0]]


def test_1_invalid_choices_have_no_margin():
    q = torch.tensor([[1.0, 99.0, 0.9]])
    mask = torch.tensor([[True, False, True]])
    loss = large_margin_loss(q, torch.tensor([0]), mask, (3,))
    assert loss.item() == pytest.approx(0.9 + MARGIN - 1.0)
    nothing = large_margin_loss(q, torch.tensor([0]), torch.zeros(1, 3, dtype=torch.bool), (3,))
    assert nothing.item() == 0.0


def test_1_several_components_share_the_mean():
    q = torch.randn(20, 5)
    action = torch.stack((torch.randint(3, (20,)), torch.randint(2, (20,))), 1)
    both = large_margin_loss(q, action, None, (3, 2))
    one = large_margin_loss(q[:, :3], action[:, 0], None, (3,))
    other = large_margin_loss(q[:, 3:], action[:, 1], None, (2,))
    assert torch.allclose(both, (one + other) / 2)


def test_2_a_clone_step_follows_the_gradient_of_both_losses():
    learner = demonstrated()
    learner.demonstrate([episode(40)])
    batch = learner.experience.sample_demonstrations()
    rows = {name: torch.from_numpy(column) for name, column in batch.rows.items()}
    weights = torch.from_numpy(batch.weights)
    online = copy.deepcopy(learner.policy)
    before = learner.learner.weights.clone()
    now, then = (online.observation.parts({"obs": rows[f"{n}obs.obs"]}) for n in ("", "next_"))
    every = torch.arange(len(weights))
    with torch.no_grad():
        best = online.quantiles(then).mean(2).argmax(1)
        future = learner.target.quantiles(then)[every, best]
        goal = rows["ret"][:, None] + rows["discount"][:, None] * future
    quantiles = online.quantiles(now)
    error = goal[:, None, :] - quantiles[every, rows["action"].long()][:, :, None]
    level = ((torch.arange(4) + 0.5) / 4)[None, :, None]
    huber = F.huber_loss(error, torch.zeros_like(error), reduction="none")
    td = ((level - (error.detach() < 0).float()).abs() * huber).mean(2).sum(1)
    q = quantiles.mean(2)
    margin = large_margin_loss(q, rows["action"], None, (3,))
    loss = (weights * (td + margin)).mean()
    parts = torch.autograd.grad(loss, list(online.parameters()))
    gradient = torch.cat([part.reshape(-1) for part in parts])
    report, told, agreement = clone(learner.learner, rows, weights, learner.config)
    assert report.norm.item() == pytest.approx(gradient.norm().item(), rel=1e-4)
    assert told.item() == pytest.approx((weights * margin).mean().item(), rel=1e-5)
    assert agreement.item() == pytest.approx(
        (q.argmax(1) == rows["action"].long()).float().mean().item()
    )
    moved = learner.learner.weights - before  # Adam's first step has the gradient's sign
    large = gradient.abs() > 1e-3 * gradient.abs().max()
    assert (torch.sign(moved[large]) == -torch.sign(gradient[large])).all()


def test_3_the_likelihood_of_squashed_actions_is_that_of_torch():
    mean, log_std = torch.randn(64, 2), torch.randn(64, 2) * 0.3
    law = TransformedDistribution(Normal(mean, log_std.exp()), TanhTransform(cache_size=0))
    action = torch.tanh(mean + 0.5 * torch.randn(64, 2)).clamp(-0.99, 0.99)
    assert torch.allclose(
        squashed_log_prob(mean, log_std, action), law.log_prob(action).sum(-1), atol=1e-3
    )
    assert squashed_log_prob(mean, log_std, torch.ones(64, 2)).isfinite().all()


def test_4_the_conservative_penalty_is_that_of_cql():
    """Equation 4 of arXiv:2006.04779: log-sum-exp of all values minus that of the data's action."""
    q = torch.randn(30, 4, dtype=torch.float64)
    action = torch.randint(4, (30,))
    found = conservative_penalty(q, action, (4,))
    wanted = [np.log(np.exp(row).sum()) - row[a] for row, a in zip(q.numpy(), action, strict=True)]
    assert found.tolist() == pytest.approx(wanted)
    grown = q.clone().requires_grad_(True)
    (slope,) = torch.autograd.grad(conservative_penalty(grown, action, (4,)).sum(), grown)
    assert torch.allclose(slope, q.softmax(1) - F.one_hot(action, 4))


@pytest.mark.parametrize("share", [0.0, 0.25, 0.5, 1.0])
def test_5_a_share_of_each_batch_is_demonstrated(share):
    learner = demonstrated(share=share)
    learner.demonstrate([episode(40, client="shown")])
    learner.experience.ingest(cut(episode(60), [30]))
    size = learner.config.batch_size
    wanted = min(size - 1, round(share * size))
    replay = learner.experience.demonstrations.replay
    for _ in range(5):
        batch = learner.experience.sample()
        assert learner.experience.shown == wanted
        own, shown = batch.ids[: size - wanted], batch.ids[size - wanted :]
        for ids, ring in ((own, learner.experience.replay.ring), (shown, replay.ring)):
            assert ring.contains(ids).all()
        assert len(batch.weights) == size
        first = replay.ring.rows(shown % replay.ring.capacity)
        np.testing.assert_array_equal(batch.rows["obs.obs"][size - wanted :], first["obs.obs"])
        learner.experience.update_priorities(batch, torch.arange(1.0, size + 1)[None], DONE)
    assert (replay.ring.owners[:40] == owner("shown")).all()


def test_5_priorities_go_to_the_replay_of_their_row():
    learner = demonstrated(share=0.5)
    learner.demonstrate([episode(40, client="shown")])
    learner.experience.ingest([episode(60)])
    batch = learner.experience.sample()
    errors = torch.where(torch.arange(16) < 8, 3.0, 7.0)
    learner.experience.update_priorities(batch, errors[None], DONE)
    alpha = learner.config.priority_alpha
    own, shown = learner.experience.replay, learner.experience.demonstrations.replay
    assert own.priorities[batch.ids[:8]] == pytest.approx((3.0 + 1e-6) ** alpha)
    assert shown.priorities[batch.ids[8:]] == pytest.approx((7.0 + 1e-6) ** alpha)


def test_6_demonstrations_are_never_overwritten():
    learner = demonstrated(capacity=50)
    learner.demonstrate([episode(40)])
    learner.demonstrate([episode(30, number=1)])
    shown = learner.experience.demonstrations
    assert (len(shown), shown.left_out) == (50, 20)
    assert shown.replay.ring.columns["obs.obs"][:40, 1].tolist() == [0] * 40
    learner = demonstrated(capacity=30)
    with pytest.raises(ConfigError, match=r"demonstrations\.capacity: 40 transitions"):
        learner.demonstrate([episode(40)])


def test_6_masks_and_returns_are_as_in_the_first_replay():
    whole = episode(20, masked=True)
    made = settings(n_step=3), spec(masked=True)
    learners = [DQN(*made, seed=0, steps=0, realtime=False) for _ in "ab"]
    learners[0].experience.ingest([whole])
    learners[1].prepare_demonstrations(DemonstrationSettings(data=("x",)))
    learners[1].demonstrate([whole])
    one = learners[0].experience.replay.ring.rows(np.arange(20))
    other = learners[1].experience.demonstrations.replay.ring.rows(np.arange(20))
    for name, column in one.items():
        np.testing.assert_array_equal(column, other[name], name)
    np.testing.assert_array_equal(other[f"obs.{MASK}"], whole.obs[MASK][:-1])


def test_6_a_batch_holds_the_masks_of_what_was_shown():
    made = settings(n_step=3), spec(masked=True)
    learner = DQN(*made, seed=0, steps=0, realtime=False)
    learner.prepare_demonstrations(DemonstrationSettings(data=("x",)))
    learner.experience.ingest([episode(30, masked=True)])
    batch = learner.experience.sample()
    assert batch.rows[f"obs.{MASK}"].all(), "nothing is imitated of experience"
    learner.demonstrate([episode(40, number=1, masked=True)])
    batch = learner.experience.sample()
    shown = learner.experience.shown
    ring = learner.experience.demonstrations.replay.ring
    wanted = ring.rows(batch.ids[-shown:])[f"obs.{MASK}"]
    np.testing.assert_array_equal(batch.rows[f"obs.{MASK}"][-shown:], wanted)
    assert batch.rows[f"obs.{MASK}"][:-shown].all()


def test_11_only_demonstrations_are_imitated_and_less_and_less():
    learner = DQN(settings(), spec(), seed=0, steps=100, realtime=False)
    learner.prepare_demonstrations(DemonstrationSettings(data=("x",), imitation=3.0))
    learner.demonstrate([episode(40)])
    weights = []
    for number in range(3):
        learner.experience.ingest([episode(50, number=number)])
        batch = learner.experience.sample()
        shown = learner.experience.shown
        assert (batch.rows["imitation"][:-shown] == 0).all()
        weights.append(set(batch.rows["imitation"][-shown:].tolist()))
    assert weights == [{1.5}, {0.0}, {0.0}]


def test_11_without_a_planned_end_the_weight_stays():
    learner = demonstrated(imitation=0.5)
    learner.demonstrate([episode(40)])
    learner.experience.ingest([episode(500)])
    assert learner.experience.imitation == 0.5


def test_12_an_update_follows_the_gradient_of_imitation_too(monkeypatch):
    """The sum of both losses of DQfD, with the margin on the demonstrations alone."""
    gradients, seen, step = [], [], dqn_update.step

    def recorded(learner, td, gradient, config):
        seen.append(gradient.clone())
        return step(learner, td, gradient, config)

    monkeypatch.setattr(dqn_update, "step", recorded)
    for imitation in (0.0, 2.0):
        learner = demonstrated(imitation=imitation)
        learner.demonstrate([episode(40)])
        learner.experience.ingest([episode(60, number=1)])
        batch = learner.experience.sample()
        rows = {name: torch.from_numpy(column) for name, column in batch.rows.items()}
        # Weights of rows with equal priorities are equal, and would show nothing.
        weights = torch.linspace(0.2, 1.0, len(batch.weights))
        online, shown = copy.deepcopy(learner.policy), learner.experience.shown
        q = online.quantiles(online.observation.parts({"obs": rows["obs.obs"]})).mean(2)
        margin = large_margin_loss(q[-shown:], rows["action"][-shown:], None, (3,))
        loss = imitation * (weights[-shown:] * margin).sum() / len(weights)
        parts = torch.autograd.grad(loss, list(online.parameters()), allow_unused=True)
        seen.clear()
        dqn_update.update(learner.learner, rows, weights, learner.config)
        pairs = zip(parts, online.parameters(), strict=True)
        wanted = torch.cat([
            (torch.zeros_like(one) if part is None else part).reshape(-1) for part, one in pairs
        ])  # fmt: skip
        gradients.append((seen[0], wanted))
    (plain, nothing), (both, imitated) = gradients
    assert not nothing.any()
    assert imitated.abs().max() > 0.01
    assert torch.allclose(both - plain, imitated, atol=1e-5)


def test_13_numbers_are_imitated_in_proportion_to_the_values():
    """Equation 5 of arXiv:2106.06860 with alpha 1, the normalisation on the other side."""
    rng = torch.Generator().manual_seed(1)
    mean, action = torch.randn(8, 2, generator=rng), torch.rand(8, 2, generator=rng) * 2 - 1
    value, weight = torch.randn(8, generator=rng) * 50, torch.tensor([0.0] * 4 + [0.5] * 4)
    found = sac_update.imitation_loss(mean, value, sac_update.Imitation(action, weight))
    distances = ((np.tanh(mean.numpy()) - action.numpy()) ** 2).mean(1)
    wanted = 0.5 * distances[4:].mean() * np.abs(value.numpy()).mean()
    assert found.item() == pytest.approx(wanted, rel=1e-5)
    nothing = sac_update.Imitation(action, torch.zeros(8))
    assert sac_update.imitation_loss(mean, value, nothing).item() == 0.0


def test_13_the_actor_s_loss_is_the_sum_of_both():
    case = CASES["sac, demonstrations"]
    learner = make(case)
    learner.experience.ingest(list(itertools.chain(*stream(case, 200))))
    batch = learner.experience.sample()
    rows = {name: torch.from_numpy(column) for name, column in batch.rows.items()}
    names = learner.policy.inputs
    obs = learner.policy.observation.parts({name: rows[f"obs.{name}"] for name in names})
    noise = torch.randn(len(batch.ids), rows["action"].flatten(1).shape[1])
    critics = partial(learner.critics.quantiles, generator=None)
    given = (learner.policy.parameters_of, critics, obs, noise, torch.ones(1))
    imitation = sac_update.imitation_in(rows)
    assert (imitation.weight > 0).sum() == learner.experience.shown
    both, plain = sac_update.actor_loss(*given, imitation), sac_update.actor_loss(*given)
    assert both[0].item() > plain[0].item()
    assert both[1].item() == plain[1].item()
    assert sac_update.imitation_in({}) is None


@pytest.mark.parametrize("name", SHOWN)
def test_7_no_version_is_granted_before_the_policy_is_cloned(name):
    algorithm = make(CASES[name])
    steps = CASES[name].config.demonstrations.clone_steps
    quotas = []
    for metrics in itertools.islice(algorithm.learn(iter([[]] * steps)), steps):
        assert np.isfinite(metrics["clone_loss"])
        quotas.append(algorithm.policy.quota)
    assert quotas[:-1] == [0] * (steps - 1)
    assert quotas[-1] > 0
    assert algorithm.policy.exploration.get("random", 0.0) < 1.0


@pytest.mark.parametrize(("name", "most"), [("sac", 0.5), ("dqn, every switch", 0.0)])
def test_7_a_cloned_policy_explores_by_fewer_and_fewer_random_actions(name, most):
    """Without them, sac forgot Pendulum once imitation had become weak; dqn has its own."""
    experience = make(CASES[f"{name}, demonstrations"]).experience
    pace, shares = experience.pace, []
    for experience.planned_steps in (0, 1000):
        for pace.steps in (0, 500, 1000):
            shares.append(experience.random)
    assert shares == pytest.approx([0.0, 0.0, 0.0, most, most / 2, 0.0])


@pytest.mark.parametrize("clone_steps", [0, 5])
def test_14_what_a_cloned_policy_sees_hardly_moves_with_the_first_experience(clone_steps):
    """Without this, a cloned policy forgot all before its first update from experience."""
    learner = demonstrated(clone_steps=clone_steps)
    learner.demonstrate([episode(200)])
    mean, inverse = learner.policy.observation.mean, learner.policy.observation.inv_std
    before = mean.clone(), inverse.clone()
    other = episode(200, client="b")
    other.obs["obs"][:] = other.obs["obs"] + (3.0 / inverse).numpy()
    learner.experience.ingest([other])
    moved = ((mean - before[0]) * before[1]).abs().max().item()
    if clone_steps:
        assert moved < 0.05
        assert torch.allclose(inverse, before[1], rtol=0.2)
    else:
        assert moved > 1.0


@pytest.mark.parametrize("name", SHOWN)
def test_14_every_cloned_policy_sees_through_settled_statistics(name):
    algorithm = make(CASES[name])
    statistics = algorithm.parts["normalizer"].statistics
    assert not statistics.mean.size or statistics.count == 0 or statistics.count >= ASSUMED


@pytest.mark.parametrize("name", SHOWN)
def test_8_cloning_makes_demonstrated_actions_likely(name):
    case = CASES[name]
    more = msgspec.structs.replace(case.config.demonstrations, clone_steps=400)
    longer = case._replace(config=msgspec.structs.replace(case.config, demonstrations=more))
    metrics = list(make(longer).learn(iter([[]] * 400)))
    first = np.mean([each["clone_loss"] for each in metrics[:10]])
    last = np.mean([each["clone_loss"] for each in metrics[-10:]])
    assert last < first - 0.05 * abs(first)


@pytest.mark.parametrize("name", SHOWN)
def test_9_the_metrics_tell_of_demonstrations(name):
    metrics = list(make(CASES[name]).learn(iter(stream(CASES[name], 840))))[-1]
    assert 0.0 <= metrics["demonstration_agreement"] <= 1.0
    assert metrics["demonstrations"] == 41
    if name in REPLAYED:
        assert metrics["demonstration_share"] == 0.5
    else:
        assert 0.0 < metrics["clone_weight"] < 0.1


def test_9_the_weight_of_ppo_s_cloning_decays_as_in_dapg():
    algorithm = make(CASES["ppo, box, demonstrations"])
    weights = [algorithm.demonstrations.weight(k) for k in range(3)]
    assert weights == pytest.approx([0.1, 0.1 * 0.95, 0.1 * 0.95**2])


@pytest.mark.parametrize("name", SHOWN)
def test_a_client_s_demonstrations_can_be_forgotten(name):
    algorithm = make(CASES[name])
    assert algorithm.parts["demonstrations"].forget("nobody") == 0
    assert algorithm.parts["demonstrations"].forget("demonstrations") == 41
    assert len(algorithm.parts["demonstrations"]) == 0
    list(algorithm.learn(iter(stream(CASES[name], 200))))


def test_an_algorithm_that_cannot_is_refused():
    from soulsai.algorithms import build

    class Other:
        class Config(msgspec.Struct):
            pass

        def __init__(self, config, spec, *, seed, steps, realtime):
            pass

    original = build._load
    build._load = lambda name: Other
    try:
        with pytest.raises(ConfigError, match=r"demonstrations\.data: other cannot learn"):
            build.build("other", {}, spec(), seed=0, demonstrations=SETTINGS)
    finally:
        build._load = original


def test_4_the_penalty_of_invalid_choices_is_none():
    q = torch.tensor([[1.0, 50.0, 2.0]])
    mask = torch.tensor([[True, False, True]])
    found = conservative_penalty(q, torch.tensor([2]), (3,), mask)
    assert found.item() == pytest.approx(np.log(np.exp(1.0) + np.exp(2.0)) - 2.0)


def test_4_the_penalty_of_numbers_is_the_log_of_an_integral():
    """Of a value that depends on the action alone, the integral over the square is known."""

    def critics(parts, action):
        return (action**2).sum(1)[:, None, None].expand(-1, 2, 3)

    def actor(parts):
        return torch.zeros(len(parts[0]), 1), torch.full((len(parts[0]), 1), -0.5)

    rng = torch.Generator().manual_seed(0)
    batch, samples = 2, 20_000
    noise = torch.randn(samples * batch, 1, generator=rng)
    uniform = 2.0 * torch.rand(samples * batch, 1, generator=rng) - 1.0
    obs, action = [torch.zeros(batch, 3)], torch.tensor([[0.5], [-1.0]])
    found = sac_update.conservative_penalty(actor, critics, obs, action, noise, uniform)
    grid = np.linspace(-1, 1, 100_001)
    integral = np.log(np.trapezoid(np.exp(grid**2), grid))
    assert found.tolist() == pytest.approx([integral - 0.25, integral - 1.0], abs=0.02)


@pytest.mark.parametrize("name", REPLAYED)
def test_10_offline_updates_lower_values_of_actions_that_the_data_lack(name):
    gaps, case = [], CASES[name]
    learner = case.config.algorithm.name
    fast = msgspec.structs.replace(getattr(case.config, learner), lr=5e-3)
    case = case._replace(config=msgspec.structs.replace(case.config, **{learner: fast}))
    for conservative in (0.0, 100.0):
        algorithm = make(case)
        penalties = [
            algorithm.offline_update(conservative)["conservative_penalty"] for _ in range(300)
        ]
        gaps.append(np.mean(penalties[-20:]))
    assert gaps[1] < gaps[0] - 0.05
