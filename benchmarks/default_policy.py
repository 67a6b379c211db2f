"""The default policy of DQN as a training node publishes it, for measurements without a learner."""

from typing import Any

from soulsai.config.schema import Config
from soulsai.training_node.onnx_export import program, weights
from soulsai.training_node.start import build_algorithm
from soulsai.types import (
    OLDEST_PROTOCOL,
    PROTOCOL,
    Array,
    EnvironmentOffer,
    Program,
    RunSpec,
    Spec,
)
from soulsai.wire.weights import program_digest

RUN = "bench"


def default_policy(
    offer: EnvironmentOffer, spec: Spec, **more: Any
) -> tuple[RunSpec, Program, dict[str, Array]]:
    """Return a run of the default policy, its program, and its weights.

    Args:
        offer: The environment.
        spec: Its observations and actions.
        more: Further fields of the run.
    """
    policy = build_algorithm(Config(), spec, seed=0).policy
    graph = program(policy, spec)
    return run_of(offer, spec, graph, **more), graph, weights(policy, graph)


def run_of(offer: EnvironmentOffer, spec: Spec, graph: Program, **more: Any) -> RunSpec:
    """Return a run whose clients play a program of DQN.

    Args:
        offer: The environment.
        spec: Its observations and actions.
        graph: The program.
        more: Further fields of the run.
    """
    return RunSpec(
        run=RUN,
        protocol=PROTOCOL,
        oldest_protocol=OLDEST_PROTOCOL,
        environment=offer,
        spec=spec,
        algorithm="dqn",
        program_sha256=program_digest(graph),
        **more,
    )
