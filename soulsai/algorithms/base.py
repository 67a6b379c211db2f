"""The protocol of an algorithm: a policy that acts on clients, and ``learn`` that improves it."""

from collections.abc import Iterable, Iterator, Sequence
from typing import Any, Protocol, runtime_checkable

from torch import Tensor, nn

from soulsai.types import Fragment, Head, Leaf, Metrics, Spec

Tensors = dict[str, Tensor]

PATIENCE = 32  # skipped updates in a row after which a learner gives up


class Policy(nn.Module):
    """The network that clients run: its forward pass is exported, its ``state_dict`` published.

    Observation statistics are buffers of it, so that they travel with the weights.
    """

    head: Head
    inputs: tuple[str, ...]  # observation leaves that the forward pass reads, in order
    outputs: tuple[str, ...]  # tensors that it returns, in order
    memory: dict[str, Leaf]  # state of a recurrent policy, per environment
    extras: dict[str, Leaf]  # columns per step that its head adds to a fragment

    quota: int | None = None  # env steps the whole fleet may take under one version, then it waits
    eager: bool = False  # publish every update; otherwise the node decides when
    warmup: int = 0  # env steps that are collected before the first update
    dropped: int = 0  # env steps that arrived but are never learnt from
    fault: str = ""  # why learning cannot continue: the node goes back to the last checkpoint
    newest: tuple[int, int] = (0, 0)  # generation and version published last, set by the node
    warm: bool = False  # it has learnt before this run, so that it acts from the first step
    exploration: dict[str, float]  # numbers for the head, published with every version

    def __init__(self, head: Head, spec: Spec, outputs: tuple[str, ...]) -> None:
        super().__init__()
        self.head = head
        self.inputs = tuple(spec.seen)
        self.outputs = outputs
        self.memory = {}
        self.extras = {}
        self.exploration = {}

    def forward(self, obs: Tensors, memory: Tensors) -> tuple[Tensors, Tensors]:
        """Map leaves [B, ...] to ``outputs`` [B, ...] and the next memory [B, ...]."""
        raise NotImplementedError

    def twin(self) -> "Policy":
        """Return the policy to export and publish: this one, unless clients act with another.

        Its ``state_dict`` has the names and shapes of the program's weights.
        """
        return self


class Stateful(Protocol):
    """Anything that can be saved: modules, optimisers, replay, statistics, random generators.

    ``state_dict`` holds tensors, NumPy arrays, numbers, strings, and lists and dicts of those.
    """

    def state_dict(self) -> dict[str, Any]:
        """Return the state to save."""
        ...

    def load_state_dict(self, state_dict: dict[str, Any], /) -> Any:
        """Restore a saved state."""
        ...


@runtime_checkable
class Forgetful(Protocol):
    """A part that holds experience, and can remove that of one client."""

    def forget(self, client: str) -> int:
        """Remove the experience of a client; return its size in transitions or env steps."""
        ...


class Algorithm(Protocol):
    """A learner on the training node.

    It is constructed as ``Kind(config, spec, seed=..., steps=..., realtime=...)``; ``build``
    documents the arguments, and ``config`` is an instance of ``Kind.Config``.
    """

    policy: Policy
    parts: dict[str, Stateful]  # everything a checkpoint saves, by the name it is saved under

    def learn(self, arrivals: Iterable[Sequence[Fragment]]) -> Iterator[Metrics]:
        """Improve the policy for as long as experience arrives.

        The node saves, publishes and stops only while it produces the next item of ``arrivals``,
        so the algorithm must take one after a few updates, a few hundredths of a second of work.

        Args:
            arrivals: Groups of new fragments, often empty. The generator ends when they end.

        Yields:
            The metrics of each update.
        """
        ...


class Skips:
    """Counts updates that were skipped because their loss or gradient was not finite.

    After ``PATIENCE`` of them in a row, ``policy.fault`` is set, and the training node goes back to
    the last good checkpoint.
    """

    def __init__(self, policy: Policy) -> None:
        self.total = 0
        self._policy = policy
        self._in_a_row = 0

    def count(self, *, skipped: bool) -> None:
        """Count one update, skipped or done."""
        self.total += skipped
        self._in_a_row = self._in_a_row + 1 if skipped else 0
        if self._in_a_row >= PATIENCE:
            self._policy.fault = f"{PATIENCE} updates in a row were not finite"

    def restore(self, total: int) -> None:
        """Continue from the total of a checkpoint."""
        self.total, self._in_a_row = total, 0
        self._policy.fault = ""


def remaining(steps: int, planned: int) -> float:
    """Return the fraction of the planned env steps that remains; 1 without a planned end."""
    return max(0.0, 1.0 - steps / planned) if planned else 1.0
