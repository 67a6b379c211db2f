"""Outputs to actions: laws, masks, log-probabilities, and what an environment gets."""

import numpy as np
import pytest
import torch

from soulsai import heads
from soulsai.types import ActionSpec, Head

EPSILON = Head("epsilon_greedy")
DISCRETE = ActionSpec("discrete", (), (4,))
MULTI = ActionSpec("multidiscrete", (2,), (3, 2))
BOX = ActionSpec("box", (2,), low=(-1.0, 0.0), high=(1.0, 10.0))
MANY = 40_000
HUGE = float(np.finfo(np.float32).max)


def rng(seed=0):
    return np.random.default_rng(seed)


def act(head, spec, outputs, *, mask=None, greedy=False, epsilon=0.0, random=0.0, seed=0):
    count = len(next(iter(outputs.values())))
    return heads.act(
        head,
        spec,
        outputs,
        mask=mask,
        greedy=np.full(count, greedy),
        epsilon=np.full(count, epsilon),
        random=random,
        rng=rng(seed),
    )


def shares(actions, size):
    return np.bincount(actions, minlength=size) / len(actions)


def same(row, count=MANY):
    return np.repeat(np.array([row], "<f4"), count, axis=0)


def test_epsilon_covers_the_ladder_and_some_episodes_measure():
    drawn = [heads.explore(EPSILON, {}, r) for r in [rng(1)] for _ in range(20_000)]
    greedy = [e for e in drawn if e.greedy]
    exploring = np.array([e.epsilon for e in drawn if not e.greedy])
    assert len(greedy) / len(drawn) == pytest.approx(0.05, abs=0.01)
    assert all(e.epsilon == 0.0 for e in greedy)
    assert exploring.max() <= 0.4
    assert exploring.min() >= 0.4**8
    assert exploring.mean() == pytest.approx(0.062, abs=0.003)
    assert np.median(exploring) == pytest.approx(0.4**4.5, rel=0.1)


def test_nothing_is_measured_while_the_fleet_acts_at_random_only():
    always = Head("epsilon_greedy", eval_fraction=1.0)
    assert heads.explore(always, {}, rng()).greedy
    assert heads.explore(always, {"random": 0.9}, rng()).greedy
    assert not heads.explore(always, {"random": 1.0}, rng()).greedy
    assert not heads.explore(always, {}, rng(), evaluate=False).greedy


def test_other_heads_explore_by_themselves():
    drawn = heads.explore(Head("categorical", eval_fraction=0.0), {}, rng())
    assert drawn == heads.Exploration(greedy=False, epsilon=0.0)


def test_the_best_action_is_taken_and_has_the_wire_s_type():
    q = np.array([[1, 5, 2, 0], [3, 1, 2, 9]], "<f4")
    actions, extras = act(EPSILON, DISCRETE, {"q": q})
    assert actions.tolist() == [1, 3]
    assert actions.dtype == DISCRETE.leaf.dtype
    assert extras == {}


def test_each_component_takes_its_best_valid_choice():
    q = np.array([[1, 5, 2, 0, 7], [3, 1, 2, 9, 8]], "<f4")
    mask = np.array([[1, 0, 1, 1, 1], [0, 1, 0, 0, 1]], bool)
    assert act(EPSILON, MULTI, {"q": q})[0].tolist() == [[1, 1], [0, 0]]
    actions, extras = act(EPSILON, MULTI, {"q": q}, mask=mask)
    assert actions.tolist() == [[2, 1], [1, 1]]
    assert actions.dtype == MULTI.leaf.dtype
    assert extras == {}


def test_a_random_action_is_random_in_all_components():
    outputs = {"q": same([0, 9, 0, 9, 0])}
    actions, _ = act(EPSILON, MULTI, outputs, epsilon=0.6)
    assert shares(actions[:, 0], 3) == pytest.approx([0.2, 0.6, 0.2], abs=0.01)
    assert shares(actions[:, 1], 2) == pytest.approx([0.7, 0.3], abs=0.01)
    both = (actions == [1, 0]).all(1).mean()
    assert both == pytest.approx(0.4 + 0.6 / 6, abs=0.01)


def test_epsilon_is_the_share_of_uniform_actions_and_greedy_has_none():
    outputs = {"q": same([0, 9, 0, 0])}
    actions, _ = act(EPSILON, DISCRETE, outputs, epsilon=0.4)
    assert shares(actions, 4) == pytest.approx([0.1, 0.7, 0.1, 0.1], abs=0.01)
    actions, _ = act(EPSILON, DISCRETE, outputs, epsilon=0.4, random=1.0)
    assert shares(actions, 4) == pytest.approx([0.25] * 4, abs=0.01)
    actions, _ = act(EPSILON, DISCRETE, outputs, epsilon=0.4, random=1.0, greedy=True)
    assert (actions == 1).all()


