"""How an algorithm shares its updates among processes, its *ranks*; alone, nothing is done.

Every rank holds the same weights. The first one has the experience and says what is to be done;
each computes the gradient of its part of the batch, the mean of these is everybody's gradient, and
all take the same step.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Protocol, runtime_checkable

import torch
from torch import Tensor, nn

from soulsai.algorithms.base import Tensors

HELD = "held."  # what the names of tensors begin with that all ranks hold alike

Step = Callable[[Tensors], object]
Weights = Sequence[Tensor | float]  # of what a rank has found, among all ranks


class Ranks(Protocol):
    """The processes that update together, as one of them sees the others."""

    def average(
        self, *tensors: Tensor, weights: Weights = (), finite: Tensor | None = None
    ) -> None:
        """Replace each tensor by its mean over all ranks, by its weight if there are ``weights``.

        If anything of ``finite`` is not, on any rank, then nothing is finite on all of them: so
        they leave out an update together.
        """
        ...

    def gather(self, *columns: Tensor) -> list[Tensor]:
        """Return columns [b, ...] as they are for all ranks together, on the first of them."""
        ...

    def tell(self, step: str, cut: Tensors, whole: Tensors) -> Tensors:
        """Let the others do a step, each with a part of ``cut``; return the part that is ours.

        What is ``whole`` goes to everybody; of what they hold, they hold this from now on.
        """
        ...


class Alone:
    """One process, which has nobody to share with."""

    def average(
        self, *tensors: Tensor, weights: Weights = (), finite: Tensor | None = None
    ) -> None:
        """Do nothing."""

    def gather(self, *columns: Tensor) -> list[Tensor]:
        """Return the columns."""
        return list(columns)

    def tell(self, step: str, cut: Tensors, whole: Tensors) -> Tensors:  # noqa: ARG002
        """Return everything."""
        return cut


ALONE = Alone()


@runtime_checkable
class Shareable(Protocol):
    """An algorithm whose updates can be shared."""

    def share(self, ranks: Ranks) -> Mapping[str, Step]:
        """Update with others from now on; return what they must be able to do, by name."""
        ...

    def held(self) -> Tensors:
        """Return what all ranks must hold alike, under names that begin with ``HELD``."""
        ...


def hold(**parts: Tensor | Mapping[str, Tensor]) -> Tensors:
    """Return tensors, and those of dicts, under names for ``Shareable.held``."""
    held: Tensors = {}
    for name, part in parts.items():
        if isinstance(part, Tensor):
            held[f"{HELD}{name}"] = part
        else:
            held |= {f"{HELD}{name}.{key}": tensor for key, tensor in part.items()}
    return held


def buffers(**modules: nn.Module) -> Tensors:
    """Return what changes in modules beside their weights, under names for ``Shareable.held``."""
    return hold(**{name: dict(module.named_buffers()) for name, module in modules.items()})


def adopt(held: Tensors, columns: Tensors) -> None:
    """Take over what the first rank holds."""
    with torch.no_grad():
        for name in held.keys() & columns.keys():
            held[name].copy_(columns[name])
