"""All parameters of a network in one vector: clipping, Adam and averaging are one call each."""

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor, nn


def flatten(module: nn.Module) -> Tensor:
    """Move all parameters into one vector, of which they become views, and return it."""
    parameters = list(module.parameters())
    flat = torch.cat([parameter.detach().reshape(-1) for parameter in parameters])
    for parameter, part in zip(parameters, views(flat, module), strict=True):
        parameter.data = part
    return flat


class Moments(NamedTuple):
    """Weights, and Adam's moving averages of their gradients."""

    weights: Tensor  # [P]
    mean: Tensor  # [P]
    square: Tensor  # [P]
    steps: Tensor  # []


def gradients(
    outputs: Tensor, slope: Tensor | None, inputs: Sequence[Tensor]
) -> tuple[Tensor, ...]:
    """Return the gradients of a loss.

    The gradient of a scalar is the same number by number, while ``torch.autograd.grad`` loads sympy
    to compare the shapes of outputs and slope, which takes 40 MB for good.

    Args:
        outputs: Tensor that depends on the inputs.
        slope: Derivative of the loss with respect to ``outputs``; ``None``: they are the loss [].
        inputs: What the loss is derived by.
    """
    loss = outputs if slope is None else (outputs * slope.detach()).sum()
    return torch.autograd.grad(loss, inputs)


class Gradient:
    """Computes the gradient of a module as one vector, in the order of ``flatten``."""

    def __init__(self, module: nn.Module, flat: Tensor) -> None:
        self._parameters = list(module.parameters())
        self._vector = torch.zeros_like(flat)
        self._parts = views(self._vector, module)

    def of(self, outputs: Tensor, slope: Tensor | None = None) -> Tensor:
        """Return the gradient [P] of a loss; the next call overwrites it.

        Args:
            outputs: Tensor that depends on the parameters.
            slope: Derivative of the loss with respect to ``outputs``; ``None``: they are the loss
                [].
        """
        parts = gradients(outputs, slope, self._parameters)
        torch._foreach_copy_(self._parts, parts)
        return self._vector


BETAS = 0.9, 0.999  # of Adam
NORM_ROW = 1024  # numbers


class Correction(NamedTuple):
    """Adam's bias correction, two scalars."""

    rate: Tensor  # factor of the mean
    root: Tensor  # factor of the root of the mean square


class Corrections(NamedTuple):
    """The corrections of the next steps, which compiled updates look up."""

    first: Tensor  # [] number of steps before the first of these
    table: Tensor  # [2, T] by row as in ``Correction``

    def at(self, steps: Tensor) -> Correction:
        """Return the correction of the step after so many."""
        column = (steps - self.first).long().view(1)
        return Correction(*self.table.index_select(1, column)[:, 0].unbind())


CORRECTIONS = len(Corrections._fields)
AHEAD = 1024  # steps whose corrections are computed at once: each time takes 50 us


def adam(now: Moments, gradient: Tensor, by: Correction, eps: float) -> Moments:
    """Return the weights and moments after one step of ``FlatAdam``, without side effects.

    Args:
        now: Weights and moments before the step.
        gradient: The gradient [P].
        by: The correction for one step more than ``now`` has.
        eps: Adam's epsilon.
    """
    mean = torch.lerp(now.mean, gradient, 1.0 - BETAS[0])
    square = BETAS[1] * now.square + (1.0 - BETAS[1]) * gradient.square()
    spread = square.sqrt() * by.root + eps
    return Moments(now.weights - by.rate * mean / spread, mean, square, now.steps + 1)


def compiled_norm(gradient: Tensor) -> Tensor:
    """Return the norm [] of a gradient [P], summed in a way that compiles to fast code.

    The compiler keeps partial sums of more than 4096 numbers in memory: twice the time.
    """
    whole = len(gradient) // NORM_ROW * NORM_ROW
    squares = gradient.square()
    rows = squares[:whole].view(-1, NORM_ROW).sum(1)
    return (rows.sum() + squares[whole:].sum()).sqrt()


def clip_factor(norm: Tensor, most: float) -> Tensor:
    """Return the factor [] of a gradient that makes its norm ``most`` if it is larger.

    Args:
        norm: The norm [] of the gradient.
        most: The largest norm.
    """
    return torch.where(norm > most, most / norm, torch.ones_like(norm))


def chosen(condition: Tensor, then: Moments, otherwise: Moments) -> Moments:
    """Return ``then`` where the condition [] holds, else ``otherwise``.

    Args:
        condition: A scalar truth value.
        then: Weights and moments if it holds.
        otherwise: Weights and moments if it does not.
    """
    pairs = zip(then, otherwise, strict=True)
    return Moments(*(torch.where(condition, one, other) for one, other in pairs))


class FlatAdam:
    """Adam (arXiv:1412.6980) over one vector."""

    def __init__(self, flat: Tensor, *, lr: float, eps: float) -> None:
        self.lr, self.eps = lr, eps
        self._flat = flat
        self.mean = torch.zeros_like(flat)
        self.square = torch.zeros_like(flat)
        self.steps = torch.zeros((), device=flat.device)
        self._corrections: Corrections | None = None
        self._corrected = -1, 0.0  # number of steps before the first of these, and their lr

    def step(self, gradient: Tensor) -> None:
        """Do one step against the gradient [P]."""
        self.steps += 1
        torch._fused_adam_(  # torch.optim.Adam(fused=True) prepares this call for 30 us
            [self._flat],
            [gradient],
            [self.mean],
            [self.square],
            [],
            [self.steps],
            lr=self.lr,
            beta1=BETAS[0],
            beta2=BETAS[1],
            weight_decay=0.0,
            eps=self.eps,
            amsgrad=False,
            maximize=False,
        )

    def corrections(self, most: int) -> Corrections:
        """Return a table that has the corrections of the next steps.

        Args:
            most: The number of these steps.
        """
        steps, length = int(self.steps), max(AHEAD, most)
        first, lr = self._corrected
        if self._corrections is None or lr != self.lr or not 0 <= steps - first <= length - most:
            after = steps + np.arange(1, length + 1)
            mean, square = (1.0 - beta**after for beta in BETAS)
            rows = np.stack((self.lr / mean, square**-0.5)).astype(np.float32)
            table = torch.from_numpy(rows).to(self.steps.device)
            self._corrections = Corrections(self.steps.clone(), table)
            self._corrected = steps, self.lr
        return self._corrections

    def state_dict(self) -> dict[str, Any]:
        """Return the moments and the number of steps."""
        return {"mean": self.mean, "square": self.square, "steps": self.steps}

    def load_state_dict(self, state_dict: dict[str, Any], /) -> None:
        """Restore saved moments and the number of steps."""
        self.mean.copy_(torch.as_tensor(state_dict["mean"]))
        self.square.copy_(torch.as_tensor(state_dict["square"]))
        self.steps.copy_(torch.as_tensor(state_dict["steps"]))


def views(flat: Tensor, module: nn.Module) -> list[Tensor]:
    """Return views of ``flat`` with the shapes of the module's parameters."""
    shapes = [parameter.shape for parameter in module.parameters()]
    parts = flat.split([shape.numel() for shape in shapes])
    return [part.view(shape) for part, shape in zip(parts, shapes, strict=True)]
