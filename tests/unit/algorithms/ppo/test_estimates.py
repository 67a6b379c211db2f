"""Advantages against loops that anybody can read, and the identities between the estimators."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from soulsai.algorithms.ppo.estimates import CLIP, RewardScale, discounted, gae, scan, vtrace
from soulsai.algorithms.ppo.rollouts import client_weights, lay_out, sequences
from tests.unit.algorithms.ppo.ppo_cases import cut, fragment

GAMMA, LAMBDA = 0.9, 0.8


def case(seed, steps=40):
    """Stretches of random length, of which some terminate."""
    rng = np.random.default_rng(seed)
    end = rng.random(steps) < 0.15
    end[-1] = True
    terminated = end & (rng.random(steps) < 0.5)
    reward, value, following = rng.normal(size=(3, steps))
    following[:-1] = np.where(end[:-1], following[:-1], value[1:])
    ratio = np.exp(rng.normal(size=steps))
    return reward, value, following, GAMMA * ~terminated, end, ratio


@given(st.integers(0, 2**32), st.integers(1, 70))
def test_scan_is_the_loop(seed, steps):
    rng = np.random.default_rng(seed)
    first, factor = rng.normal(size=steps), rng.uniform(-1, 1, steps)
    factor[-1] = 0
    x, expected = 0.0, []
    for t in reversed(range(steps)):
        x = first[t] + factor[t] * x
        expected.append(x)
    assert scan(first, factor) == pytest.approx(np.array(expected[::-1]))


@given(st.integers(0, 2**32))
def test_6_gae_is_the_loop(seed):
    reward, value, following, discount, end, _ = case(seed)
    advantage, goal = gae(reward, value, following, discount, end, LAMBDA)
    running = 0.0
    for t in reversed(range(len(reward))):
        delta = reward[t] + discount[t] * following[t] - value[t]
        running = delta + (0.0 if end[t] else discount[t] * LAMBDA * running)
        assert advantage[t] == pytest.approx(running)
        assert goal[t] == pytest.approx(running + value[t])


@given(st.integers(0, 2**32))
def test_6_vtrace_is_the_loop(seed):
    reward, value, following, discount, end, ratio = case(seed)
    advantage, goal = vtrace(reward, value, following, discount, end, LAMBDA, ratio)
    later_goal = later_value = 0.0
    for t in reversed(range(len(reward))):
        rho, trace = min(1.0, ratio[t]), LAMBDA * min(1.0, ratio[t])
        if end[t]:
            later_goal = later_value = following[t]
        delta = rho * (reward[t] + discount[t] * following[t] - value[t])
        target = value[t] + delta + discount[t] * trace * (later_goal - later_value)
        assert goal[t] == pytest.approx(target)
        assert advantage[t] == pytest.approx(
            rho * (reward[t] + discount[t] * later_goal - value[t])
        )
        later_goal, later_value = target, value[t]


@given(st.integers(0, 2**32))
def test_6_vtrace_of_fresh_experience_aims_at_the_returns_of_gae(seed):
    *arrays, ratio = case(seed)
    _, goal = vtrace(*arrays, LAMBDA, np.ones_like(ratio))
    assert np.allclose(goal, gae(*arrays, LAMBDA)[1], rtol=0, atol=1e-12)


@given(st.integers(0, 2**32))
def test_6_vtrace_of_fresh_experience_with_lambda_1_is_gae_1(seed):
    *arrays, ratio = case(seed)
    advantage, _ = vtrace(*arrays, 1.0, np.ones_like(ratio))
    assert np.allclose(advantage, gae(*arrays, 1.0)[0], rtol=0, atol=1e-12)


@pytest.mark.parametrize("estimate", [gae, vtrace])
def test_7_nothing_leaks_from_one_episode_into_another(estimate):
    def advantages(reward, value, following, discount, end, ratio):
        more = [ratio] if estimate is vtrace else []
        return estimate(reward, value, following, discount, end, LAMBDA, *more)[0]

    one, other = case(3), case(4)
    both = [
        np.concatenate((a, 1e6 * b if a.dtype != bool else b))
        for a, b in zip(one, other, strict=True)
    ]
    assert advantages(*both)[: len(one[0])].tolist() == advantages(*one).tolist()


def test_7_only_termination_forgets_what_would_have_come():
    one = np.ones(1)
    for terminated, expected in ((True, 1.0 - 5.0), (False, 1.0 + GAMMA * 7.0 - 5.0)):
        discount = np.array([0.0 if terminated else GAMMA])
        advantage, _ = gae(one, 5.0 * one, 7.0 * one, discount, one > 0, LAMBDA)
        assert advantage[0] == pytest.approx(expected)


def estimates(fragments):
    """GAE of a rollout whose values are a function of the observation."""
    rollout = lay_out(fragments)
    value = rollout.obs["obs"].sum(1).astype(np.float64)
    following = np.append(value[1:], 0.0)
    discount = GAMMA * ~rollout.terminated
    advantage, _ = gae(rollout.reward, value, following, discount, rollout.end, LAMBDA)
    return advantage[rollout.step]


@pytest.mark.parametrize("how", ["terminated", "truncated", "cut"])
def test_where_an_episode_was_cut_does_not_matter(how):
    whole = fragment(30, terminated=how == "terminated", truncated=how == "truncated")
    others = [fragment(5, client="0"), fragment(7, client="z", terminated=True)]
    pieces = cut(whole, [4, 5, 17])
    assert estimates([*pieces, *others]) == pytest.approx(estimates([*others, whole]))
    assert estimates(pieces[::-1]) == pytest.approx(estimates([whole]))


def test_episodes_side_by_side_are_estimated_as_if_alone():
    fragments = [
        fragment(9, client=client, terminated=i == 0, truncated=i == 1)
        for i, client in enumerate("abcd")
    ]
    alone = np.concatenate([estimates([one]) for one in fragments])
    assert estimates(fragments) == pytest.approx(alone)


def test_7_only_what_terminated_terminates():
    ends = {"terminated": True}, {"truncated": True}, {}
    for i, end in enumerate(ends):
        assert lay_out([fragment(4, **end)]).terminated.sum() == (i == 0)


def test_a_missing_piece_is_no_bridge():
    first, _, last = cut(fragment(30), [10, 20])
    apart = np.concatenate([estimates([first]), estimates([last])])
    assert estimates([first, last]) == pytest.approx(apart)


def test_rows_are_steps_and_what_was_seen_last():
    fragments = [*cut(fragment(5, terminated=True), [2]), fragment(3, client="b")]
    rollout = lay_out(fragments)
    assert len(rollout) == 8
    assert rollout.step.tolist() == [True] * 5 + [False] + [True] * 3 + [False]
    assert rollout.end.nonzero()[0].tolist() == [4, 5, 8, 9]
    assert rollout.terminated.nonzero()[0].tolist() == [4]
    assert rollout.fragment.tolist() == [0, 0, 1, 1, 1, 1, 2, 2, 2, 2]
    assert (rollout.obs["obs"][2:6] == fragments[1].obs["obs"]).all()
    assert rollout.action[~rollout.step].tolist() == [0, 0]


def test_sequences_cover_every_row_once_and_begin_with_a_fragment():
    fragments = [*cut(fragment(40), [10, 20, 30]), fragment(7, client="b")]
    rollout = lay_out(fragments)
    rows, real, begins = sequences(rollout, 25)
    assert begins.tolist() == [0, 2, 4]
    assert sorted(rows[real]) == list(range(len(rollout.step)))
    assert real.sum(1).tolist() == [20, 21, 8]
    assert rows[:, 0].tolist() == rollout.first[begins].tolist()


def test_11_no_client_counts_for_more_than_the_mean_client():
    clients, steps = ["fast"] * 50 + list("abcdefg"), [10] * 57
    weight = client_weights(clients, steps)
    share = dict.fromkeys(clients, 0.0)
    for client, count, one in zip(clients, steps, weight, strict=True):
        share[client] += count * one
    assert max(share.values()) == pytest.approx(570 / 8)
    assert share["a"] == 10  # who is slower than the mean counts in full
    assert client_weights(["a", "b"], [5, 5]).tolist() == [1.0, 1.0]


@given(st.integers(0, 2**32))
def test_discounted_is_the_loop(seed):
    reward, _, _, _, end, carried = case(seed)
    begin = np.append(True, end[:-1])
    earned, expected = 0.0, []
    for t in range(len(reward)):
        earned = reward[t] + GAMMA * (carried[t] if begin[t] else earned)
        expected.append(earned)
    assert discounted(reward, carried, begin, GAMMA) == pytest.approx(np.array(expected))


def test_rewards_are_divided_by_the_deviation_of_discounted_returns():
    scale = RewardScale(GAMMA)
    assert scale.scaled(np.array([3.0, 100.0])).tolist() == [3.0, CLIP]
    whole = fragment(640, truncated=True)
    scale.update(lay_out([whole]))
    earned = discounted(whole.reward.astype(np.float64), np.zeros(640), np.arange(640) == 0, GAMMA)
    assert scale.factor == pytest.approx(1 / earned.std())
    assert scale.scaled(np.array([-1.0]))[0] == pytest.approx(-scale.factor)


def test_the_scale_does_not_depend_on_how_episodes_are_cut_and_mixed():
    def streams(pieces):
        scale = RewardScale(GAMMA)
        for piece in pieces:
            scale.update(lay_out(piece))
        return scale

    one, other = fragment(64), fragment(128, client="b")
    first, second = cut(other, [64])
    whole = streams([[one], [other]])
    parts = streams([cut(one, [5, 9]), [first], [second]])
    assert parts.factor == pytest.approx(whole.factor)
    lost = streams([[one], [second]])
    assert lost.factor != pytest.approx(streams([[one], [fragment(64, client="b")]]).factor)
    saved = RewardScale(GAMMA)
    state = streams([[one], [first]]).state_dict()
    saved.load_state_dict(state)
    saved.update(lay_out([second]))
    assert saved.factor == pytest.approx(whole.factor)
