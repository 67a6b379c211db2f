"""The exported program computes what the network computes, whatever its weights are."""

import contextlib
import io
import logging
from typing import NamedTuple

import msgspec
import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from torch import nn

from soulsai.algorithms.base import Policy
from soulsai.algorithms.dqn.network import QPolicy
from soulsai.algorithms.dqn.settings import DQNSettings
from soulsai.errors import SoulsAIError
from soulsai.training_node import onnx_export
from soulsai.types import ActionSpec, EnvironmentOffer, Head, Leaf, PolicyCard, Program, Spec

torch.set_num_threads(1)

DISCRETE = ActionSpec("discrete", (), (4,))
BOX = ActionSpec("box", (3,), (), (-1.0,) * 3, (1.0,) * 3)
VECTOR = Spec({"obs": Leaf((8,), "<f4")}, DISCRETE)
DICT = Spec(
    {
        "eyes": Leaf((5,), "<f8"),
        "door": Leaf((), "|u1", categories=3),
        "rooms": Leaf((2,), "<i8", categories=4),
        "lamp": Leaf((), "|b1"),
        "mask": Leaf((4,), "|b1"),
    },
    DISCRETE,
)
IMAGE = Spec({"pixels": Leaf((36, 36, 4), "|u1"), "speed": Leaf((2,), "<f4")}, DISCRETE)
SCREEN = Spec({"obs": Leaf((10, 10, 4), "|b1")}, DISCRETE)
LARGE = Spec({"obs": Leaf((3, 132, 150), "|u1")}, DISCRETE)
FRAMES = Spec({"obs": Leaf((4, 60, 60), "|u1")}, DISCRETE)
PICTURES = Spec(
    {
        "grey": Leaf((36, 36), "|u1", 0, 0.0, 255.0),
        "scaled": Leaf((3, 36, 36), "<f4", 0, 0.0, 1.0),
        "deep": Leaf((36, 36), "<u2", 0, 0.0, 65535.0),
        "stack": Leaf((4, 36, 36, 3), "|u1", 0, 0.0, 255.0),
        "score": Leaf((2,), "<i8"),
    },
    DISCRETE,
)
CONTINUOUS = Spec({"obs": Leaf((4,), "<f4")}, BOX)


class Recurrent(Policy):
    """Has a memory, a parameter named like an output, a tied weight, dropout, odd buffers."""

    def __init__(self):
        super().__init__(Head("gaussian"), CONTINUOUS, ("mean", "log_std"))
        self.memory = {"h": Leaf((16,), "<f4")}
        self.log_std = nn.Parameter(torch.randn(3))
        self.register_buffer("count", torch.tensor(5))
        self.register_buffer("unused", torch.tensor(5.0, dtype=torch.float64))
        self.cell = nn.GRUCell(4, 16)
        self.net = nn.Sequential(nn.Linear(16, 3), nn.Dropout(0.5))
        self.tied = nn.Linear(16, 3)
        self.tied.weight = self.net[0].weight

    def forward(self, obs, memory):
        h = self.cell(obs["obs"], memory["h"])
        mean = self.net(h) + self.tied(h) * self.count
        return {"log_std": self.log_std.exp().log().clamp(-5, 2).expand_as(mean), "mean": mean}, {
            "h": h
        }


class Plain(Policy):
    def __init__(self):
        super().__init__(Head("epsilon_greedy"), VECTOR, ("q",))
        self.linear = nn.Linear(8, 4)

    def forward(self, obs, memory):
        return {"q": self.linear(obs["obs"])}, {}


class Folded(Plain):
    """Is exported as a twin whose weight is folded in."""

    def twin(self):
        twin = Plain()
        twin.linear.weight.data = self.linear.weight.data * 2
        twin.linear.bias.data = self.linear.bias.data * 2
        return twin

    def forward(self, obs, memory):
        return {"q": self.linear(obs["obs"]) * 2}, {}


def q(spec, **settings):
    return lambda: QPolicy(DQNSettings(hidden=(32, 32), **settings), spec)


NETWORKS = {
    "dqn": (q(DICT), DICT),
    "dqn, image": (q(IMAGE, layer_norm=False, quantiles=1, normalize_obs=False), IMAGE),
    "dqn, sampled and noisy": (q(DICT, sampled=True, noisy=True), DICT),
    "dqn, residual": (q(VECTOR, network="residual"), VECTOR),
    "dqn, minatar": (q(SCREEN, vision="minatar", normalize_obs=False), SCREEN),
    "dqn, impala": (q(FRAMES, vision="impala", noisy=True, normalize_obs=False), FRAMES),
    "dqn, pooled": (q(LARGE, normalize_obs=False), LARGE),
    "dqn, pictures": (q(PICTURES), PICTURES),
    "recurrent": (Recurrent, CONTINUOUS),
    "folded": (Folded, VECTOR),
}


class Exported(NamedTuple):
    policy: Policy
    spec: Spec
    program: Program
    said: str  # by the exporter, to terminal and log


@pytest.fixture(scope="module", params=NETWORKS)
def exported(request):
    make, spec = NETWORKS[request.param]
    torch.manual_seed(0)
    policy, said = make(), io.StringIO()
    handler = logging.StreamHandler(said)
    handler.setLevel(logging.INFO)
    logging.root.addHandler(handler)
    try:
        with contextlib.redirect_stdout(said), contextlib.redirect_stderr(said):
            program = onnx_export.program(policy.train(), spec)
        assert policy.training
    finally:
        logging.root.removeHandler(handler)
    return Exported(policy, spec, program, said.getvalue())


