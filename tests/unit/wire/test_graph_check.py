"""A graph from a stranger reads no files, and is bounded, before ONNX Runtime sees it."""

import msgspec
import numpy as np
import onnx
import pytest
from hypothesis import given
from hypothesis import strategies as st
from onnx import AttributeProto, StringStringEntryProto, TensorProto, helper, numpy_helper

from soulsai.client.actor import Actor
from soulsai.errors import CheckpointError, WireError
from soulsai.testing.policy import linear_program
from soulsai.types import ActionSpec, Head, Leaf, Spec, Weights
from soulsai.wire import graph_check
from soulsai.wire.graph_check import check_graph

SPEC = Spec({"obs": Leaf((4,), "<f4")}, ActionSpec("discrete", (), (3,)))
PROGRAM, ARRAYS = linear_program(SPEC, Head("epsilon_greedy"))


def check(model):
    check_graph(model.SerializeToString(), PROGRAM.weights)


def external(location="canary", name="w", **entries):
    """Return a tensor with a place outside the graph."""
    tensor = TensorProto(name=name, data_type=TensorProto.FLOAT, dims=[4, 3])
    tensor.data_location = TensorProto.EXTERNAL
    for key, value in {"location": location, **entries}.items():
        tensor.external_data.append(StringStringEntryProto(key=key, value=value))
    return tensor


def model():
    return onnx.load_from_string(PROGRAM.graph)


def constant(tensor):
    return helper.make_node("Constant", [], ["it"], value=tensor)


def nested(levels):
    graph = helper.make_graph([], "inner", [], [], [external()] if levels == 1 else [])
    for _ in range(levels - 1):
        graph = helper.make_graph(
            [helper.make_node("If", ["c"], [], then_branch=graph)], "g", [], []
        )
    return helper.make_node("If", ["c"], [], then_branch=graph)


def test_a_program_of_ours_passes():
    check(model())
    offsets = model()
    for tensor in offsets.graph.initializer:
        if tensor.external_data:
            tensor.external_data.append(StringStringEntryProto(key="offset", value="0"))
            tensor.external_data.append(StringStringEntryProto(key="length", value="48"))
    check(offsets)


@pytest.mark.parametrize(
    "location",
    ["canary", "weights/canary", "./weights", "weights ", "WEIGHTS", "", "/canary", "a\\b"],
)
def test_only_our_one_place_is_accepted(location):
    graph = model()
    graph.graph.initializer.append(external(location))
    with pytest.raises(ValueError, match="another file"):
        check(graph)


@pytest.mark.parametrize(
    "tensor",
    [
        external("weights", name="other"),
        external("weights", name=""),
    ],
)
def test_only_weights_that_are_handed_over_may_have_it(tensor):
    graph = model()
    graph.graph.initializer.append(tensor)
    with pytest.raises(ValueError, match="no weight"):
        check(graph)


def test_an_entry_without_the_flag_or_a_flag_without_an_entry_is_refused():
    graph = model()
    unmarked = external("canary", name="other")
    unmarked.data_location = TensorProto.DEFAULT
    graph.graph.initializer.append(unmarked)
    with pytest.raises(ValueError, match="no weight"):
        check(graph)
    graph = model()
    marked = TensorProto(name="w", data_location=TensorProto.EXTERNAL)
    graph.graph.initializer.append(marked)
    with pytest.raises(ValueError, match="another file"):
        check(graph)


@pytest.mark.parametrize("entries", [{"checksum": "0"}, {"basepath": "/"}])
def test_other_keys_of_a_place_are_refused(entries):
    graph = model()
    graph.graph.initializer.append(external("weights", **entries))
    with pytest.raises(ValueError, match="gives its weights"):
        check(graph)


def test_two_locations_of_one_tensor_are_refused():
    graph = model()
    tensor = external("weights")
    tensor.external_data.append(StringStringEntryProto(key="location", value="canary"))
    graph.graph.initializer.append(tensor)
    with pytest.raises(ValueError, match="another file"):
        check(graph)


@pytest.mark.parametrize(
    "node",
    [
        constant(external()),
        constant(external("weights")),
        nested(1),
        helper.make_node("Many", [], [], tensors=[external()]),
    ],
)
def test_tensors_in_attributes_and_inner_graphs_have_no_place(node):
    graph = model()
    graph.graph.node.append(node)
    with pytest.raises(ValueError, match="no weight"):
        check(graph)


