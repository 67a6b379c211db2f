"""What an algorithm is: a policy that acts on clients, and a ``learn`` that improves it."""

from collections.abc import Iterable, Iterator, Sequence
from typing import Any, Protocol, runtime_checkable

from torch import Tensor, nn

from soulsai.types import Fragment, Head, Leaf, Metrics, Spec

Tensors = dict[str, Tensor]


class Policy(nn.Module):
    """What clients run: its forward pass becomes the program, its ``state_dict`` the weights.

    Observation statistics belong in here as buffers, so that they travel with the weights.
    """

    head: Head
    inputs: tuple[str, ...]  # observation leaves the forward pass reads, in order
    outputs: tuple[str, ...]  # what it returns, in order
    memory: dict[str, Leaf]  # what a recurrent policy remembers per environment
    extras: dict[str, Leaf]  # per-step columns its head adds to a fragment

    quota: int | None = None  # env steps the whole fleet may take under one version, then it waits
    eager: bool = False  # publish every update; otherwise the node publishes as it sees fit
    warmup: int = 0  # env steps that are collected before anything is learnt
    fault: str = ""  # why learning cannot go on: then the node goes back to the last checkpoint
    newest: tuple[int, int] = (0, 0)  # generation and version that went out last, says the node
    knobs: dict[str, float]  # numbers for the head, published with every version

    def __init__(self, head: Head, spec: Spec, outputs: tuple[str, ...]) -> None:
        super().__init__()
        self.head = head
        self.inputs = tuple(spec.seen)
        self.outputs = outputs
        self.memory = {}
        self.extras = {}
        self.knobs = {}

    def forward(self, obs: Tensors, memory: Tensors) -> tuple[Tensors, Tensors]:
        """Map leaves [B, ...] to ``outputs`` [B, ...] and the next memory [B, ...]."""
        raise NotImplementedError

    def twin(self) -> "Policy":
        """Return the policy that is exported and broadcast: itself, unless layers must be folded.

        Its ``state_dict`` has the names and shapes of the program's weights.
        """
        return self


class Stateful(Protocol):
    """Anything that can be saved: modules, optimisers, replay, statistics, random generators.

    ``state_dict`` holds tensors, NumPy arrays, numbers, strings, and lists and dicts of those.
    """

    def state_dict(self) -> dict[str, Any]:
        """Return all that must survive."""
        ...

    def load_state_dict(self, state_dict: dict[str, Any], /) -> Any:
        """Take over what ``state_dict`` returned."""
        ...


@runtime_checkable
class Forgetful(Protocol):
    """A part that holds experience, and can let go of one client's."""

    def forget(self, client: str) -> int:
        """Remove what came of a client; return how much that was, in transitions or env steps."""
        ...


class Algorithm(Protocol):
    """Runs on the training node.

    Built as ``Kind(config, spec, seed=..., steps=..., realtime=...)``, where ``config`` is of type
    ``Kind.Config``, ``steps`` the env steps planned (0: unknown) and ``seed`` the only source of
    randomness.
    """

    policy: Policy
    parts: dict[str, Stateful]  # all that must survive a crash, by the name it is saved under

    def learn(self, arrivals: Iterable[Sequence[Fragment]]) -> Iterator[Metrics]:
        """Turn experience into better weights, for as long as experience arrives.

        ``for fragments in arrivals`` takes what came, possibly nothing; each ``yield`` hands over
        the metrics of one update. The node saves, publishes and stops only while the algorithm
        waits for arrivals, so between two updates it must ask for them. When ``arrivals`` ends,
        so does the generator.
        """
        ...


def remaining(steps: int, planned: int) -> float:
    """Return the share of the planned env steps that is still to come; 1 if no end is planned."""
    return max(0.0, 1.0 - steps / planned) if planned else 1.0
