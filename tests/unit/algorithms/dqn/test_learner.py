"""The DQN learner's equations against numbers, loops and autograd; and that it learns."""

import msgspec
import numpy as np
import pytest
import torch

from soulsai import heads
from soulsai.algorithms.dqn.learner import DQN
from soulsai.algorithms.dqn.network import Noise
from soulsai.algorithms.dqn.update import UpdateNoise, best_action, rescaled, td_error, td_target
from soulsai.algorithms.networks import dueling_values
from soulsai.algorithms.quantiles import expected, quantile_huber_loss, quantile_huber_slope
from soulsai.algorithms.vision import spectral_convolutions
from soulsai.types import MASK, ActionSpec, Head, Leaf, Spec
from tests.unit.algorithms.learning_cases import ACTIONS, endless, episode, settings, spec, stream


def learner(*, masked=False, seed=0, steps=1000, realtime=False, **changes):
    return DQN(settings(**changes), spec(masked=masked), seed=seed, steps=steps, realtime=realtime)


def run(algorithm, fragments, updates):
    generator = algorithm.learn(endless(fragments))
    return [next(generator) for _ in range(updates)]


def test_loss_by_hand():
    # one sample of the goal, two quantiles (levels 1/4 and 3/4), errors 0.5 and -2
    predicted, goal = torch.tensor([[0.5, 3.0]]), torch.tensor([[1.0]])
    assert quantile_huber_loss(predicted, goal).item() == pytest.approx(
        0.25 * 0.5 * 0.5**2 + 0.25 * (2.0 - 0.5)
    )


@pytest.mark.parametrize("quantiles", [1, 2, 16])
def test_the_slope_is_the_derivative_of_the_weighted_loss(quantiles):
    torch.manual_seed(0)
    predicted = 2 * torch.randn(8, quantiles, dtype=torch.float64, requires_grad=True)
    goal = 2 * torch.randn(8, quantiles, dtype=torch.float64)
    weights = torch.rand(8, dtype=torch.float64)
    loss = (weights * quantile_huber_loss(predicted, goal)).mean()
    (derivative,) = torch.autograd.grad(loss, predicted)
    slope = quantile_huber_slope(predicted.detach(), goal, weights)
    assert torch.allclose(slope, derivative, atol=1e-12)


@pytest.mark.parametrize("double", [True, False])
def test_5_the_target_by_loops(double):
    algorithm = learner(masked=True, double=double, reward_scale=0.1)
    torch.nn.init.normal_(algorithm.target.values.out.weight)
    rng = np.random.default_rng(0)
    mask = rng.random((16, 3)) < 0.5
    mask[:, 1] |= ~mask.any(1)
    rows = {
        "next_obs.obs": rng.normal(size=(16, 2)).astype("f4"),
        f"next_obs.{MASK}": mask,
        "ret": rng.normal(size=16).astype("f4"),
        "discount": rng.choice([0.0, 0.97], 16).astype("f4"),
    }
    tensors = {name: torch.from_numpy(column) for name, column in rows.items()}
    see = algorithm.policy.observation.parts
    judges = algorithm.policy.quantiles, algorithm.target.quantiles
    goal = td_target(see, *judges, tensors, algorithm.config)
    parts = see({"obs": tensors["next_obs.obs"]})
    online, target = (n.quantiles(parts).detach() for n in (algorithm.policy, algorithm.target))
    for i in range(16):
        judged = (online if double else target)[i].mean(-1)
        best = max((a for a in range(3) if mask[i, a]), key=lambda a, j=judged: j[a])
        expected_goal = 0.1 * rows["ret"][i] + rows["discount"][i] * target[i, best]
        assert torch.allclose(goal[i], expected_goal, atol=1e-6)


SEVERAL = (2, 3, 1)


