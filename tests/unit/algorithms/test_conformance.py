"""What a correct off-policy learner does; every one of these has been got wrong somewhere."""

import copy

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from soulsai import heads
from soulsai.algorithms.dqn.learner import DQN
from soulsai.algorithms.dqn.update import td_target
from soulsai.algorithms.n_step_returns import NStepReturns
from soulsai.algorithms.normalize import BLOCK, RunningStatistics
from soulsai.algorithms.quantiles import quantile_huber_loss, quantile_huber_slope
from soulsai.replay.prioritized import UNIFORM_SHARE, PrioritizedReplay
from soulsai.testing import ToyEnv
from soulsai.types import MASK, ActionSpec, Fragment, Leaf, Spec
from tests.unit.algorithms.learning_cases import cut, endless, episode, part, settings, spec

G = 0.5


@pytest.mark.parametrize(
    ("name", "steps", "terminated", "parts", "ret", "discount", "next_obs"),
    [
        (
            "inside",
            6,
            True,
            [(0, 6)],
            [7, 14, 28, 56, 64, 32],
            [8, 8, 8, 0, 0, 0],
            [3, 4, 5, 6, 6, 6],
        ),
        ("truncated", 4, False, [(0, 4)], [7, 14, 12, 8], [8, 8, 16, 32], [3, 4, 4, 4]),
        ("shorter than n", 2, True, [(0, 2)], [4, 4 / 2], [0, 0], [2, 2]),
        ("one step", 1, False, [(0, 1)], [1], [32], [1]),
        ("cut", 4, True, [(0, 2), (2, 4)], [7, 14, 12, 8], [8, 0, 0, 0], [3, 4, 4, 4]),
    ],
)
def test_1_returns_and_discounts(name, steps, terminated, parts, ret, discount, next_obs):
    """Three steps ahead, gamma 1/2, rewards 1, 4, 16, ...: a number shows its parts."""
    whole = episode(steps, terminated=terminated, truncated=not terminated)
    whole.reward[:] = 4.0 ** np.arange(steps)
    returns = NStepReturns(spec(), n=3, gamma=G)
    rows = [returns.assemble([part(whole, a, b)]) for a, b in parts]
    got = {column: np.concatenate([r[column] for r in rows]) for column in rows[0]}
    expected = []
    for t in range(steps):
        k = min(3, steps - t)
        expected.append(sum(G**i * 4.0 ** (t + i) for i in range(k)))
        assert (got["discount"][t] > 0) == (discount[t] > 0)
        if discount[t]:
            assert got["discount"][t] == G**k
    assert got["ret"].tolist() == expected
    assert got["next_obs.obs"][:, 0].tolist() == next_obs


def test_1_nothing_leaks_from_one_episode_into_another():
    one, other = episode(4), episode(5, number=1)
    other.reward[:] = 1e6
    rows = NStepReturns(spec(), n=3, gamma=G).assemble([one, other])
    alone = NStepReturns(spec(), n=3, gamma=G).assemble([one])
    assert rows["ret"][:4].tolist() == alone["ret"].tolist()
    assert (rows["next_obs.obs"][:4] == alone["next_obs.obs"]).all()


@pytest.mark.parametrize(
    ("law", "mean"), [([-2.0, 2.0], 0.0), ([-10.0] + [1.0] * 9, -0.1), ([0.0, 1.0, 5.0], 2.0)]
)
def test_2_quantiles_of_a_law_are_recovered(law, mean):
    levels = (np.arange(8) + 0.5) / 8
    samples = torch.tensor(law)[None]
    predicted = torch.zeros(1, 8)
    for rate in np.geomspace(1.0, 1e-2, 1500):
        predicted = predicted - 8 * float(rate) * quantile_huber_slope(
            predicted, samples, torch.ones(1)
        )
    # the loss is quadratic near the samples, so its minimum is soft: compare with scipy-free truth
    grid = torch.linspace(-11, 6, 3401)
    for i, level in enumerate(levels):
        error = samples[0] - grid[:, None]
        huber = F.smooth_l1_loss(error, torch.zeros_like(error), reduction="none")
        loss = ((level - (error < 0).float()).abs() * huber).mean(1)
        at = (grid - predicted[0, i]).abs().argmin()
        assert loss[at] <= loss.min() + 1e-3, f"level {level}: {predicted[0, i]}"
    assert predicted[0, -1] - predicted[0, 0] > 0.5 * (max(law) - min(law))
    assert (predicted[0].diff() >= -1e-4).all()
    assert predicted.mean().item() == pytest.approx(mean, abs=1.0)


