"""What is compiled computes what runs eagerly; here the functions themselves, by no compiler."""

import numpy as np
import pytest
import torch

from soulsai.algorithms.compile.flat import FlatAdam, Moments, adam, compiled_norm
from soulsai.algorithms.compile.form import Compilable, Form, NotCompilable, compare, traced
from soulsai.algorithms.settings import DemonstrationSettings
from tests.unit.algorithms.compile.compiled_cases import branching, dqn, learnt, played, sac

STATES = ("policy", "target", "optimizer", "critics", "temperature", "actor_adam", "critic_adam")


def functional(algorithm):
    """Return the algorithm, updating by its functional forms, which no compiler has seen."""
    algorithm.adopt({name: form.function for name, form in algorithm.forms().items()})
    return algorithm


def state_of(algorithm):
    states = [algorithm.parts[name].state_dict() for name in STATES if name in algorithm.parts]
    return [torch.as_tensor(value).double() for state in states for value in state.values()]


CASES = [
    (dqn, {}),
    (dqn, {"quantiles": 1, "double": False, "dueling": False, "layer_norm": False}),
    (dqn, {"prioritized": False, "normalize_obs": False, "grad_clip": 0.01, "n_step": 1}),
    (dqn, {"sampled": True, "munchausen": 0.9, "noisy": True, "anneal_lr": True}),
    (dqn, {"rescale_values": True, "network": "residual", "gamma_first": 0.9, "anneal_steps": 50}),
    (branching, {}),
    (branching, {"sampled": True, "munchausen": 0.9, "noisy": True}),
    (sac, {}),
    (sac, {"quantiles": 1, "layer_norm": False, "policy_delay": 1, "normalize_obs": False}),
    (sac, {"prioritized": True, "n_step": 3}),
    (dqn, {"network": "tests.contract.network_cases:Net"}),
    (sac, {"network": "tests.contract.network_cases:Net"}),
]


@pytest.mark.parametrize(("make", "changes"), CASES)
def test_learning_is_the_same_on_and_off_the_fast_path(make, changes):
    eager, fast = make(**changes), functional(make(**changes))
    metrics = learnt(eager), learnt(fast)
    for a, b in zip(state_of(eager), state_of(fast), strict=True):
        assert torch.allclose(a, b, rtol=1e-4, atol=1e-5)
    assert metrics[0] == pytest.approx(metrics[1], rel=1e-3, abs=1e-4)


def shown(algorithm, **changes):
    """Return the algorithm with demonstrations, which it imitates."""
    settings = DemonstrationSettings(data=("x",), imitation=2.0, **changes)
    algorithm.prepare_demonstrations(settings)
    algorithm.demonstrate([played(algorithm, 9)])
    return algorithm


@pytest.mark.parametrize("make", [dqn, branching, sac])
def test_learning_with_demonstrations_is_the_same_on_and_off_the_fast_path(make):
    eager, fast, without = shown(make()), functional(shown(make())), shown(make())
    without.experience.demonstrations.settings = DemonstrationSettings(data=("x",), imitation=0.0)
    metrics = learnt(eager), learnt(fast)
    learnt(without)
    for a, b in zip(state_of(eager), state_of(fast), strict=True):
        assert torch.allclose(a, b, rtol=1e-4, atol=1e-5)
    assert metrics[0] == pytest.approx(metrics[1], rel=1e-3, abs=1e-4)
    assert metrics[0]["imitation_weight"] > 1.0
    pairs = zip(state_of(eager), state_of(without), strict=True)
    assert not all(torch.equal(*pair) for pair in pairs)


@pytest.mark.parametrize("make", [dqn, branching, sac])
def test_cloning_is_the_same_on_and_off_the_fast_path(make):
    """What an earlier run has compiled is used from the first update of cloning."""
    eager, fast = shown(make(), clone_steps=8), functional(shown(make(), clone_steps=8))
    metrics = [list(algorithm.learn(iter([[]] * 8))) for algorithm in (eager, fast)]
    for a, b in zip(state_of(eager), state_of(fast), strict=True):
        assert torch.allclose(a, b, rtol=1e-4, atol=1e-5)
    assert len(metrics[0]) == 8
    assert metrics[0][-1] == pytest.approx(metrics[1][-1], rel=1e-3, abs=1e-4)


@pytest.mark.parametrize("make", [dqn, branching, sac])
def test_forms_have_the_columns_of_every_batch(make):
    """Also before the first demonstration: a person may take over at any time."""
    algorithm = make()
    algorithm.prepare_demonstrations(DemonstrationSettings(interventions=True))
    algorithm.experience.ingest([played(algorithm, 1)])
    batch = algorithm.experience.sample()
    columns = algorithm.experience.batch_columns
    assert list(batch.rows) == list(columns)
    for name, column in batch.rows.items():
        leaf = columns[name]
        assert (column.shape[1:], column.dtype) == (leaf.shape, np.dtype(leaf.dtype)), name
    algorithm.demonstrate([played(algorithm, 2)])
    after = algorithm.experience.sample()
    assert list(after.rows) == list(columns)
    assert list(algorithm.experience.sample_demonstrations().rows) == list(columns)
    assert (batch.rows["imitation"] == 0).all()