@pytest.mark.parametrize("changes", [{}, {"double": False}, {"sampled": True}, {"dueling": False}])
def test_5_a_branching_update_by_loops(changes):
    """The target and the loss of branching Q-learning (arXiv:1711.08946, 4.1) by loops."""
    space = Spec(
        {"obs": Leaf((2,), "<f4"), MASK: Leaf((6,), "|b1")},
        ActionSpec("multidiscrete", (3,), SEVERAL),
    )
    config = settings(**changes)
    algorithm = DQN(config, space, seed=0, steps=1000, realtime=False)
    torch.nn.init.normal_(algorithm.target.values.out.weight)
    rng = np.random.default_rng(0)
    mask = rng.random((16, 6)) < 0.5
    mask[:, [0, 2, 5]] = True
    rows = {
        "obs.obs": rng.normal(size=(16, 2)).astype("f4"),
        "next_obs.obs": rng.normal(size=(16, 2)).astype("f4"),
        f"next_obs.{MASK}": mask,
        "action": rng.integers(SEVERAL, size=(16, 3)).astype("u1"),
        "ret": rng.normal(size=16).astype("f4"),
        "discount": rng.choice([0.0, 0.97], 16).astype("f4"),
    }
    tensors, weights = {n: torch.from_numpy(c) for n, c in rows.items()}, torch.rand(16)
    noise = algorithm._noise(algorithm.rng)
    noise = UpdateNoise(*(Noise(*(None if d is None else d[:16] for d in part)) for part in noise))
    see, first = algorithm.policy.observation.parts, (0, 2, 5)
    nets = algorithm.policy.quantiles, algorithm.target.quantiles
    td = td_error(see, *nets, tensors, weights, config, noise, SEVERAL)
    here = nets[0](see({"obs": tensors["obs.obs"]}), noise.predicted)
    there = see({"obs": tensors["next_obs.obs"]})
    judged = nets[0](there, noise.selected) if config.double else nets[1](there, noise.target)
    value = nets[1](there, noise.target).detach()
    losses, errors = [], []
    for i in range(16):
        best = [
            max((a for a in range(n) if mask[i, f + a]), key=lambda a: judged[i, f + a].mean())
            for f, n in zip(first, SEVERAL, strict=True)
        ]
        ahead = sum(value[i, f + a] for f, a in zip(first, best, strict=True)) / 3
        goal = rows["ret"][i] + rows["discount"][i] * ahead
        sizes = [here[i, f + int(a)] for f, a in zip(first, rows["action"][i], strict=True)]
        levels = noise.predicted.levels
        losses += [
            weights[i]
            * quantile_huber_loss(q[None], goal[None], None if levels is None else levels[i][None])
            for q in sizes
        ]
        errors.append(sum(abs(goal.mean() - q.mean()) for q in sizes) / 3)
    parameters = [p for p in algorithm.policy.parameters() if p.requires_grad]
    ours = torch.autograd.grad(td.predicted, parameters, td.slope, retain_graph=True)
    theirs = torch.autograd.grad(torch.cat(losses).mean(), parameters)
    for our, their in zip(ours, theirs, strict=True):
        torch.testing.assert_close(our, their, rtol=1e-3, atol=1e-5)
    torch.testing.assert_close(td.error, torch.stack(errors).detach(), rtol=1e-4, atol=1e-5)


def test_5_all_components_share_the_value_of_the_state():
    out = torch.randn(5, 7, 4)
    values = dueling_values(out, SEVERAL)
    for first, size in zip((0, 2, 5), SEVERAL, strict=True):
        torch.testing.assert_close(values[:, first : first + size].mean(1), out[:, 0])
        ours = values[:, first] - values[:, first + size - 1]
        torch.testing.assert_close(ours, out[:, 1 + first] - out[:, first + size])


def test_the_head_s_twin_chooses_alike():
    rng = np.random.default_rng(0)
    q, mask = rng.normal(size=(100, 6)).astype("f4"), rng.random((100, 6)) < 0.5
    for valid in (mask, None):
        known = None if valid is None else torch.from_numpy(valid)
        ours = best_action(torch.from_numpy(q), known)
        assert (ours.numpy() == heads.masked_argmax(q, valid)).all()
        ours = best_action(torch.from_numpy(q), known, SEVERAL)
        assert (ours.numpy() == heads.best_choices(SEVERAL, q, valid)).all()


