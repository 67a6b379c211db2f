"""Export of the policy as a program: an ONNX graph with external weights, for use without torch."""

import copy
import io
import logging
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, redirect_stderr, redirect_stdout
from itertools import chain
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import torch
from torch import Tensor, nn

from soulsai.algorithms.base import Policy
from soulsai.algorithms.custom_networks import random_leaves
from soulsai.errors import CheckpointError, SoulsAIError
from soulsai.types import Array, Leaf, PolicyCard, Program, Spec, zeros

LOCATION = "weights"  # the name that the graph gives to the file of its weights
METADATA = "soulsai"  # the key of the PolicyCard in a complete file
TOLERANCE = 1e-4  # of verify, relative to the largest output
_INNER = "policy."
_APART = "weights."  # the prefix of a weight if the graph uses its name for another value


def program(policy: Policy, spec: Spec) -> Program:
    """Return the policy as a program; the first call takes seconds, because of imports."""
    twin = copy.deepcopy(policy.twin()).cpu().eval()
    graph, weights = _trace(twin, spec)
    return Program(
        graph=graph,
        location=LOCATION,
        inputs=twin.inputs,
        outputs=twin.outputs,
        head=twin.head,
        weights=weights,
        memory=twin.memory,
    )


def weights(policy: Policy, program: Program) -> dict[str, Array]:
    """Return a copy of the policy's weights, by the names and in the dtypes of the program."""
    state = policy.twin().state_dict()
    missing = [name for name in program.weights if _key(name, state) not in state]
    if missing:
        raise SoulsAIError(f"the policy has no weight {missing[0]!r} any more")
    return {
        name: _own_copy(state[_key(name, state)], leaf) for name, leaf in program.weights.items()
    }


def complete(program: Program, arrays: dict[str, Array], card: PolicyCard) -> bytes:
    """Return a complete ``policy.onnx``, with weights and description inside.

    Args:
        program: The graph.
        arrays: Its weights, by name.
        card: The description; it becomes the metadata ``soulsai``.
    """
    import onnx

    model = onnx.load_model_from_string(program.graph)
    for tensor in model.graph.initializer:
        if tensor.name in program.weights:
            leaf = program.weights[tensor.name]
            tensor.raw_data = np.ascontiguousarray(arrays[tensor.name], leaf.dtype).tobytes()
            tensor.ClearField("external_data")
            tensor.data_location = onnx.TensorProto.DEFAULT
    model.metadata_props.add(key=METADATA, value=msgspec.json.encode(card).decode())
    data: bytes = model.SerializeToString()
    return data


def weights_of(path: Path) -> dict[str, Tensor]:
    """Return the weights in a ``policy.onnx``, by their names in the network.

    Raises:
        CheckpointError: The file is no policy.
    """
    import onnx

    try:
        model = onnx.load(path, load_external_data=False)
        arrays = {each.name: onnx.numpy_helper.to_array(each) for each in model.graph.initializer}
    except Exception as error:  # protobuf and onnx raise errors of many kinds
        line = " ".join(str(error).split())[:200]
        raise CheckpointError(f"{path}: is not a policy of SoulsAI: {line}") from error
    return {
        name.removeprefix(_APART): torch.from_numpy(array.copy())
        for name, array in arrays.items()
        if "." in name  # the names of constants in the graph have none
    }


def verify(program: Program, policy: Policy, spec: Spec) -> None:
    """Compare the program with the network, under other weights than those of the export.

    This finds weights that were frozen into the graph.

    Args:
        program: The exported program.
        policy: The network.
        spec: The observations.

    Raises:
        SoulsAIError: The outputs differ.
    """
    twin = copy.deepcopy(policy.twin()).cpu().eval()
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for tensor in chain(twin.parameters(), twin.buffers()):
            if tensor.is_floating_point():
                tensor.mul_(1.0 + 0.1 * torch.randn(tensor.shape, generator=generator))
    state = twin.state_dict()
    for name, leaf in program.weights.items():
        own = state.get(_key(name, state))
        if own is None or tuple(own.shape) != leaf.shape:
            raise SoulsAIError(f"the program's weight {name!r} is not one of the network's")
    inputs = random_leaves(_inputs(twin, spec), 3)
    with torch.no_grad():
        expected = _Positional(twin)(*(torch.from_numpy(array) for array in inputs.values()))
    names = [*program.outputs, *(f"next_memory_{name}" for name in program.memory)]
    got = _run(program, weights(twin, program), names, inputs)
    for name, ours, theirs in zip(names, expected, got, strict=True):
        _compare(name, ours.numpy(), theirs)


def reason(error: BaseException) -> str:
    """Return why an export has failed, in one line: the exporter's own messages have pages."""
    while error.__cause__ is not None:
        error = error.__cause__
    first = next((line for line in str(error).splitlines() if line.strip()), "")
    return f"{type(error).__name__}: {' '.join(first.split())[:300]}"