@pytest.mark.parametrize(("epsilon", "random"), [(0.4, 0.1), (0.1, 0.4), (0.0, 0.4)])
def test_what_the_run_asks_of_all_is_the_least_share_of_uniform_actions(epsilon, random):
    outputs = {"q": same([0, 9, 0, 0])}
    actions, _ = act(EPSILON, DISCRETE, outputs, epsilon=epsilon, random=random)
    assert shares(actions, 4) == pytest.approx([0.1, 0.7, 0.1, 0.1], abs=0.01)
    actions, _ = act(EPSILON, DISCRETE, outputs, epsilon=epsilon, random=random, greedy=True)
    assert (actions == 1).all()


@pytest.mark.parametrize("how", [{}, {"epsilon": 0.5}, {"random": 1.0}, {"greedy": True}])
@pytest.mark.parametrize("kind", ["epsilon_greedy", "categorical"])
def test_an_invalid_action_is_never_chosen(kind, how):
    scores = rng(3).normal(size=(5000, 4)).astype("<f4")
    mask = rng(4).random((5000, 4)) < 0.5
    mask[:, 2] |= ~mask.any(1)
    name = "q" if kind == "epsilon_greedy" else "logits"
    actions, _ = act(Head(kind), DISCRETE, {name: scores}, mask=mask, **how)
    assert mask[np.arange(5000), actions].all()


def test_random_actions_are_uniform_over_the_valid_ones():
    mask = np.repeat([[True, False, True, True]], MANY, axis=0)
    actions, _ = act(EPSILON, DISCRETE, {"q": same([9, 9, 0, 0])}, mask=mask, random=1.0)
    assert shares(actions, 4) == pytest.approx([1 / 3, 0, 1 / 3, 1 / 3], abs=0.01)


@pytest.mark.parametrize("kind", ["epsilon_greedy", "categorical"])
def test_if_nothing_is_valid_something_is_chosen_all_the_same(kind):
    outputs = {"q": np.ones((3, 4), "<f4"), "logits": np.ones((3, 4), "<f4")}
    actions, extras = act(Head(kind), DISCRETE, outputs, mask=np.zeros((3, 4), bool), epsilon=0.5)
    assert ((actions >= 0) & (actions < 4)).all()
    assert all(np.isfinite(column).all() for column in extras.values())


def test_categorical_draws_the_softmax_and_says_its_logarithm():
    logits = np.array([0.0, 1.0, 2.0, -1.0])
    law = np.exp(logits) / np.exp(logits).sum()
    actions, extras = act(Head("categorical"), DISCRETE, {"logits": same(logits)})
    assert shares(actions, 4) == pytest.approx(law, abs=0.01)
    assert extras["logp"] == pytest.approx(np.log(law)[actions], rel=1e-5)
    actions, _ = act(Head("categorical"), DISCRETE, {"logits": same(logits, 5)}, greedy=True)
    assert (actions == 2).all()


def test_components_are_drawn_on_their_own_and_their_logarithms_add_up():
    logits = np.array([0.0, 1.0, -1.0, 0.5, -0.5])
    actions, extras = act(Head("categorical"), MULTI, {"logits": same(logits)})
    a, b = (np.exp(part) / np.exp(part).sum() for part in (logits[:3], logits[3:]))
    assert actions.shape == (MANY, 2)
    assert shares(actions[:, 0], 3) == pytest.approx(a, abs=0.01)
    assert shares(actions[:, 1], 2) == pytest.approx(b, abs=0.01)
    expected = np.log(a)[actions[:, 0]] + np.log(b)[actions[:, 1]]
    assert extras["logp"] == pytest.approx(expected, rel=1e-5)


def test_gaussian_draws_the_normal_law_unclipped():
    outputs = {"mean": same([0.5, 9.0]), "log_std": same([0.0, np.log(2.0)])}
    actions, extras = act(Head("gaussian"), BOX, outputs)
    assert actions.mean(0) == pytest.approx([0.5, 9.0], abs=0.04)
    assert actions.std(0) == pytest.approx([1.0, 2.0], rel=0.02)
    z = (actions - [0.5, 9.0]) / [1.0, 2.0]
    expected = (-0.5 * z**2 - np.log([1.0, 2.0]) - 0.5 * np.log(2 * np.pi)).sum(1)
    assert extras["logp"] == pytest.approx(expected, abs=1e-4)
    actions, _ = act(Head("gaussian"), BOX, outputs, greedy=True)
    assert (actions == [0.5, 9.0]).all()