def test_graphs_are_not_nested_deeply():
    graph = model()
    graph.graph.node.append(nested(3))
    check(graph)
    graph.graph.node.append(nested(9))
    with pytest.raises(ValueError, match="nested"):
        check(graph)


def test_other_constructs_are_refused():
    graph = model()
    graph.graph.node.append(helper.make_node("Custom", [], [], domain="org.other"))
    with pytest.raises(ValueError, match="of the domain"):
        check(graph)
    graph = model()
    graph.functions.add(name="f")
    with pytest.raises(ValueError, match="functions"):
        check(graph)
    graph = model()
    graph.training_info.add()
    with pytest.raises(ValueError, match="training"):
        check(graph)
    graph = model()
    graph.graph.sparse_initializer.add()
    with pytest.raises(ValueError, match="sparse"):
        check(graph)
    graph = model()
    node = graph.graph.node.add(op_type="Constant")
    node.attribute.add(name="sparse_value", type=AttributeProto.SPARSE_TENSOR).sparse_tensor.dims[
        :
    ] = [1]
    with pytest.raises(ValueError, match="sparse"):
        check(graph)


def test_nodes_and_bytes_are_bounded(monkeypatch):
    graph = model()
    monkeypatch.setattr(graph_check, "MOST_NODES", len(graph.graph.node))
    check(graph)
    graph.graph.node.append(helper.make_node("Relu", ["q"], ["r"]))
    with pytest.raises(ValueError, match="nodes"):
        check(graph)
    with pytest.raises(ValueError, match="more than 100"):
        check_graph(PROGRAM.graph, PROGRAM.weights, most_bytes=100)


def test_a_model_in_the_format_of_the_runtime_is_refused():
    with pytest.raises(ValueError, match="format of ONNX Runtime"):
        check_graph(b"\x18\x00\x00\x00ORTM" + bytes(100))


@given(st.binary(max_size=200), st.integers(0, 10_000))
def test_any_bytes_pass_or_are_a_value_error(data, at):
    at %= len(PROGRAM.graph)
    for some in (data, PROGRAM.graph[:at] + data, PROGRAM.graph[:at] + data + PROGRAM.graph[at:]):
        try:
            check_graph(some, PROGRAM.weights)
        except ValueError:
            continue


@given(st.binary(max_size=30), st.integers(0, 10_000))
def test_no_reading_of_protobuf_finds_a_place_that_the_check_passed(data, at):
    graph = model()
    graph.graph.initializer.append(external())
    raw = graph.SerializeToString()
    at %= len(raw)
    changed = raw[:at] + data + raw[at + len(data) :]
    try:
        check_graph(changed, PROGRAM.weights)
        read = onnx.load_from_string(changed)
    except Exception:
        return
    for tensor in read.graph.initializer:
        for entry in tensor.external_data:
            assert entry.key != "location" or entry.value == "weights"


def test_a_client_refuses_such_a_program_before_it_makes_a_session(monkeypatch):
    graph = model()
    graph.graph.node.append(constant(external()))
    program = msgspec.structs.replace(PROGRAM, graph=graph.SerializeToString())
    monkeypatch.setattr("onnxruntime.InferenceSession", None)
    with pytest.raises(WireError, match="names a file"):
        Actor.load(program, Weights("r", 1, 1, ARRAYS), SPEC)


def test_a_server_cannot_choose_the_place(monkeypatch):
    graph = model()
    for tensor in graph.graph.initializer:
        for entry in tensor.external_data:
            entry.value = "canary"
    program = msgspec.structs.replace(PROGRAM, graph=graph.SerializeToString(), location="canary")
    monkeypatch.setattr("onnxruntime.InferenceSession", None)
    with pytest.raises(WireError, match="another file"):
        Actor.load(program, Weights("r", 1, 1, ARRAYS), SPEC)


def test_a_policy_of_a_stranger_is_refused_too(tmp_path, monkeypatch):
    graph = model()
    for tensor in graph.graph.initializer:
        if tensor.external_data:
            tensor.CopyFrom(numpy_helper.from_array(np.zeros((4, 3), np.float32), tensor.name))
    graph.graph.initializer.append(external("weights"))
    path = tmp_path / "policy.onnx"
    path.write_bytes(graph.SerializeToString())
    monkeypatch.setattr("onnxruntime.InferenceSession", None)
    with pytest.raises(CheckpointError, match="names a file"):
        Actor.from_file(path)