def test_the_policy_s_q_is_the_mean_of_its_quantiles():
    algorithm = learner()
    obs = {"obs": torch.randn(5, 2)}
    outputs, memory = algorithm.policy(obs, {})
    quantiles = algorithm.policy.quantiles(algorithm.policy.observation.parts(obs))
    assert torch.equal(outputs["q"], expected(quantiles))
    assert outputs["q"].shape == (5, 3)
    assert memory == {}


def test_the_target_network_follows_and_sees_through_the_same_statistics():
    algorithm = learner(target_ema=0.25)
    before = algorithm.target.values.out.weight.clone()
    run(algorithm, [episode(80)], 1)
    now, ours = algorithm.target.values.out.weight, algorithm.policy.values.out.weight
    assert torch.allclose(now, before.lerp(ours, 0.25))
    assert algorithm.policy.observation.mean.abs().sum() > 0
    assert algorithm.target.observation.mean is algorithm.policy.observation.mean


def test_replay_keeps_what_was_seen_and_the_network_sees_it_normalised():
    algorithm = learner()
    run(algorithm, [episode(200)], 1)
    assert algorithm.experience.replay.ring.columns["obs.obs"][:200, 0].max() == 199
    (vector,) = algorithm.policy.observation.parts({"obs": torch.tensor([[96.0, 0.0]])})
    assert vector[0, 0].abs() < 1


def test_learning_starts_after_the_first_steps_and_stops_without_new_ones():
    algorithm = learner(learning_starts=40, replay_ratio=0.5, explore_steps=0)
    assert algorithm.policy.exploration == {"random": 1.0}
    arrivals = iter([[episode(30)], [], [episode(30, number=1)], *[[]] * 50])
    assert len(list(algorithm.learn(arrivals))) == 10
    assert algorithm.policy.exploration == {"random": 0.0}


def test_random_actions_give_way_to_the_policy_by_and_by():
    algorithm = learner(learning_starts=40, explore_steps=50)
    shares = []
    for number in range(10):
        shares.append(algorithm.policy.exploration["random"])
        algorithm.experience.ingest([episode(10, number=number)])
    assert shares == pytest.approx([1.0, 1.0, 1.0, 1.0, 1.0, 0.8, 0.6, 0.4, 0.2, 0.0])
    second = learner(learning_starts=40, explore_steps=50)
    algorithm.experience.pace.steps = 70
    second.load_state_dict(algorithm.state_dict())
    assert second.policy.exploration == {"random": pytest.approx(0.4)}


def test_without_steps_to_explore_in_the_policy_plays_as_soon_as_it_learns():
    algorithm = learner(learning_starts=40, explore_steps=0)
    algorithm.experience.ingest([episode(30)])
    assert algorithm.policy.exploration == {"random": 1.0}
    algorithm.experience.ingest([episode(10, number=1)])
    assert algorithm.policy.exploration == {"random": 0.0}


def test_it_asks_for_arrivals_between_two_updates():
    log = []

    def arrivals():
        for fragments in endless([episode(100)]):
            log.append("asked")
            yield fragments

    generator = learner(updates_per_call=1).learn(arrivals())
    for _ in range(3):
        next(generator)
        log.append("updated")
    assert "updated updated" not in " ".join(log)


def test_it_does_at_most_its_updates_per_call_between_two_arrivals_and_none_that_is_not_owed():
    log = []

    def arrivals():
        for steps in (32, 1, 5, 3, 0, 0):
            log.append(0)
            yield [episode(steps, number=steps)] if steps else []

    for _ in learner(updates_per_call=4).learn(arrivals()):
        log[-1] += 1
    assert log == [0, 1, 4, 4, 0, 0]


def test_updates_of_images_are_done_one_by_one():
    pictures = Spec({"obs": Leaf((36, 36, 3), "|u1")}, ActionSpec("discrete", (), (3,)))
    algorithm = DQN(settings(updates_per_call=8), pictures, seed=0, steps=0, realtime=False)
    assert algorithm.experience.most_updates == 1
    assert learner(updates_per_call=8).experience.most_updates == 8