def inputs(policy, spec, batch):
    rng = np.random.default_rng(batch)
    found = {}
    leaves = {name: spec.obs[name] for name in policy.inputs}
    leaves |= {f"memory_{name}": leaf for name, leaf in policy.memory.items()}
    for name, leaf in leaves.items():
        shape = (batch, *leaf.shape)
        if leaf.dtype[1] == "f":
            found[name] = rng.standard_normal(shape).astype(leaf.dtype)
        else:
            most = leaf.categories or (2 if leaf.dtype == "|b1" else 256)
            found[name] = rng.integers(0, most, shape).astype(leaf.dtype)
    return found


def by_torch(policy, given):
    obs = {name: torch.from_numpy(given[name]) for name in policy.inputs}
    memory = {name: torch.from_numpy(given[f"memory_{name}"]) for name in policy.memory}
    with torch.no_grad():
        outputs, memory = policy.eval()(obs, memory)
    found = {name: outputs[name].numpy() for name in policy.outputs}
    return found | {f"next_memory_{name}": memory[name].numpy() for name in policy.memory}


def by_program(program, arrays, given):
    options = onnxruntime.SessionOptions()
    values = [onnxruntime.OrtValue.ortvalue_from_numpy(array) for array in arrays.values()]
    options.add_external_initializers(list(arrays), values)
    session = onnxruntime.InferenceSession(program.graph, options)
    names = [output.name for output in session.get_outputs()]
    return dict(zip(names, session.run(names, given), strict=True))


def shaken(policy):
    """Other weights, also for buffers and for what is zero."""
    with torch.no_grad():
        for tensor in policy.state_dict().values():
            if tensor.is_floating_point():
                tensor.add_(torch.randn_like(tensor).abs() * 0.3)
            elif tensor.dtype == torch.int64:
                tensor.add_(1)
    return policy


@pytest.mark.parametrize("batch", [1, 7])
def test_program_and_network_agree_after_the_weights_have_changed(exported, batch):
    policy, spec, program, _ = exported
    shaken(policy)
    given = inputs(policy, spec, batch)
    expected = by_torch(policy, given)
    got = by_program(program, onnx_export.weights(policy, program), given)
    assert list(got) == [*program.outputs, *(f"next_memory_{n}" for n in program.memory)]
    for name, array in expected.items():
        assert got[name].dtype == array.dtype
        close(got[name], array)


def close(ours, theirs):
    np.testing.assert_allclose(ours, theirs, rtol=0, atol=1e-5 * max(1.0, np.abs(theirs).max()))


def test_the_graph_is_small_and_its_weights_are_those_of_the_twin(exported):
    policy, spec, program, _ = exported
    state = policy.twin().state_dict()
    for name, leaf in program.weights.items():
        own = state[name.removeprefix("weights.")]
        assert (tuple(own.shape), str(own.numpy().dtype)) == (leaf.shape, np.dtype(leaf.dtype).name)
    assert len(program.graph) < 64_000
    assert "unused" not in program.weights
    assert str(__file__).encode() not in program.graph
    onnx_export.verify(program, policy, spec)


def test_weights_are_copies(exported):
    policy, _, program, _ = exported
    before = onnx_export.weights(policy, program)
    kept = {name: array.copy() for name, array in before.items()}
    shaken(policy)
    assert all(np.array_equal(before[name], kept[name]) for name in kept)
    assert not all(np.array_equal(onnx_export.weights(policy, program)[n], kept[n]) for n in kept)


def test_a_complete_file_needs_nothing_else(exported, tmp_path):
    policy, spec, program, _ = exported
    card = PolicyCard(
        run="run",
        generation=1,
        version=2,
        env_steps=3,
        algorithm="dqn",
        environment=EnvironmentOffer("Env-v0"),
        spec=spec,
        head=program.head,
        inputs=program.inputs,
        outputs=program.outputs,
        memory=program.memory,
    )
    file = tmp_path / "policy.onnx"
    file.write_bytes(onnx_export.complete(program, onnx_export.weights(policy, program), card))
    session = onnxruntime.InferenceSession(file)
    said = session.get_modelmeta().custom_metadata_map["soulsai"]
    assert msgspec.json.decode(said, type=PolicyCard) == card
    given = inputs(policy, spec, 3)
    names = [*card.outputs, *(f"next_memory_{name}" for name in card.memory)]
    got = dict(zip(names, session.run(names, given), strict=True))
    for name, array in by_torch(policy, given).items():
        close(got[name], array)


def test_a_weight_frozen_into_the_graph_is_found():
    policy = Plain()
    program = onnx_export.program(policy, VECTOR)
    model = onnx.load_model_from_string(program.graph)
    (bias,) = [tensor for tensor in model.graph.initializer if tensor.name == "linear.bias"]
    bias.raw_data = policy.linear.bias.detach().numpy().tobytes()
    bias.ClearField("external_data")
    bias.data_location = onnx.TensorProto.DEFAULT
    frozen = msgspec.structs.replace(
        program,
        graph=model.SerializeToString(),
        weights={"linear.weight": program.weights["linear.weight"]},
    )
    with pytest.raises(SoulsAIError, match="twin"):
        onnx_export.verify(frozen, policy, VECTOR)


def test_a_program_of_another_network_is_found(exported):
    other = q(VECTOR)()
    with pytest.raises(SoulsAIError, match="not one of"):
        onnx_export.verify(exported.program, other, VECTOR)


def test_exporting_is_silent(exported):
    assert exported.said == ""
    assert logging.root.manager.disable == logging.NOTSET