def test_2_one_quantile_is_huber():
    predicted, goal = torch.randn(64, 1) * 3, torch.randn(64, 1)
    expected = F.huber_loss(predicted, goal, reduction="none")[:, 0]
    assert torch.allclose(quantile_huber_loss(predicted, goal), expected)


def test_3_the_goal_s_order_does_not_matter_and_the_prediction_s_does():
    predicted, goal = torch.randn(32, 8).sort().values, torch.randn(32, 8)
    loss = quantile_huber_loss(predicted, goal)
    assert torch.allclose(quantile_huber_loss(predicted, goal[:, torch.randperm(8)]), loss)
    assert (quantile_huber_loss(predicted.flip(1), goal) > loss).all()


def test_4_draws_follow_priorities_and_weights_undo_them():
    replay = PrioritizedReplay(8, {"x": Leaf((), "<f4")}, alpha=0.6, rng=np.random.default_rng(0))
    replay.append({"x": np.arange(8.0)})
    errors = np.array([0.01, 0.1, 0.5, 1, 2, 4, 8, 16])
    replay.update_priorities(np.arange(8), errors)
    share = (errors + 1e-6) ** 0.6
    share = (1 - UNIFORM_SHARE) * share / share.sum() + UNIFORM_SHARE / 8
    batches = [replay.sample(64, beta=1.0) for _ in range(1000)]
    drawn = np.concatenate([b.rows["x"] for b in batches]).astype(int)
    counts = np.bincount(drawn, minlength=8)
    assert (np.abs(counts - share * 64_000) < 5 * np.sqrt(share * 64_000)).all()
    weights = np.concatenate([b.weights * (1 / b.weights)[b.rows["x"].argmin()] for b in batches])
    undone = np.bincount(drawn, weights * share[drawn] / counts[drawn], minlength=8)
    assert undone[share > 0.03] == pytest.approx(undone[-1], rel=0.05)


def test_4_a_stale_write_back_is_ignored():
    replay = PrioritizedReplay(4, {"x": Leaf((), "<f4")}, alpha=1, rng=np.random.default_rng(0))
    replay.append({"x": np.arange(4.0)})
    batch = replay.sample(4, beta=1.0)
    replay.append({"x": np.arange(4.0, 8.0)})
    replay.update_priorities(batch.ids, np.full(4, 99.0))
    assert (replay.priorities == 1.0).all()


def test_5_invalid_actions_neither_act_nor_count():
    s = spec(masked=True)
    algorithm = DQN(settings(double=True), s, seed=0, steps=0, realtime=False)
    with torch.no_grad():  # the third action is by far the best, and not possible
        for net in (algorithm.policy, algorithm.target):
            net.values.dueling = False
            net.values.shape = (4, 4)
            net.values.out.weight.zero_()
            net.values.out.bias.copy_(torch.tensor([1.0, 2.0, 1e6, 0.0]).repeat_interleave(4))
    mask = np.array([[True, True, False, False]] * 10)
    rows = {
        "next_obs.obs": torch.zeros(10, 2),
        f"next_obs.{MASK}": torch.from_numpy(mask),
        "ret": torch.zeros(10),
        "discount": torch.ones(10),
    }
    goal = td_target(
        algorithm.policy.observation.parts,
        algorithm.policy.quantiles,
        algorithm.target.quantiles,
        rows,
        algorithm.config,
    ).detach()
    assert (goal == 2.0).all()
    q = algorithm.policy({"obs": torch.zeros(10, 2)}, {})[0]["q"].detach().numpy()
    for epsilon, at_random in ((0.0, 0.0), (1.0, 0.0), (0.0, 1.0)):
        actions, _ = heads.act(
            algorithm.policy.head,
            ActionSpec("discrete", (), (4,)),
            {"q": q},
            mask=mask,
            greedy=np.zeros(10, bool),
            epsilon=np.full(10, epsilon),
            random=at_random,
            rng=np.random.default_rng(0),
        )
        assert (actions < 2).all()


def test_8_merged_statistics_are_those_of_all_rows():
    rows = np.random.default_rng(0).normal(5, 3, size=(20 * BLOCK, 4))
    for pieces in (1, 7, 100):
        statistics = RunningStatistics(4)
        for piece in np.array_split(rows, pieces):
            statistics.update(piece)
        assert statistics.mean == pytest.approx(rows.mean(0))
        assert statistics.inv_std == pytest.approx(1 / rows.std(0))


