"""Elastic PPO: its objective, what it may learn from, and that it goes on where it was."""

import copy
import math

import numpy as np
import pytest
import torch

from soulsai.algorithms.ppo.estimates import explained_variance, gae, standardized, surrogate
from soulsai.algorithms.ppo.learner import PPO
from soulsai.algorithms.ppo.rollouts import lay_out
from soulsai.config.schema import AlgorithmSettings, Config, RunSettings
from soulsai.errors import ConfigError
from soulsai.testing import ToyEnv
from soulsai.training_node.saving import state_file
from soulsai.training_node.start import build_algorithm
from soulsai.types import ActionSpec, Leaf, Spec
from tests.unit.algorithms.ppo.ppo_cases import DISCRETE, Fleet, cut, fragment, ppo, spec

BOX = ActionSpec("box", (2,), (), (-1.0, -2.0), (1.0, 2.0))


def batch(count=4, *, steps=16, first=0, **what):
    """Enough for an update: a terminated, a truncated and two cut episodes."""
    ends = ({"terminated": True}, {"truncated": True}, {}, {})
    return [fragment(steps, episode=first + i, **{**ends[i % 4], **what}) for i in range(count)]


def weights(algorithm):
    parts = {**algorithm.policy.state_dict(), **algorithm.critic.state_dict()}
    return torch.cat([part.flatten() for part in parts.values()])


def learn(algorithm, *arrivals):
    return list(algorithm.learn(iter([*arrivals, []])))


def random_losses():
    generator = torch.Generator().manual_seed(0)
    now, prox, acted, advantage = torch.randn(
        4, 500, dtype=torch.float64, generator=generator
    ) * torch.tensor([[0.3], [0.3], [0.3], [1.0]])
    return now.requires_grad_(), prox, acted, advantage


def test_6_fresh_experience_has_the_loss_and_the_gradient_of_ppo():
    now, acted, _, advantage = random_losses()
    weight = (acted - acted).exp()
    ours = surrogate((now - acted).exp(), advantage, weight, 0.2).mean()
    ratio = (now - acted).exp()
    plain = torch.min(ratio * advantage, ratio.clamp(0.8, 1.2) * advantage).mean()
    assert ours.item() == plain.item()
    slopes = [torch.autograd.grad(loss, now)[0] for loss in (ours, plain)]
    assert torch.equal(*slopes)


def test_6_the_objective_is_that_of_ppo_ewma():
    """There the clipping interval moves: around how much the proximal policy differs."""
    now, prox, acted, advantage = random_losses()
    ours = surrogate((now - prox).exp(), advantage, (prox - acted).exp(), 0.2)
    ratio, centre = (now - acted).exp(), (prox - acted).exp()
    clipped = torch.clamp(ratio, 0.8 * centre, 1.2 * centre)
    theirs = torch.min(ratio * advantage, clipped * advantage)
    assert torch.allclose(ours, theirs, rtol=0, atol=1e-12)


def test_nothing_is_gained_beyond_the_clip_but_losses_count():
    ratio = torch.tensor([2.0, 0.5, 2.0, 0.5])
    gain = surrogate(ratio, torch.tensor([1.0, 1.0, -1.0, -1.0]), torch.ones(4), 0.2)
    assert gain.tolist() == pytest.approx([1.2, 0.5, -2.0, -0.8])


def test_standardized_values_have_weighted_mean_0_and_deviation_1():
    rng = np.random.default_rng(0)
    values, share = rng.normal(5, 3, 100), rng.random(100)
    result = standardized(values, share)
    assert np.average(result, weights=share) == pytest.approx(0)
    assert np.average(result**2, weights=share) == pytest.approx(1)
    assert standardized(np.ones(3), np.ones(3)).tolist() == [0, 0, 0]


def test_explained_variance():
    goal = np.array([1.0, 2.0, 3.0])
    assert explained_variance(goal, goal) == 1
    assert explained_variance(np.zeros(3), goal) == 0
    assert explained_variance(goal, np.ones(3)) == 0


def test_a_batch_makes_a_version_and_its_metrics_tell_its_health():
    algorithm = ppo(spec(), minibatch=64, epochs=1)
    before = weights(algorithm)
    (metrics,) = learn(algorithm, batch(), batch(2, first=9))
    assert not torch.equal(weights(algorithm), before)
    assert all(map(math.isfinite, metrics.values()))
    assert metrics["batch_steps"] == 64
    assert metrics["ratio"] == pytest.approx(1)  # nothing has moved before the only step
    assert metrics["kl"] == pytest.approx(0, abs=1e-6)
    assert metrics["weight"] == pytest.approx(1, rel=0.02)  # the first policy is near uniform
    assert metrics["ess"] == pytest.approx(1, rel=0.02)
    assert metrics["lag"] == 0
    assert metrics["epochs"] == 1
    expected = {"clip_fraction", "explained_variance", "dropped_stale", "entropy", "lr", "skipped"}
    assert expected <= metrics.keys()
    assert algorithm.policy.eager
    assert algorithm.policy.extras == {"logp": Leaf((), "<f4")}


