"""The policy program in ONNX Runtime: from observations to outputs and the next memory."""

import os
from pathlib import Path
from typing import Any, Self

import msgspec
import numpy as np
import onnxruntime as ort

from soulsai.errors import CheckpointError, WireError
from soulsai.types import (
    CARD_FORMAT,
    ActionSpec,
    Array,
    Head,
    Leaf,
    PolicyCard,
    Program,
    Spec,
    Weights,
    zeros,
)
from soulsai.wire.graph_check import MOST_FILE_BYTES, check_graph

METADATA_KEY = "soulsai"  # of a policy.onnx: the JSON of its PolicyCard

Arrays = dict[str, Array]


class Actor:
    """One version of a policy, which acts for any number of environments at once."""

    def __init__(
        self,
        session: ort.InferenceSession,
        inputs: tuple[str, ...],
        outputs: tuple[str, ...],
        *,
        memory: dict[str, Leaf],
        generation: int,
        version: int,
    ) -> None:
        self.generation = generation
        self.version = version
        self.memory = memory
        self._session = session
        self._inputs = inputs
        self._outputs = outputs
        self._results = [*outputs, *(f"next_memory_{name}" for name in memory)]
        self._references: list[Any] = []  # arrays that the session reads and does not own

    def __repr__(self) -> str:
        return f"Actor({self.generation}-{self.version})"

    @classmethod
    def load(cls, program: Program, weights: Weights, spec: Spec) -> Self:
        """Return an actor, after a trial on zeros.

        Args:
            program: The run's program, without weights.
            weights: The weights of one version.
            spec: The run's observations and actions.

        Raises:
            WireError: The program cannot act with these weights.
        """
        names = list(program.weights)
        values = [ort.OrtValue.ortvalue_from_numpy(weights.arrays[name]) for name in names]
        options = _options()
        options.add_external_initializers(names, values)
        try:
            check_graph(program.graph, program.weights)
            session = ort.InferenceSession(program.graph, options, ["CPUExecutionProvider"])
            actor = cls(
                session,
                program.inputs,
                program.outputs,
                memory=program.memory,
                generation=weights.generation,
                version=weights.version,
            )
            actor._references = [values, weights.arrays]
            actor.rehearse(spec, program.head)
        except Exception as error:  # ONNX Runtime's errors have no common base
            raise WireError(
                f"weights {weights.generation}-{weights.version} cannot act: {_one_line(error)}"
            ) from error
        return actor

    @classmethod
    def from_file(cls, path: Path) -> tuple[Self, PolicyCard]:
        """Load a ``policy.onnx``, which contains its weights and its card."""
        if not path.is_file():
            raise CheckpointError(f"{path}: no such file")
        if path.stat().st_size > MOST_FILE_BYTES:
            raise CheckpointError(f"{path}: has more than {MOST_FILE_BYTES} bytes")
        try:
            return cls.from_bytes(path.read_bytes())
        except ValueError as error:
            raise CheckpointError(f"{path}: is not a policy of SoulsAI: {error}") from error

    @classmethod
    def from_bytes(cls, data: bytes) -> tuple[Self, PolicyCard]:
        """Load the content of a ``policy.onnx``; raise ``ValueError`` if it cannot act."""
        try:
            check_graph(data, most_bytes=MOST_FILE_BYTES)
            session = ort.InferenceSession(data, _options(), ["CPUExecutionProvider"])
            text = session.get_modelmeta().custom_metadata_map[METADATA_KEY]
            card = msgspec.json.decode(text, type=PolicyCard)
            actor = cls(
                session,
                card.inputs,
                card.outputs,
                memory=card.memory,
                generation=card.generation,
                version=card.version,
            )
            actor.rehearse(card.spec, card.head)
        except Exception as error:  # ONNX Runtime's errors have no common base
            raise ValueError(_one_line(error)) from error
        if card.format > CARD_FORMAT:
            raise ValueError(
                f"its card has format {card.format}, and this version of SoulsAI reads "
                f"{CARD_FORMAT}; install a newer one"
            )
        return actor, card

    def __call__(self, obs: Arrays, memory: Arrays) -> tuple[Arrays, Arrays]:
        """Map leaves [E, ...] and memory [E, ...] to outputs [E, ...] and the next memory."""
        feed = {name: obs[name] for name in self._inputs}
        for name in memory:
            feed[f"memory_{name}"] = memory[name]
        results = self._session.run(self._results, feed)
        outputs = dict(zip(self._outputs, results, strict=False))
        if not memory:
            return outputs, {}
        return outputs, dict(zip(memory, results[len(outputs) :], strict=True))

    def rehearse(self, spec: Spec, head: Head) -> None:
        """Act once on zeros; raise ``ValueError`` if the outputs do not fit the head."""
        obs = {name: zeros(leaf, 1) for name, leaf in spec.seen.items()}
        memory = {name: zeros(leaf, 1) for name, leaf in self.memory.items()}
        outputs, after = self(obs, memory)
        expected = head_outputs(head, spec.action)
        for name, size in expected.items():
            if name not in outputs:
                raise ValueError(f"there is no output {name!r}")
            if outputs[name].shape[:1] != (1,) or outputs[name].size != size:
                raise ValueError(f"output {name!r} has shape {outputs[name].shape}, not {size}")
        for name, before in memory.items():
            if after[name].shape != before.shape or after[name].dtype != before.dtype:
                raise ValueError(f"memory {name!r} comes back as {after[name].shape}")
        for name, array in {**outputs, **after}.items():
            if not np.isfinite(array).all():
                raise ValueError(f"{name!r} is not finite")


def head_outputs(head: Head, action: ActionSpec) -> dict[str, int]:
    """Return the outputs that a head reads, each with its size per environment."""
    if head.kind == "epsilon_greedy":
        return {"q": sum(action.sizes)}
    if head.kind == "categorical":
        return {"logits": sum(action.sizes)}
    if head.kind == "hybrid":
        numbers = len(action.low)
        return {"logits": sum(action.sizes), "mean": numbers, "log_std": numbers}
    size = int(np.prod(action.shape, dtype=int))
    return {"mean": size, "log_std": size}


def _options() -> ort.SessionOptions:
    options = ort.SessionOptions()
    options.intra_op_num_threads = 1
    options.inter_op_num_threads = 1
    # Both cost memory, and their speed does not show with small networks.
    options.enable_cpu_mem_arena = False
    options.enable_mem_pattern = False
    options.log_severity_level = 4
    # Second to check_graph: no place of a tensor is a file below the null device.
    options.add_session_config_entry(
        "session.model_external_initializers_file_folder_path", os.devnull
    )
    options.add_session_config_entry("session.load_model_format", "ONNX")
    return options


def _one_line(error: Exception) -> str:
    return " ".join(f"{type(error).__name__}: {error}".split())[:200]