def test_the_fleet_is_told_how_far_it_may_go():
    algorithm = learner(slack_steps=64)
    assert algorithm.policy.quota == 32 + 64
    generator = algorithm.learn(endless([episode(32), episode(50, number=1)]))
    next(generator)
    assert algorithm.policy.quota == 64 - 49
    assert learner(realtime=True).policy.quota is None
    assert learner(pace="free").policy.quota is None


def test_what_was_granted_and_has_not_come_yet_is_not_granted_again():
    algorithm = learner(slack_steps=64)
    assert algorithm.policy.quota == 96
    algorithm.policy.newest = (0, 1)
    first = msgspec.structs.replace(episode(72), version=1)
    next(algorithm.learn(endless([first])))
    assert algorithm.policy.quota == 64 - 39 - (96 - 72)
    algorithm.load_state_dict(algorithm.state_dict())  # as when the node goes back
    assert algorithm.policy.quota == 64 - 39


def test_a_gradient_is_clipped_as_a_whole():
    algorithm = learner(grad_clip=1e-3, adam_eps=1e3, lr=1e3, normalize_obs=False)
    whole = episode(80)
    whole.reward[:] = 1e3
    before = algorithm.learner.weights.clone()
    metrics = run(algorithm, [whole], 1)[0]
    assert metrics["grad_norm"] > 1e-3
    # with so large an eps, Adam's first step is lr / eps times the gradient
    assert (algorithm.learner.weights - before).norm().item() == pytest.approx(1e-3, rel=1e-3)


def test_an_update_that_is_not_finite_is_skipped_and_counted():
    algorithm = learner(prioritized=True, replay_ratio=4.0)
    whole = episode(80)
    whole.reward[:] = np.inf
    before = algorithm.learner.weights.clone()
    metrics = run(algorithm, [whole], 40)[-1]
    assert torch.equal(algorithm.learner.weights, before)
    assert metrics["skipped"] > 0
    assert np.isfinite(algorithm.experience.replay.priorities).all()


def test_metrics_name_what_matters():
    metrics = run(learner(), [episode(80)], 1)[0]
    names = {"loss", "q_mean", "td_error", "grad_norm", "lr", "replay_size", "beta", "skipped"}
    assert set(metrics) == names
    assert all(np.isfinite(value) and isinstance(value, float) for value in metrics.values())


def test_beta_grows_to_one_over_the_planned_steps():
    algorithm = learner(steps=200)
    run(algorithm, [episode(100)], 1)
    assert algorithm.experience.beta == pytest.approx(0.7)
    run(algorithm, [episode(300, number=1)], 1)
    assert algorithm.experience.beta == 1.0


@pytest.mark.parametrize(("steps", "share"), [(200, 0.5), (0, 1.0)])
def test_the_learning_rate_falls_to_zero_over_the_planned_steps_if_any_are(steps, share):
    algorithm = learner(steps=steps, anneal_lr=True)
    adam = algorithm.learner.optimizer
    run(algorithm, [episode(100)], 1)
    assert adam.lr == pytest.approx(algorithm.config.lr * share)
    rate, _ = adam.corrections(1).at(adam.steps)  # which a compiled update looks up
    assert rate.item() == pytest.approx(adam.lr / (1.0 - 0.9 ** (adam.steps.item() + 1.0)))
    run(algorithm, [episode(300, number=1)], 1)
    before = algorithm.learner.weights.clone()
    metrics = run(algorithm, [episode(100, number=2)], 1)[0]
    assert metrics["skipped"] == 0.0
    assert torch.equal(algorithm.learner.weights, before) == (steps > 0)


