"""Runs, episodes and a training node that answers, for the tests of the telemetry node."""

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from soulsai.telemetry_node.node import TelemetryNode
from soulsai.types import (
    PROTOCOL,
    ActionSpec,
    Answer,
    EnvironmentOffer,
    Episode,
    Head,
    Leaf,
    Program,
    RunSpec,
    SaveBest,
    Spec,
)
from soulsai.wire.training_role import TrainingRole
from soulsai.wire.weights import program_digest

PROGRAM = Program(b"graph", "weights", ("obs",), ("q",), Head("epsilon_greedy"), {})


def run_spec(run: str) -> RunSpec:
    return RunSpec(
        run=run,
        protocol=PROTOCOL,
        oldest_protocol=PROTOCOL,
        environment=EnvironmentOffer("Toy-v0"),
        spec=Spec({"obs": Leaf((2,), "<f4")}, ActionSpec("discrete", sizes=(2,))),
        algorithm="dqn",
        program_sha256=program_digest(PROGRAM),
    )


def episode(number: int, reward: float = 1.0, *, version: int = 1, greedy: bool = False) -> Episode:
    return Episode(
        generation=1,
        version=version,
        episode=number,
        reward=reward,
        steps=10,
        seconds=0.5,
        terminated=True,
        greedy=greedy,
        epsilon=0.1,
        client="one",
        env_steps=10 * number,
        time=1e9 + number,
    )


def drain(node: TelemetryNode) -> None:
    while node.turn(0.0):
        pass


def until(condition: Callable[[], object], seconds: float = 30.0) -> None:
    """Wait until a condition holds; fail if it does not in time."""
    deadline = time.monotonic() + seconds
    tick = threading.Event()
    while not condition():
        assert time.monotonic() < deadline, "waited too long"
        tick.wait(0.005)


@contextmanager
def beside(work: Callable[[], object]) -> Iterator[None]:
    """Repeat ``work`` in a thread while the block runs."""
    over = threading.Event()

    def repeat() -> None:
        while not over.wait(0.002):
            work()

    thread = threading.Thread(target=repeat)
    thread.start()
    try:
        yield
    finally:
        over.set()
        thread.join()


@contextmanager
def answering(
    training: TrainingRole, answer: Callable[[SaveBest], Answer]
) -> Iterator[list[SaveBest]]:
    """Answer commands as a training node does; gives the list of what was asked."""
    asked: list[SaveBest] = []

    def serve() -> None:
        for request in training.requests():
            assert isinstance(request.command, SaveBest)
            asked.append(request.command)
            training.answer(request, answer(request.command))

    with beside(serve):
        yield asked
