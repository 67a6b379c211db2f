"""The policy program in ONNX Runtime: loaded, rehearsed, and refused if it cannot act."""

import msgspec
import numpy as np
import pytest

from soulsai.client.actor import Actor, head_outputs
from soulsai.errors import CheckpointError, WireError
from soulsai.testing.policy import linear_program, toy_run
from soulsai.types import (
    ActionSpec,
    EnvironmentOffer,
    Head,
    Leaf,
    PolicyCard,
    Spec,
    Weights,
    zeros,
)

SPEC = Spec({"obs": Leaf((4,), "<f4")}, ActionSpec("discrete", (), (3,)))
HEAD = Head("epsilon_greedy")
RNG = np.random.default_rng(1)


def weights_of(arrays, version=1):
    return Weights(run="r", generation=1, version=version, arrays=arrays)


def loaded(arrays, version=1, **options):
    program, _ = linear_program(SPEC, HEAD, **options)
    return Actor.load(program, weights_of(arrays, version), SPEC)


def random_arrays():
    return {
        "w": RNG.standard_normal((4, 3)).astype(np.float32),
        "b": RNG.standard_normal(3).astype(np.float32),
    }


@pytest.mark.parametrize("batch", [1, 5])
def test_a_program_computes_with_the_weights_it_was_given(batch):
    arrays = random_arrays()
    obs = RNG.standard_normal((batch, 4)).astype(np.float32)
    outputs, memory = loaded(arrays)({"obs": obs}, {})
    np.testing.assert_allclose(outputs["q"], obs @ arrays["w"] + arrays["b"], rtol=1e-5, atol=1e-6)
    assert memory == {}


def test_each_version_keeps_its_own_weights():
    first, second = random_arrays(), random_arrays()
    actors = [loaded(first, 1), loaded(second, 2)]
    obs = {"obs": np.ones((1, 4), np.float32)}
    for actor, arrays in zip(actors, (first, second), strict=True):
        expected = arrays["w"].sum(0) + arrays["b"]
        np.testing.assert_allclose(actor(obs, {})[0]["q"][0], expected, rtol=1e-5, atol=1e-6)
    assert [repr(actor) for actor in actors] == ["Actor(1-1)", "Actor(1-2)"]


def test_weights_may_be_views_of_bytes_that_nobody_else_keeps():
    arrays = random_arrays()
    views = {
        name: np.frombuffer(array.tobytes(), array.dtype).reshape(array.shape)
        for name, array in arrays.items()
    }
    actor = loaded(views)
    del views
    obs = {"obs": np.ones((1, 4), np.float32)}
    for _ in range(100):
        np.empty(1000).fill(np.nan)  # what would take the place of freed weights
    np.testing.assert_allclose(
        actor(obs, {})[0]["q"][0], arrays["w"].sum(0) + arrays["b"], rtol=1e-5, atol=1e-6
    )


def test_memory_goes_in_and_comes_back():
    actor = loaded(random_arrays(), memory=True)
    memory = {"count": np.array([[0.0], [7.0]], np.float32)}
    _, memory = actor({"obs": np.zeros((2, 4), np.float32)}, memory)
    np.testing.assert_array_equal(memory["count"], [[1.0], [8.0]])


def test_leaves_of_every_kind_are_fed():
    run, program, arrays = toy_run(EnvironmentOffer("soulsai.testing:DictToy"))
    actor = Actor.load(program, weights_of(arrays), run.spec)
    obs = {name: zeros(leaf, 2) for name, leaf in run.spec.obs.items()}
    assert actor(obs, {})[0]["q"].shape == (2, 3)


@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_weights_that_give_no_finite_output_are_refused(bad):
    arrays = random_arrays()
    arrays["b"][1] = bad
    with pytest.raises(WireError, match=r"1-1 cannot act.*'q' is not finite"):
        loaded(arrays)


def test_a_policy_for_other_actions_is_refused():
    program, arrays = linear_program(SPEC, HEAD)
    other = Spec(SPEC.obs, ActionSpec("discrete", (), (5,)))
    with pytest.raises(WireError, match=r"'q' has shape \(1, 3\)"):
        Actor.load(program, weights_of(arrays), other)


def test_a_policy_without_the_heads_output_is_refused():
    program, arrays = linear_program(SPEC, HEAD)
    program = msgspec.structs.replace(program, head=Head("categorical"))
    with pytest.raises(WireError, match="no output 'logits'"):
        Actor.load(program, weights_of(arrays), SPEC)


@pytest.mark.parametrize(
    "changes",
    [
        {"graph": b""},
        {"graph": b"not a graph"},
        {"inputs": ("other",)},
        {"outputs": ("other",)},
        {"memory": {"count": Leaf((1,), "<f4")}},
    ],
)
def test_a_program_that_cannot_run_is_one_line(changes):
    program, arrays = linear_program(SPEC, HEAD)
    program = msgspec.structs.replace(program, **changes)
    with pytest.raises(WireError, match="cannot act") as caught:
        Actor.load(program, weights_of(arrays), SPEC)
    assert "\n" not in str(caught.value)


def test_a_file_says_what_it_plays(tmp_path):
    card = PolicyCard(
        run="r",
        generation=3,
        version=14,
        env_steps=100,
        algorithm="toy",
        environment=EnvironmentOffer("soulsai.testing:ToyEnv"),
        spec=SPEC,
        head=HEAD,
        inputs=("obs",),
        outputs=("q",),
    )
    program, _ = linear_program(SPEC, HEAD, card=card)
    path = tmp_path / "policy.onnx"
    path.write_bytes(program.graph)
    actor, found = Actor.from_file(path)
    assert found == card
    assert repr(actor) == "Actor(3-14)"
    np.testing.assert_array_equal(
        actor({"obs": np.ones((2, 4), np.float32)}, {})[0]["q"], np.zeros((2, 3))
    )


def test_files_that_are_no_policies_are_refused_in_one_line(tmp_path):
    path = tmp_path / "policy.onnx"
    with pytest.raises(CheckpointError, match="no such file"):
        Actor.from_file(path)
    path.write_bytes(b"nonsense")
    with pytest.raises(CheckpointError, match="not a policy"):
        Actor.from_file(path)
    program, _ = linear_program(SPEC, HEAD)  # its weights are elsewhere, and it has no card
    path.write_bytes(program.graph)
    with pytest.raises(CheckpointError, match=r"policy\.onnx") as caught:
        Actor.from_file(path)
    assert "\n" not in str(caught.value)


def test_each_head_reads_its_own_outputs():
    box = ActionSpec("box", (2, 3), (), (-1.0,) * 6, (1.0,) * 6)
    several = ActionSpec("multidiscrete", (2,), (3, 4))
    assert head_outputs(HEAD, SPEC.action) == {"q": 3}
    assert head_outputs(Head("categorical"), several) == {"logits": 7}
    assert head_outputs(Head("gaussian"), box) == {"mean": 6, "log_std": 6}
    assert head_outputs(Head("squashed"), ActionSpec("box", ())) == {"mean": 1, "log_std": 1}