@pytest.mark.parametrize("make", [dqn, sac])
def test_what_is_not_finite_changes_nothing_on_the_fast_path_either(make):
    eager, fast = make(), functional(make())
    metrics = learnt(eager, spoil=5), learnt(fast, spoil=5)
    assert metrics[0]["skipped"] == metrics[1]["skipped"] > 0
    for a, b in zip(state_of(eager), state_of(fast), strict=True):
        assert torch.isfinite(b).all()
        assert torch.allclose(a, b, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("make", [dqn, sac])
def test_updates_done_in_one_go_are_those_done_one_by_one(make):
    """From a uniform replay, whose draws do not depend on what was learnt meanwhile."""
    single, several = (make(prioritized=False, updates_per_call=n) for n in (1, 8))
    metrics = [learnt(algorithm, 72, at_once=True) for algorithm in (single, several)]
    for a, b in zip(state_of(single), state_of(several), strict=True):
        assert torch.equal(a, b)
    assert metrics[0] == metrics[1]


@pytest.mark.parametrize("make", [dqn, sac])
@pytest.mark.parametrize("prioritized", [True, False])
def test_replay_that_keeps_each_observation_once_changes_nothing(make, prioritized):
    both = [make(prioritized=prioritized, share_observations=once) for once in (True, False)]
    metrics = [learnt(algorithm, at_once=True) for algorithm in both]
    for a, b in zip(*map(state_of, both), strict=True):
        assert torch.equal(a, b)
    assert metrics[0] == metrics[1]
    shared, copied = (algorithm.experience.replay.ring for algorithm in both)
    assert copied.next is None
    assert shared.next.behind < len(shared) / 2


def test_priorities_are_written_before_the_next_experience_is_taken():
    algorithm = dqn(updates_per_call=8)
    learnt(algorithm, updates=8)
    drawn = algorithm.experience.replay.priorities != 1.0
    assert drawn.sum() > 8


def test_adam_as_a_function_is_adam():
    torch.manual_seed(0)
    weights = torch.randn(50)
    optimizer = FlatAdam(weights, lr=1e-2, eps=1e-5)
    now = Moments(weights.clone(), torch.zeros(50), torch.zeros(50), torch.zeros(()))
    for number in range(200):
        if number % 7 == 0:
            by = optimizer.corrections(7)
        gradient = torch.randn(50)
        optimizer.step(gradient)
        now = adam(now, gradient, by.at(now.steps), 1e-5)
        assert torch.allclose(now.weights, weights, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("steps", [0, 1, 1018, 1024, 5000])
def test_corrections_are_those_of_the_next_steps_from_any_step_and_at_any_rate(steps):
    optimizer = FlatAdam(torch.zeros(3), lr=1e-2, eps=1e-5)
    optimizer.corrections(8)
    for lr in (1e-2, 1e-3):
        optimizer.lr = lr
        for _ in range(2):  # the second time from a table
            optimizer.steps.fill_(steps)
            by = optimizer.corrections(8)
            for later in range(8):
                rate, root = by.at(optimizer.steps + later)
                after = steps + later + 1
                assert rate.item() == pytest.approx(lr / (1.0 - 0.9**after))
                assert root.item() == pytest.approx((1.0 - 0.999**after) ** -0.5)


@pytest.mark.parametrize("size", [1, 1023, 1024, 5000])
def test_the_norm_that_compiles_well_is_the_norm(size):
    gradient = torch.randn(size, generator=torch.Generator().manual_seed(size))
    wanted = torch.linalg.vector_norm(gradient.double()).float()
    assert torch.allclose(compiled_norm(gradient), wanted)
    gradient[-1] = torch.inf
    assert not compiled_norm(gradient).isfinite()


def test_dropout_cannot_be_compiled_and_says_why():
    algorithm = sac(dropout=0.1)
    assert isinstance(algorithm, Compilable)
    with pytest.raises(NotCompilable, match="dropout"):
        algorithm.forms()


def increased(by):
    """Return two updates, which add an input and a shared number to the state."""

    def step(state, shared, added):
        return [state + by * (shared + added), state.sum()]

    each = (torch.tensor([[0.0, 1.0, 2.0], [10.0, 20.0, 30.0]]),)
    return Form(step, (torch.ones(3),), (torch.tensor(2.0),), each)


def test_the_updates_of_a_call_follow_each_other():
    form = increased(1)
    state, *rest = (tensor.clone() for tensor in form.examples)
    (sums,) = form.function(state, *rest)
    assert state.tolist() == [15.0, 26.0, 37.0]
    assert sums.tolist() == [3.0, 12.0]


@pytest.mark.parametrize("count", [1, 2])
def test_the_loop_that_is_traced_does_the_same_updates(count):
    form = increased(1)
    results = []
    for function in (form.function, traced(form)):
        state, shared, _, each = (tensor.clone() for tensor in form.examples)
        (sums,) = function(state, shared, torch.tensor(count), each)
        results.append((state.tolist(), sums[:count].tolist()))
    assert results[0] == results[1]


def test_a_package_that_computes_something_else_is_refused():
    form = increased(1)
    compare(form, form.function)
    with pytest.raises(NotCompilable, match="off by"):
        compare(form, increased(2).function)
    assert form.examples[0].tolist() == [1, 1, 1]
