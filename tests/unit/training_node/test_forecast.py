"""The size and the speed of a policy before training, and networks that a run cannot resume."""

import itertools
import statistics
import time

import numpy as np
import pytest

from soulsai.config import load
from soulsai.errors import ConfigError
from soulsai.training_node import onnx_export
from soulsai.training_node.forecast import describe, forecast
from soulsai.training_node.start import build_algorithm, check_shapes
from soulsai.types import MASK, ActionSpec, Fragment, Leaf, Spec

SCREEN = {"screen": Leaf((240, 320, 3), "|u1", low=0, high=255)}
NUMBERS = {"obs": Leaf((4,), "<f4")}
CHOICES = ActionSpec("discrete", (), (4,))
MANY = ActionSpec("multidiscrete", (2,), (3, 4))
PLANE = ActionSpec("box", (2,), (), (-1.0, -1.0), (1.0, 1.0))


def ticking(seconds):
    """Return a clock that advances by so many seconds at each look."""
    ticks = itertools.count()
    return lambda: seconds * next(ticks)


@pytest.mark.parametrize("name", ["dqn", "ppo", "sac"])
def test_a_version_weighs_what_clients_receive(name):
    config = load(None, {}, [f"algorithm.name={name}"])
    spec = Spec(NUMBERS, PLANE if name == "sac" else CHOICES)
    program = onnx_export.program(build_algorithm(config, spec, seed=0).policy, spec)
    sent = sum(
        int(np.prod(leaf.shape)) * np.dtype(leaf.dtype).itemsize
        for leaf in program.weights.values()
    )
    found = forecast(config, spec)
    assert found.version_bytes == sent
    assert found.largest_bytes <= sent
    assert found.updates_per_second > 0


def test_the_largest_layer_of_a_screen_is_named_with_what_to_do():
    found = forecast(load(None, {}, []), Spec(SCREEN, CHOICES), clock=ticking(1.0))
    assert found.largest_shape == (256, 64 * 7 * 7)  # features are pooled to 7 x 7
    # A batch of 8 rows takes a second, so the 64 rows of an update, 5/3 of them, take 13.3 s.
    assert found.updates_per_second == pytest.approx(1 / (5 / 3 * 64 / 8))
    lines = list(describe(found))
    assert "largest layer has 256 x 3136 weights, 3.2 MB" in lines[0]
    assert lines[1] == (
        "at most 0.075 updates/s on this machine, as busy as it is now: 548 h or more for the "
        "updates of 150,000 env steps"
    )
    assert lines[-1] == (
        "that is slow: make images smaller (environment.image), or choose a smaller network"
    )
    assert len(lines) == 4


def test_a_small_network_is_timed_with_whole_updates():
    found = forecast(load(None, {}, []), Spec(NUMBERS, CHOICES), clock=ticking(0.002))
    assert found.updates_per_second == pytest.approx(1 / 0.002)
    lines = list(describe(found))
    # 148,000 updates after the warm-up
    assert lines[1].startswith("about 500 updates/s on this machine, as busy as it is now: 5 min")
    assert len(lines) == 3


def test_a_forecast_is_the_pace_of_the_learner_itself():
    """The processor's time, in turns: what else the machine does slows down both."""
    config, spec = load(None, {}, ["dqn.learning_starts=500"]), Spec(NUMBERS, CHOICES)
    updates = build_algorithm(config, spec, seed=0).learn(arrivals())
    for _ in range(20):
        next(updates)
    ratios = []
    for _ in range(3):
        began = time.process_time()
        for _ in range(100):
            next(updates)
        rate = 100 / (time.process_time() - began)
        found = forecast(config, spec, clock=time.process_time)
        assert found.is_whole
        ratios.append(found.updates_per_second / rate)
    assert statistics.median(ratios) == pytest.approx(1.0, rel=0.5)


@pytest.mark.parametrize("kind", ["masked", "box", "many"])
def test_all_kinds_of_actions_are_timed(kind):
    actions = {"masked": CHOICES, "box": PLANE, "many": MANY}[kind]
    leaves = NUMBERS | ({MASK: Leaf((4,), "|b1")} if kind == "masked" else {})
    name = "sac" if kind == "box" else "dqn"
    found = forecast(load(None, {}, [f"algorithm.name={name}"]), Spec(leaves, actions))
    assert found.is_whole
    assert found.updates_per_second > 0


def test_an_iteration_of_ppo_takes_many_env_steps():
    config = load(None, {}, ["algorithm.name=ppo"])
    found = forecast(config, Spec(NUMBERS, CHOICES), clock=ticking(0.001))
    assert found.updates == 150_000 / 2048
    assert list(describe(found))[1].startswith("at most 3.9 updates/s")  # 256 batches of 1 ms


def arrivals():
    """Yield 30 fragments of 64 steps at once, and nothing after them."""
    rng = np.random.default_rng(0)
    yield [
        Fragment(
            client="a", epoch=1, episode=number, start=0, clock=64 * number, generation=1,
            version=1, obs={"obs": rng.normal(size=(65, 4)).astype("f4")},
            action=rng.integers(4, size=64).astype("u1"),
            reward=rng.normal(size=64).astype("f4"), terminated=True, truncated=False,
        )
        for number in range(30)
    ]  # fmt: skip
    while True:
        yield []


def test_what_cannot_be_sent_is_a_mistake_of_the_settings():
    config = load(None, {}, ["dqn.hidden=[10000]"])
    with pytest.raises(ConfigError, match=r"takes 119 MiB, but clients accept 64 MiB; choose sm"):
        forecast(config, Spec(SCREEN, CHOICES))


def test_a_checkpoint_of_other_networks_names_the_weight_and_both_shapes():
    spec = Spec(NUMBERS, CHOICES)
    before, now = (
        build_algorithm(
            load(None, {}, [f"ppo.hidden=[{width}]", "algorithm.name=ppo"]), spec, seed=0
        )
        for width in (8, 16)
    )
    program = onnx_export.program(before.policy, spec)
    check_shapes(program, before.policy)
    check_shapes(None, now.policy)
    with pytest.raises(ConfigError, match=r"shape \(8.*in the checkpoint, \(16.*start a new run"):
        check_shapes(program, now.policy)
