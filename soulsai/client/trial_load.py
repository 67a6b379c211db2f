"""The first load of a stranger's policy: in a process with limits, which may fail in any way.

A small graph may want any amount of memory or time. So it is loaded and run once where it can only
end that process: with bounded memory, processor time and no right to open a file (on Linux; on
other systems the time alone is bounded).
"""

import subprocess
import sys
from pathlib import Path

import msgspec
import numpy as np
from msgspec import Struct

from soulsai.client.actor import Actor
from soulsai.errors import CheckpointError, SoulsAIError, WireError
from soulsai.types import Array, Program, Spec, Weights

MEMORY_BYTES = 512 * 2**20  # beyond that of an idle process, and
MEMORY_FACTOR = 6  # times the bytes of the policy
CPU_SECONDS = 30  # a PC that is busy needs more time, but not more of its processor
WALL_SECONDS = 120.0
_SIZE_FILE = Path("/proc/self/statm")  # its first number is the size of the address space, in pages


class _Request(Struct, frozen=True):
    """A policy to load: a program with weights, or a whole ``policy.onnx``."""

    program: Program | None = None
    spec: Spec | None = None
    weights: dict[str, bytes] = {}
    file: bytes = b""
    memory_bytes: int = 0  # of the process, beyond its size before the load
    cpu_seconds: int = 0


def try_program(program: Program, weights: Weights, spec: Spec) -> None:
    """Load a program with weights and act once, in a process with limits.

    Args:
        program: The run's program.
        weights: The weights of one version.
        spec: The run's observations and actions.

    Raises:
        WireError: That failed or exceeded the limits.
    """
    arrays = {name: array.tobytes() for name, array in weights.arrays.items()}
    if fault := _fault(_Request(program, spec, arrays)):
        raise WireError(f"the policy of this run is not used: {fault}")


def try_file(path: Path) -> None:
    """Load a ``policy.onnx`` and act once, in a process with limits; raise ``CheckpointError``."""
    if fault := _fault(_Request(file=path.read_bytes())):
        raise CheckpointError(f"{path}: is not used: {fault}")


def _fault(request: _Request) -> str:
    """Return the reason why a policy cannot be used, or an empty text."""
    try:
        done = subprocess.run(  # noqa: S603 - our own module
            [sys.executable, "-P", "-m", __name__],
            input=msgspec.msgpack.encode(_with_limits(request)),
            capture_output=True,
            timeout=WALL_SECONDS,
        )
    except subprocess.TimeoutExpired:
        return f"its first load took more than {WALL_SECONDS:.0f} s"
    if done.returncode == 0:
        return ""
    lines = done.stderr.decode(errors="replace").strip().splitlines()
    if done.returncode == 1 and lines:
        return lines[-1][:300]
    return f"its first load ended with {done.returncode} within the limits of memory and time"


def _with_limits(request: _Request) -> _Request:
    size = len(request.file) + sum(map(len, request.weights.values()))
    memory = MEMORY_BYTES + MEMORY_FACTOR * size
    return msgspec.structs.replace(request, memory_bytes=memory, cpu_seconds=CPU_SECONDS)


def limit(memory_bytes: int, cpu_seconds: int) -> None:
    """Bound this process, and let it open no more files; on Linux only.

    Args:
        memory_bytes: Address space beyond its present size.
        cpu_seconds: Processor time.
    """
    if sys.platform != "linux":
        return
    import resource

    pages = int(_SIZE_FILE.read_text("ascii").split()[0])
    memory = pages * resource.getpagesize() + memory_bytes
    limits = (
        (resource.RLIMIT_AS, memory),
        (resource.RLIMIT_CPU, cpu_seconds),
        (resource.RLIMIT_FSIZE, 0),
        (resource.RLIMIT_CORE, 0),
        (resource.RLIMIT_NOFILE, 0),
    )
    for kind, most in limits:
        resource.setrlimit(kind, (most, most))


def main() -> int:
    """Load the policy on the standard input."""
    request = msgspec.msgpack.decode(sys.stdin.buffer.read(), type=_Request)
    limit(request.memory_bytes, request.cpu_seconds)
    try:
        if request.program is None or request.spec is None:
            Actor.from_bytes(request.file)
        else:
            arrays: dict[str, Array] = {
                name: np.frombuffer(request.weights[name], leaf.dtype).reshape(leaf.shape)
                for name, leaf in request.program.weights.items()
            }
            Actor.load(request.program, Weights("", 0, 0, arrays), request.spec)
    except (SoulsAIError, ValueError, MemoryError) as error:
        sys.stderr.write(f"{error}\n")
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
