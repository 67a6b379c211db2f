"""Policies for tests: a graph without hidden layers, and a run for it."""

from typing import Any

import msgspec
import numpy as np

from soulsai.client.actor import head_outputs
from soulsai.client.probe import probe
from soulsai.config import schema
from soulsai.types import (
    OLDEST_PROTOCOL,
    PROTOCOL,
    Array,
    EnvironmentOffer,
    Head,
    HeadKind,
    Leaf,
    PolicyCard,
    Program,
    RunSpec,
    Spec,
)
from soulsai.wire.weights import program_digest


def toy_run(
    environment: EnvironmentOffer,
    head: HeadKind = "epsilon_greedy",
    *,
    run: str = "toy",
    memory: bool = False,
    eval_fraction: float = 0.05,
    fragment_steps: int = 64,
    fragment_seconds: float = 60.0,
) -> tuple[RunSpec, Program, dict[str, Array]]:
    """Return a run of an environment, its program, and weights of zeros.

    Args:
        environment: The environment, which is made to read its spec.
        head: The kind of head.
        run: The run's name.
        memory: Whether the program has a memory; see ``linear_program``.
        eval_fraction: Share of greedy episodes.
        fragment_steps: Env steps of a fragment.
        fragment_seconds: Seconds of a fragment.
    """
    spec = probe(
        schema.EnvironmentSettings(
            id=environment.id,
            kwargs=environment.kwargs,
            max_episode_steps=environment.max_episode_steps,
            mask_key=environment.mask_key,
            count=environment.count,
            vector=environment.vector,
        )
    )
    kind = Head(head, eval_fraction=eval_fraction)
    program, weights = linear_program(spec, kind, memory=memory)
    described = RunSpec(
        run=run,
        protocol=PROTOCOL,
        oldest_protocol=OLDEST_PROTOCOL,
        environment=environment,
        spec=spec,
        algorithm="toy",
        program_sha256=program_digest(program),
        fragment_steps=fragment_steps,
        fragment_seconds=fragment_seconds,
        extras={} if head == "epsilon_greedy" else {"logp": Leaf((), "<f4")},
        memory=program.memory,
    )
    return described, program, weights


def linear_program(
    spec: Spec, head: Head, *, memory: bool = False, card: PolicyCard | None = None
) -> tuple[Program, dict[str, Array]]:
    """Return a policy without hidden layers, and weights of zeros for it; it needs ``onnx``.

    Args:
        spec: The observations and actions.
        head: The head, which determines the outputs. They share the weights ``w`` [inputs, outputs]
            and ``b`` [outputs].
        memory: Whether the policy counts its steps in a memory ``count`` [1].
        card: Makes the graph a complete ``policy.onnx``, with the zeros inside.
    """
    import onnx
    from onnx import TensorProto, helper

    choices, numbers = sum(spec.action.sizes), len(spec.action.low)
    size = choices + numbers
    inputs_size = sum(int(np.prod(leaf.shape, dtype=int)) for leaf in spec.seen.values())
    weights = {"w": np.zeros((inputs_size, size), np.float32), "b": np.zeros(size, np.float32)}
    nodes, inputs = _observation(spec)
    nodes.append(helper.make_node("Gemm", ["observation", "w", "b"], ["all"]))
    sizes = head_outputs(head, spec.action)
    if head.kind == "hybrid":
        nodes.append(helper.make_node("Split", ["all", "split"], ["logits", "mean"], axis=1))
        nodes.append(helper.make_node("Identity", ["mean"], ["log_std"]))
    else:
        nodes += [helper.make_node("Identity", ["all"], [name]) for name in sizes]
    outputs = [
        helper.make_tensor_value_info(name, TensorProto.FLOAT, ["batch", each])
        for name, each in sizes.items()
    ]
    if memory:
        count = helper.make_tensor_value_info("memory_count", TensorProto.FLOAT, ["batch", 1])
        inputs.append(count)
        nodes.append(helper.make_node("Add", ["memory_count", "one"], ["next_memory_count"]))
        after = helper.make_tensor_value_info("next_memory_count", TensorProto.FLOAT, ["batch", 1])
        outputs.append(after)
    constants = [
        helper.make_tensor("flat", TensorProto.INT64, [2], [0, -1]),
        helper.make_tensor("one", TensorProto.FLOAT, [1], [1.0]),
        helper.make_tensor("split", TensorProto.INT64, [2], [choices, numbers]),
        *(_initializer(name, array, inside=card is not None) for name, array in weights.items()),
    ]
    graph = helper.make_graph(nodes, "linear", inputs, outputs, constants)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=10)
    if card is not None:
        text = msgspec.json.encode(card).decode()
        onnx.helper.set_model_props(model, {"soulsai": text})
    program = Program(
        graph=model.SerializeToString(),
        location="weights",
        inputs=tuple(spec.seen),
        outputs=tuple(sizes),
        head=head,
        weights={name: Leaf(array.shape, "<f4") for name, array in weights.items()},
        memory={"count": Leaf((1,), "<f4")} if memory else {},
    )
    return program, weights


def _observation(spec: Spec) -> tuple[list[Any], list[Any]]:
    """Return the nodes that flatten all leaves into one row, and the graph's inputs."""
    from onnx import TensorProto, helper

    nodes, inputs, flat = [], [], []
    for name, leaf in spec.seen.items():
        kind = helper.np_dtype_to_tensor_dtype(np.dtype(leaf.dtype))
        inputs.append(helper.make_tensor_value_info(name, kind, ["batch", *leaf.shape]))
        nodes.append(helper.make_node("Cast", [name], [f"{name}/f"], to=TensorProto.FLOAT))
        nodes.append(helper.make_node("Reshape", [f"{name}/f", "flat"], [f"{name}/flat"]))
        flat.append(f"{name}/flat")
    nodes.append(helper.make_node("Concat", flat, ["observation"], axis=1))
    return nodes, inputs


def _initializer(name: str, array: Array, *, inside: bool) -> Any:
    """Return an ONNX initialiser, with its numbers inside or in an external file."""
    from onnx import StringStringEntryProto, TensorProto, numpy_helper

    if inside:
        return numpy_helper.from_array(array, name)
    tensor = TensorProto(name=name, data_type=TensorProto.FLOAT, dims=array.shape)
    tensor.data_location = TensorProto.EXTERNAL
    tensor.external_data.append(StringStringEntryProto(key="location", value="weights"))
    return tensor