def test_weights_of_experience_are_capped():
    algorithm = ppo(spec(), weight_cap=1.5)
    rare = batch()
    for each in rare:
        each.extras["logp"][:8] = -20.0
    (metrics,) = learn(algorithm, rare)
    assert 1.0 < metrics["weight"] <= 1.5
    assert metrics["ess"] < 1.0


def test_goals_are_those_of_the_estimator_with_scaled_rewards():
    algorithm = ppo(spec(), gamma=0.9, gae_lambda=0.7, minibatch=64, epochs=1)
    critic = copy.deepcopy(algorithm.critic)
    fragments = batch()
    algorithm.batches.arrived(fragments)
    update = algorithm._begin(*algorithm.batches.take())
    rollout = lay_out(fragments)
    with torch.no_grad():
        value = critic(torch.from_numpy(rollout.obs["obs"]))[:, 0].double().numpy()
    reward = algorithm.rewards.scaled(rollout.reward)
    following = np.append(value[1:], 0.0)
    _, goal = gae(reward, value, following, 0.9 * ~rollout.terminated, rollout.end, 0.7)
    got = update.rollout["numbers"][:, 2].numpy()
    assert got[rollout.step] == pytest.approx(goal[rollout.step], abs=1e-5)


def test_10_what_comes_twice_late_or_from_evaluation_changes_no_weight():
    results = []
    for disturbed in (False, True):
        algorithm = ppo(spec(), max_lag=1)
        for i in range(4):
            arrivals = batch(first=10 * i, version=i)
            if disturbed:
                arrivals = [*arrivals[:3], *arrivals[:3], *batch(2, first=90 + 9 * i, greedy=True)]
                arrivals += batch(first=10 * i, version=i)[3:]
                arrivals += batch(first=10 * (i - 3), version=i - 3) if i >= 3 else []
            learn(algorithm, arrivals)
        results.append((weights(algorithm), algorithm.batches.dropped))
    (calm, _), (disturbed, dropped) = results
    assert torch.equal(calm, disturbed)
    assert (dropped.duplicates, dropped.stale, dropped.greedy) == (12, 64, 128)


def test_experience_that_hardly_counts_must_be_younger_and_that_is_said(caplog):
    algorithm = ppo(spec(), max_lag=4)
    for i in range(5):
        assert not caplog.messages
        arrivals = batch(first=10 * i, version=i)
        for j, each in enumerate(arrivals):  # one of four acted as we never would, and counts
            each.extras["logp"] += np.float32(9.0 if j % 4 else -9.0)
        (metrics,) = learn(algorithm, arrivals)
        assert metrics["ess"] < 0.5
    assert metrics["max_lag"] == 2
    assert "ppo.max_lag is 2" in caplog.text


def test_the_order_of_arrival_does_not_matter():
    fragments = [*cut(fragment(32), [9, 20]), *batch(2, client="b")]
    results = [ppo(spec()) for _ in range(2)]
    for algorithm, order in zip(results, (1, -1), strict=True):
        learn(algorithm, fragments[::order])
    assert torch.equal(*map(weights, results))


def test_epochs_stop_when_the_policy_has_moved_far_enough():
    far, near = ppo(spec(), lr=1.0, target_kl=0.0), ppo(spec(), lr=1.0, target_kl=0.02)
    assert learn(far, batch())[0]["epochs"] == 2
    assert learn(near, batch())[0]["epochs"] < 2


def test_rates_go_down_over_the_planned_steps():
    algorithm = ppo(spec(), steps=256, anneal_clip=True)
    rates = [learn(algorithm, batch(first=10 * i, version=i))[0] for i in range(4)]
    assert [rate["lr"] for rate in rates] == pytest.approx([0.0075, 0.005, 0.0025, 0.0])
    assert [rate["clip"] for rate in rates] == pytest.approx([0.15, 0.1, 0.05, 0.0])
    unknown = ppo(spec(), steps=0)
    assert learn(unknown, batch())[0]["lr"] == 0.01