def test_9_writing_over_an_observation_buffer_changes_nothing_that_was_taken_in():
    """Keeping views of a reused buffer once cost hundreds of points, silently."""
    whole = episode(60)
    columns = []
    for overwrite in (False, True):
        algorithm = DQN(settings(n_step=3), spec(), seed=0, steps=0, realtime=False)

        def arrivals(overwrite=overwrite):
            for fragment in cut(copy.deepcopy(whole), range(2, 60, 3)):
                yield [fragment]
                if overwrite:
                    for rows in (*fragment.obs.values(), fragment.action, fragment.reward):
                        rows[:] = 77

        for _ in algorithm.learn(arrivals()):
            pass
        columns.append(algorithm.experience.replay.ring.columns)
    assert all((columns[0][name] == columns[1][name]).all() for name in columns[0])


@pytest.mark.parametrize("order", [(0, 1, 2, 3), (0, 2, 1, 3), (3, 2, 1, 0), (1, 3, 0, 2)])
def test_10_a_late_fragment_is_learnt_from_once(order):
    parts = cut(episode(60), [15, 30, 45])
    algorithm = DQN(settings(), spec(), seed=0, steps=0, realtime=False)
    generator = algorithm.learn(endless([parts[i] for i in order]))
    for _ in range(28):
        next(generator)
    replay, returns = algorithm.experience.replay, algorithm.experience.returns
    held = replay.ring.columns["obs.obs"][: len(replay), 0]
    waiting = returns.flush()["obs.obs"][:, 0]  # for what came before them
    assert sorted([*held, *waiting]) == list(range(60))


class Client:
    """One client in lockstep: plays what its quota allows, cuts fragments as it pleases."""

    def __init__(self, algorithm, cuts):
        self.algorithm, self.cuts = algorithm, cuts
        self.rng = np.random.default_rng(7)
        self.env = ToyEnv()
        self.obs, _ = self.env.reset(seed=7)
        self.episode = self.start = 0

    def arrivals(self, steps):
        """Publish whenever the learner starves; give up after so many steps."""
        taken = updates = 0
        while taken < steps:
            quota = self.algorithm.policy.quota
            policy = copy.deepcopy(self.algorithm.policy)
            fragments = []
            while quota > 0:
                fragment = self.play(policy, min(quota, int(self.cuts.integers(1, 40))))
                fragments.append(fragment)
                quota -= len(fragment)
                taken += len(fragment)
            for group in np.array_split(np.arange(len(fragments)), self.cuts.integers(1, 4)):
                yield [fragments[i] for i in group]
            updates = -1
            while updates != self.algorithm.experience.pace.updates:
                updates = self.algorithm.experience.pace.updates
                yield []

    def play(self, policy, limit):
        seen, actions, rewards, ended, cut_off = [self.obs], [], [], False, False
        while len(actions) < limit and not (ended or cut_off):
            with torch.no_grad():
                outputs, _ = policy({"obs": torch.from_numpy(self.obs)[None]}, {})
            action, _ = heads.act(
                policy.head,
                ActionSpec("discrete", (), (3,)),
                {"q": outputs["q"].numpy()},
                mask=None,
                greedy=np.array([False]),
                epsilon=np.array([0.1]),
                random=policy.exploration["random"],
                rng=self.rng,
            )
            self.obs, reward, ended, cut_off, _ = self.env.step(action[0])
            seen.append(self.obs)
            actions.append(action[0])
            rewards.append(reward)
        fragment = Fragment(
            client="one",
            epoch=1,
            episode=self.episode,
            start=self.start,
            clock=0,
            generation=0,
            version=0,
            obs={"obs": np.array(seen)},
            action=np.array(actions),
            reward=np.array(rewards, "<f4"),
            terminated=ended,
            truncated=cut_off,
        )
        self.start += len(actions)
        if ended or cut_off:
            self.obs, _ = self.env.reset()
            self.episode, self.start = self.episode + 1, 0
        return fragment


def test_12_one_client_in_lockstep_repeats_itself_exactly():
    """However fragments were cut, and in whatever groups they came."""
    s = Spec({"obs": Leaf((4,), "<f4")}, ActionSpec("discrete", (), (3,)))
    results = []
    for cuts in (1, 2):
        algorithm = DQN(
            settings(pace="lockstep", learning_starts=100), s, seed=5, steps=600, realtime=False
        )
        client = Client(algorithm, np.random.default_rng(cuts))
        updates = sum(1 for _ in algorithm.learn(client.arrivals(600)))
        assert updates >= 500
        results.append(algorithm)
    one, other = results
    assert one.experience.pace.updates == other.experience.pace.updates
    assert torch.equal(one.learner.weights, other.learner.weights)
    assert torch.equal(one.learner.target_weights, other.learner.target_weights)
    state, same = one.policy.state_dict(), other.policy.state_dict()
    assert all(torch.equal(state[name], same[name]) for name in state)
    assert (one.experience.replay.priorities == other.experience.replay.priorities).all()
