"""A policy is loaded first where it can end nothing but a process with limits."""

import subprocess
import sys

import msgspec
import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from soulsai.client import trial_load
from soulsai.client.trial_load import try_file, try_program
from soulsai.errors import CheckpointError, WireError
from soulsai.testing.policy import linear_program
from soulsai.types import ActionSpec, Head, Leaf, Spec, Weights

SPEC = Spec({"obs": Leaf((4,), "<f4")}, ActionSpec("discrete", (), (3,)))
PROGRAM, ARRAYS = linear_program(SPEC, Head("epsilon_greedy"))
WEIGHTS = Weights("r", 1, 1, ARRAYS)
LINUX = pytest.mark.skipif(sys.platform != "linux", reason="only Linux bounds memory and files")


def constant(name, values):
    return helper.make_node("Constant", [], [name], value=numpy_helper.from_array(values))


def program(*nodes):
    """Return our program with nodes before its own."""
    model = onnx.load_from_string(PROGRAM.graph)
    model.graph.node.extend(nodes)
    output = nodes[-1].output[0]
    model.graph.output.append(helper.make_tensor_value_info(output, TensorProto.FLOAT, None))
    return msgspec.structs.replace(
        PROGRAM, graph=model.SerializeToString(), outputs=(*PROGRAM.outputs, output)
    )


def large(gigabytes):
    """Return a program of a few bytes whose output takes gigabytes."""
    shape = constant("shape", np.array([1, gigabytes, 2**28], np.int64))
    return program(shape, helper.make_node("ConstantOfShape", ["shape"], ["many"]))


def long():
    """Return a program that multiplies matrices 100,000 times."""
    square = constant("square", np.zeros((256, 256), np.float32))
    body = helper.make_graph(
        [
            helper.make_node("MatMul", ["before", "before"], ["after"]),
            helper.make_node("Identity", ["on"], ["goes_on"]),
        ],
        "body",
        [
            helper.make_tensor_value_info("count", TensorProto.INT64, []),
            helper.make_tensor_value_info("on", TensorProto.BOOL, []),
            helper.make_tensor_value_info("before", TensorProto.FLOAT, [256, 256]),
        ],
        [
            helper.make_tensor_value_info("goes_on", TensorProto.BOOL, []),
            helper.make_tensor_value_info("after", TensorProto.FLOAT, [256, 256]),
        ],
    )
    times = constant("times", np.array(100_000, np.int64))
    loop = helper.make_node("Loop", ["times", "", "square"], ["result"], body=body)
    return program(square, times, loop)


def test_a_program_of_ours_passes():
    try_program(PROGRAM, WEIGHTS, SPEC)


def test_a_program_that_cannot_act_is_refused_with_the_reason():
    other = Spec({"obs": Leaf((5,), "<f4")}, SPEC.action)
    with pytest.raises(WireError, match=r"not used: .*cannot act"):
        try_program(PROGRAM, WEIGHTS, other)


@LINUX
def test_a_small_graph_that_takes_gigabytes_is_refused():
    assert len(large(4).graph) < 2000
    with pytest.raises(WireError, match="not used"):
        try_program(large(4), WEIGHTS, SPEC)


@LINUX
def test_a_graph_that_takes_long_is_refused(monkeypatch):
    monkeypatch.setattr(trial_load, "CPU_SECONDS", 2)
    with pytest.raises(WireError, match="limits of memory and time"):
        try_program(long(), WEIGHTS, SPEC)


def test_a_graph_that_never_ends_is_refused_everywhere(monkeypatch):
    monkeypatch.setattr(trial_load, "WALL_SECONDS", 0.05)
    with pytest.raises(WireError, match="took more than"):
        try_program(PROGRAM, WEIGHTS, SPEC)


def test_a_file_that_is_no_policy_is_refused(tmp_path):
    path = tmp_path / "policy.onnx"
    path.write_bytes(large(4).graph)
    with pytest.raises(CheckpointError, match="not used"):
        try_file(path)


@LINUX
def test_the_process_can_open_no_file_and_take_no_more_memory(tmp_path):
    canary = tmp_path / "canary"
    canary.write_text("secret")
    code = f"""
from soulsai.client.trial_load import limit
limit(64 * 2**20, 10)
for act in (lambda: open({str(canary)!r}), lambda: bytearray(128 * 2**20)):
    try:
        act()
    except (OSError, MemoryError) as error:
        print(type(error).__name__)
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.stdout.split() == ["OSError", "MemoryError"]