def test_a_gradient_that_is_not_finite_is_skipped_and_counted():
    algorithm = ppo(spec(), target_kl=0.0)
    before = weights(algorithm)
    bad = batch()
    bad[0].extras["logp"][3] = np.nan
    (metrics,) = learn(algorithm, bad)
    assert metrics["skipped"] == 8
    assert torch.equal(weights(algorithm), before)


def test_observation_statistics_count_every_step_once():
    algorithm = ppo(spec(), normalize_obs=True)
    fragments = batch(8)
    learn(algorithm, fragments[:4])
    learn(algorithm, fragments[4:], fragments)
    rows = np.concatenate([f.obs["obs"][:-1] for f in fragments])
    assert algorithm.normalizer.statistics.mean == pytest.approx(rows.mean(0))
    observation = algorithm.network.observation
    assert observation.mean.numpy() == pytest.approx(rows.mean(0))
    assert observation.inv_std.numpy() == pytest.approx(1 / rows.std(0))


def test_11_a_fast_client_does_not_drown_the_others():
    flooded = [*batch(40, client="fast"), *batch(4, client="slow", steps=8)]
    shares = []
    for balance in (False, True):
        algorithm = ppo(spec(), batch_steps=672, balance=balance)
        algorithm.batches.arrived(flooded)
        update = algorithm._begin(*algorithm.batches.take())
        step, share = update.rollout["step"], update.rollout["numbers"][:, 4]
        slow = share[step][-32:].sum()
        shares.append((slow / share[step].sum()).item())
    assert shares[0] == pytest.approx(32 / 672)
    assert shares[1] == pytest.approx(32 / (32 + 336))


class Ticking:
    """A clock by which each look takes a second."""

    def __init__(self):
        self.now = 0.0

    def __call__(self):
        self.now += 1.0
        return self.now


def test_long_updates_ask_for_arrivals_in_between_and_grant_nothing():
    algorithm = ppo(spec(), clock=Ticking(), pace="hold")
    asked, granted = 0, []

    def arrivals():
        nonlocal asked
        yield batch(7)
        while True:
            asked += 1
            granted.append(algorithm.policy.quota)
            yield []

    generator = algorithm.learn(arrivals())
    next(generator)
    assert asked == 8  # minibatches
    assert granted == [0] * 8
    assert algorithm.policy.quota == 128 - 48


def test_realtime_clients_never_wait():
    assert ppo(spec(), realtime=True).policy.quota is None
    assert ppo(spec()).policy.quota == 128
    assert ppo(spec(), max_lag=0).policy.quota == 64
    with pytest.raises(ConfigError, match=r"ppo\.max_lag"):
        ppo(spec(), realtime=True, max_lag=0)


def test_settings_left_open_suit_the_actions():
    torch.set_num_threads(1)
    config = Config(algorithm=AlgorithmSettings("ppo"), run=RunSettings(max_env_steps=10))
    discrete = build_algorithm(config, spec(DISCRETE), seed=0)
    box = build_algorithm(config, spec(BOX), seed=0)
    assert isinstance(discrete, PPO)
    assert isinstance(box, PPO)
    assert not discrete.network.observation.normalizes
    assert box.network.observation.normalizes
    assert discrete.resolved.epochs < box.resolved.epochs
    with pytest.raises(ConfigError, match=r"ppo\.hidden"):
        ppo(spec(), hidden=())


# ---- the same again, and going on ----

TOY = Spec({"obs": Leaf((4,), "<f4")}, DISCRETE)


def toy(**changes):
    return ppo(TOY, seed=5, max_lag=0, normalize_obs=True, steps=2000, **changes)


def test_12_clients_in_lockstep_repeat_themselves_exactly():
    results = []
    for _ in range(2):
        algorithm = toy()
        for _ in algorithm.learn(Fleet(algorithm, TOY, ToyEnv, seed=1).arrivals(400)):
            pass
        results.append(weights(algorithm))
    assert torch.equal(*results)


@pytest.fixture(scope="module")
def recorded():
    """All that came in some iterations, and the weights that came of it."""
    algorithm, arrived = toy(clock=Ticking()), []
    fleet = Fleet(algorithm, TOY, ToyEnv, seed=1, steps=7)

    def arrivals():
        for fragments in fleet.arrivals(600):
            arrived.append(fragments)
            yield fragments

    for _ in algorithm.learn(arrivals()):
        pass
    return arrived, weights(algorithm)


def resumed(arrived, at, *, without=""):
    """Learn, crash after so many arrivals, and go on from what was saved."""
    before = toy(clock=Ticking())
    for _ in before.learn(iter(arrived[:at])):
        pass
    files = {
        name: b"".join(state_file.encode(part.state_dict())) for name, part in before.parts.items()
    }
    after = PPO(before.config, TOY, seed=99, steps=2000, realtime=False, clock=Ticking())
    for name, part in after.parts.items():
        if name != without:
            part.load_state_dict(state_file.decode(files[name]))
    for _ in after.learn(iter(arrived[at:])):
        pass
    return after