def test_the_learning_rate_stays_as_it_is_unless_asked():
    algorithm = learner(steps=200)
    run(algorithm, [episode(100)], 1)
    assert algorithm.learner.optimizer.lr == algorithm.config.lr


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"quantiles": 1},
        {"dueling": False, "double": False, "layer_norm": False},
        {"prioritized": False, "n_step": 1, "normalize_obs": False},
        {"sampled": True, "quantiles": 8},
        {"noisy": True},
        {"munchausen": 0.9},
        {"network": "residual", "rescale_values": True},
        {"n_step_first": 6, "gamma_first": 0.5, "anneal_steps": 400},
    ],
)
def test_it_learns_which_action_pays(changes):
    """A bandit with three arms, of which the state names the paying one."""
    rng = np.random.default_rng(0)
    fragments = []
    for number in range(60):
        whole = episode(20, number=number, terminated=False, truncated=True)
        whole.obs["obs"][:] = rng.integers(0, 3, size=(21, 1)) - [[1.0, 1.0]]
        right = whole.obs["obs"][:-1, 0] + 1
        whole.reward[:] = whole.action == right
        fragments.append(whole)
    algorithm = learner(gamma=0.01, lr=1e-2, target_ema=0.1, capacity=2000, **changes)
    run(algorithm, fragments, 600)
    seen = torch.tensor([[-1.0, -1.0], [0.0, 0.0], [1.0, 1.0]])
    q = algorithm.policy({"obs": seen}, {})[0]["q"]
    assert q.argmax(1).tolist() == [0, 1, 2]
    best = float(rescaled(torch.ones(()))) if changes.get("rescale_values") else 1.0
    assert q.max(1).values.tolist() == pytest.approx([best] * 3, abs=0.15)


def test_many_kinds_of_leaves_go_through():
    leaves = {
        "camera": Leaf((10, 10, 2), "|b1"),
        "kind": Leaf((), "|u1", categories=4),
        "speed": Leaf((), "<f8"),
    }
    s = Spec(leaves, ActionSpec("discrete", (), (3,)))
    algorithm = DQN(settings(), s, seed=0, steps=0, realtime=False)
    rng = np.random.default_rng(0)
    obs = {
        "camera": rng.random((81, 10, 10, 2)) < 0.5,
        "kind": rng.integers(4, size=81).astype("|u1"),
        "speed": rng.normal(size=81),
    }
    whole = msgspec.structs.replace(episode(80), obs=obs)
    assert run(algorithm, [whole], 2)[-1]["replay_size"] == 80


def test_building_one_does_not_touch_the_global_generator():
    torch.manual_seed(3)
    expected_number = torch.rand(1)
    torch.manual_seed(3)
    algorithm = learner(epsilon_base=0.3)
    assert torch.equal(torch.rand(1), expected_number)
    assert algorithm.policy.head == Head("epsilon_greedy", epsilon_base=0.3)


def test_a_stream_of_many_episodes_ends_up_in_replay():
    fragments = stream(30)
    algorithm = learner(capacity=10_000)
    run(algorithm, fragments, sum(map(len, fragments)) - 32)
    waiting = len(algorithm.experience.returns)
    assert len(algorithm.experience.replay) + waiting == sum(map(len, fragments))


@pytest.mark.parametrize("who", ["average", "online"])
def test_clients_act_with_the_weights_that_are_asked_for(who):
    algorithm = learner(act_with=who)
    run(algorithm, stream(30), 3)
    shown = algorithm.policy.twin().state_dict()
    online, target = algorithm.policy.state_dict(), algorithm.target.state_dict()
    assert any(not torch.equal(online[name], target[name]) for name in online)
    expected = target if who == "average" else online
    assert shown.keys() == online.keys()
    assert all(torch.equal(shown[name], expected[name]) for name in shown)


def test_spectral_norms_follow_the_weights_after_every_update():
    rng = np.random.default_rng(0)
    image = Spec({"obs": Leaf((16, 16, 1), "|u1")}, ActionSpec("discrete", (), (ACTIONS,)))
    seen = [
        msgspec.structs.replace(
            one, obs={"obs": rng.integers(256, size=(len(one) + 1, 16, 16, 1), dtype=np.uint8)}
        )
        for one in stream(12)
    ]
    config = settings(vision="impala", normalize_obs=False)
    algorithm = DQN(config, image, seed=0, steps=0, realtime=False)
    parts = spectral_convolutions(algorithm.policy, algorithm.target)
    assert len(parts) > 2
    before = [part.u.clone() for part in parts]
    updates = algorithm.learn(endless([]))
    algorithm.experience.ingest(seen)
    next(updates)
    assert not any(torch.equal(part.u, was) for part, was in zip(parts, before, strict=True))