def test_squashed_says_the_density_of_the_squashed_action():
    outputs = {"mean": same([0.3, -0.2]), "log_std": same([-1.0, -0.5])}
    actions, extras = act(Head("squashed"), BOX, outputs)
    assert (np.abs(actions) < 1).all()
    u = np.arctanh(actions.astype("f8"))
    z = (u - [0.3, -0.2]) / np.exp([-1.0, -0.5])
    density = (-0.5 * z**2 - [-1.0, -0.5] - 0.5 * np.log(2 * np.pi)).sum(1)
    expected = density - np.log(1 - actions.astype("f8") ** 2).sum(1)
    assert extras["logp"] == pytest.approx(expected, abs=5e-3)


def test_far_out_the_squashed_density_stays_finite():
    outputs = {"mean": same([50.0, -50.0], 4), "log_std": same([2.0, 2.0], 4)}
    _, extras = act(Head("squashed"), BOX, outputs)
    assert np.isfinite(extras["logp"]).all()


@pytest.mark.parametrize(
    ("kind", "low", "high"),
    [
        ("gaussian", [-1, 0], [1, 10]),
        ("scaled_gaussian", [-1, -1], [1, 1]),
        ("squashed", [-1, -1], [1, 1]),
    ],
)
def test_random_box_actions_fill_the_box(kind, low, high):
    outputs = {"mean": same([0, 0]), "log_std": same([0, 0])}
    actions, _ = act(Head(kind), BOX, outputs, random=True)
    width = np.subtract(high, low)
    assert actions.min(0) == pytest.approx(low, abs=0.01 * width.max())
    assert actions.max(0) == pytest.approx(high, abs=0.01 * width.max())
    assert actions.mean(0) == pytest.approx(np.add(low, high) / 2, abs=0.01 * width.max())


def test_random_actions_of_a_boundless_box_are_normal():
    spec = ActionSpec("box", (1,), low=(-np.inf,), high=(np.inf,))
    outputs = {"mean": same([7.0]), "log_std": same([0.0])}
    actions, extras = act(Head("gaussian"), spec, outputs, random=True)
    assert actions.mean() == pytest.approx(0.0, abs=0.03)
    assert np.isfinite(extras["logp"]).all()


def test_what_an_environment_gets():
    action = heads.to_environment(EPSILON, DISCRETE, np.uint8(3))
    assert action == 3
    assert type(action) is int
    assert heads.to_environment(EPSILON, MULTI, np.array([1, 0], "|u1")).tolist() == [1, 0]
    out = heads.to_environment(Head("gaussian"), BOX, np.array([-3.0, 4.0], "<f4"))
    assert out.tolist() == [-1.0, 4.0]
    for kind in ("squashed", "scaled_gaussian"):
        out = heads.to_environment(Head(kind), BOX, np.array([0.0, 1.0], "<f4"))
        assert out.tolist() == [0.0, 10.0]
        assert out.dtype == np.float32
    hybrid = ActionSpec("hybrid", (3,), (5,), (-1.0, 0.0), (1.0, 10.0))
    out = heads.to_environment(Head("hybrid"), hybrid, np.array([4.0, 0.5, 3.0], "<f4"))
    assert out.tolist() == [4.0, 0.5, 10.0]
    out = heads.to_environment(Head("scaled_gaussian"), BOX, np.array([-3.0, 0.5], "<f4"))
    assert out.tolist() == [-1.0, 7.5]


@pytest.mark.parametrize(
    ("low", "high", "action", "given"),
    [
        (-2000.0, 2000.0, 0.25, 500.0),
        (-1e-3, 1e-3, 0.25, 0.25e-3),
        (1e6, 1e6 + 8.0, -1.0, 1e6),
        (-np.inf, np.inf, 40.0, 40.0),
        (-HUGE, HUGE, 40.0, 40.0),
        (5.0, np.inf, 2.0, 7.0),
        (5.0, np.inf, -2.0, 5.0),
        (-np.inf, 5.0, -2.0, 3.0),
        (3.0, 3.0, 9.0, 3.0),
    ],
)
def test_a_box_action_travels_in_units_of_its_bounds(low, high, action, given):
    spec = ActionSpec("box", (1,), low=(low,), high=(high,))
    out = heads.to_environment(Head("scaled_gaussian"), spec, np.array([action], "<f4"))
    assert out == pytest.approx([given], rel=1e-6)


def test_random_actions_of_scaled_boxes_have_their_density():
    spec = ActionSpec("box", (2,), low=(-2e3, -HUGE), high=(2e3, HUGE))
    outputs = {"mean": same([7.0, 7.0], 5), "log_std": same([0.0, 0.0], 5)}
    actions, extras = act(Head("scaled_gaussian"), spec, outputs, random=True)
    normal = torch.distributions.Normal(0.0, 1.0).log_prob(torch.from_numpy(actions[:, 1]))
    uniform = torch.distributions.Uniform(-1.0, 1.0).log_prob(torch.from_numpy(actions[:, 0]))
    assert extras["logp"] == pytest.approx((normal + uniform).numpy(), rel=1e-5)