@pytest.mark.parametrize("share", [0.1, 0.35, 0.5, 0.75, 0.9])
def test_12_a_resumed_run_is_the_same_run(recorded, share):
    arrived, expected = recorded
    assert torch.equal(weights(resumed(arrived, int(share * len(arrived)))), expected)


@pytest.mark.parametrize("left_out", toy().parts)
def test_12_no_part_can_be_left_out(recorded, left_out):
    arrived, expected = recorded
    middle = next(  # an update is under way, and more is waiting than it learns from
        i for i in range(len(arrived) // 2, len(arrived)) if arrived[i] == [] != arrived[i - 1]
    )
    after = resumed(arrived, middle - 1, without=left_out)
    assert not torch.equal(weights(after), expected)


@pytest.mark.parametrize("estimator", ["gae", "vtrace"])
def test_a_walk_to_a_goal_is_learnt(estimator):
    algorithm = ppo(
        TOY, seed=1, batch_steps=512, minibatch=64, epochs=6, hidden=(32,), estimator=estimator
    )
    fleet = Fleet(algorithm, TOY, ToyEnv, clients=8, steps=32, seed=1)
    for _ in algorithm.learn(fleet.arrivals(9_000)):
        pass
    assert np.mean(fleet.rewards[-50:]) > 0.8


class Thrust:
    """Repeat the number shown, scaled to the bounds; a step is an episode, and 0 the best reward.

    Action 0 earns -1/3 on average.
    """

    def __init__(self, low, high):
        self.low, self.high = np.float32(low), np.float32(high)

    def reset(self, *, seed=None):
        if seed is not None:
            self.rng = np.random.default_rng(seed)
        self.goal = self.rng.uniform(-1.0, 1.0)
        return np.array([self.goal], "<f4"), {}

    def step(self, action):
        assert self.low <= action <= self.high
        share = (float(action[0]) - float(self.low)) / (float(self.high) - float(self.low))
        reward = -((2.0 * share - 1.0 - self.goal) ** 2)
        return np.array([0.0], "<f4"), reward, True, False, {}


def test_actions_of_any_bounds_are_learnt_alike():
    """PPO's first setting for boxes, on boxes that differ in their units alone."""
    means = {}
    for low, high in [(-1.0, 1.0), (-2e3, 2e3), (-1e-3, 1e-3), (0.0, 512.0)]:
        thrust = spec(ActionSpec("box", (1,), low=(low,), high=(high,)), width=1)
        algorithm = ppo(
            thrust, seed=1, batch_steps=256, minibatch=64, epochs=10, hidden=(16,), lr=3e-3
        )
        fleet = Fleet(algorithm, thrust, lambda low=low, high=high: Thrust(low, high), seed=1)
        for _ in algorithm.learn(fleet.arrivals(8_000)):
            pass
        means[low, high] = np.mean(fleet.rewards[-1000:])
    assert list(means.values()) == pytest.approx([means[-1.0, 1.0]] * 4, rel=0.05)
    assert means[-1.0, 1.0] > -0.2


def test_steps_of_a_greedy_episode_are_counted_apart_and_learnt_from_once_it_explores():
    algorithm = ppo(spec(), batch_steps=64)
    greedy = [fragment(16, start=16 * i, greedy=True) for i in range(6)]
    exploring = [fragment(16, start=16 * i) for i in range(6, 10)]
    (metrics,) = algorithm.learn([greedy, exploring, []])
    assert metrics["greedy_steps"] == 96
    assert algorithm.policy.dropped == 0
    assert metrics["batch_steps"] == 64


class Mixed(Thrust):
    """Say the sign of the number shown, too; the best reward is 1, that of chance about 0.2."""

    def step(self, action):
        sign = action[0] == (self.goal > 0)
        obs, reward, *over = super().step(action[1:])
        return obs, reward + float(sign), *over


def test_choices_and_numbers_are_learnt_together():
    mixed = spec(ActionSpec("hybrid", (2,), (2,), (-200.0,), (200.0,)), width=1)
    algorithm = ppo(mixed, seed=1, batch_steps=256, minibatch=64, epochs=10, hidden=(16,), lr=3e-3)
    fleet = Fleet(algorithm, mixed, lambda: Mixed(-200.0, 200.0), seed=1)
    for _ in algorithm.learn(fleet.arrivals(8_000)):
        pass
    assert np.mean(fleet.rewards[-1000:]) > 0.75