class _Positional(nn.Module):
    """A policy with plain tensors as inputs and outputs, as a graph has them."""

    def __init__(self, policy: Policy) -> None:
        super().__init__()
        self.policy = policy

    def forward(self, *tensors: Tensor) -> tuple[Tensor, ...]:
        policy = self.policy
        obs = dict(zip(policy.inputs, tensors, strict=False))
        memory = dict(zip(policy.memory, tensors[len(policy.inputs) :], strict=True))
        outputs, following = policy(obs, memory)
        return (
            *(outputs[name] for name in policy.outputs),
            *(following[name] for name in policy.memory),
        )


def _trace(twin: Policy, spec: Spec) -> tuple[bytes, dict[str, Leaf]]:
    """Return the graph, serialised, and its weights."""
    from onnxscript import ir

    samples = _inputs(twin, spec)
    batch = torch.export.Dim("batch")
    with _quiet():
        exported: Any = torch.onnx.export(
            _Positional(twin),
            tuple(torch.from_numpy(zeros(leaf, 2)) for leaf in samples.values()),
            input_names=list(samples),
            output_names=[*twin.outputs, *(f"next_memory_{name}" for name in twin.memory)],
            dynamic_shapes=(tuple({0: batch} for _ in samples),),
            dynamo=True,
            optimize=False,
            verbose=False,
        )
        values = dict(exported.model.graph.initializers)
        tensors = {name: value.const_value for name, value in values.items()}
        for value in values.values():
            value.const_value = None  # the optimiser would fold weights into constants
        exported.optimize()
        leaves = _set_apart(exported.model.graph, tensors)
        for node in exported.model.graph:
            node.metadata_props.clear()  # stack traces of this machine
            node.doc_string = None
        data: bytes = ir.to_proto(exported.model).SerializeToString()
    order = {name: number for number, name in enumerate(twin.state_dict())}
    return data, dict(sorted(leaves.items(), key=lambda item: order[_key(item[0], order)]))


def _set_apart(graph: Any, tensors: dict[str, Any]) -> dict[str, Leaf]:
    """Make tensors external, under the names of the state_dict; return their leaves."""
    from onnxscript import ir

    taken = {value.name for node in graph for value in node.outputs}
    taken |= {value.name for value in graph.inputs} | set(graph.initializers) - set(tensors)
    leaves: dict[str, Leaf] = {}
    offset = 0
    for name, tensor in tensors.items():
        value = graph.initializers.pop(name, None)
        if value is None:  # the optimiser has removed it, because no output depends on it
            continue
        plain = name.removeprefix(_INNER)
        value.name = _APART + plain if plain in taken else plain
        value.const_value = ir.ExternalTensor(
            LOCATION, offset, tensor.nbytes, tensor.dtype, shape=tensor.shape, name=value.name
        )
        graph.initializers[value.name] = value
        array = tensor.numpy()
        leaves[value.name] = Leaf(array.shape, array.dtype.str)
        offset += tensor.nbytes
    return leaves


def _inputs(policy: Policy, spec: Spec) -> dict[str, Leaf]:
    memory = {f"memory_{name}": leaf for name, leaf in policy.memory.items()}
    return {name: spec.obs[name] for name in policy.inputs} | memory


def _run(
    program: Program, arrays: dict[str, Array], names: list[str], inputs: dict[str, Array]
) -> list[Array]:
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    options.log_severity_level = 3
    values = [onnxruntime.OrtValue.ortvalue_from_numpy(array) for array in arrays.values()]
    options.add_external_initializers(list(arrays), values)
    session = onnxruntime.InferenceSession(
        program.graph, options, providers=["CPUExecutionProvider"]
    )
    outputs: list[Array] = session.run(names, inputs)
    return outputs


def _compare(name: str, ours: Array, theirs: Array) -> None:
    scale = max(1.0, float(np.abs(ours).max(initial=0.0)))
    if ours.shape != theirs.shape or not np.allclose(
        ours, theirs, rtol=0.0, atol=TOLERANCE * scale, equal_nan=True
    ):
        raise SoulsAIError(
            f"the exported policy's {name!r} differs from the network's; weights that are computed "
            "in the forward pass must be folded in by the policy's twin"
        )


def _key(name: str, state: Mapping[str, Any]) -> str:
    return name if name in state else name.removeprefix(_APART)


def _own_copy(tensor: Tensor, leaf: Leaf) -> Array:
    array: Array = tensor.detach().cpu().numpy().astype(leaf.dtype, order="C", copy=True)
    return array


@contextmanager
def _quiet() -> Iterator[None]:
    """Hide the exporter's reports; its errors are raised."""
    before = logging.root.manager.disable
    logging.disable(logging.ERROR)
    try:
        with (
            warnings.catch_warnings(),
            redirect_stdout(io.StringIO()),
            redirect_stderr(io.StringIO()),
        ):
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(before)
