"""All parameters of a network in one vector: clipping, Adam and averaging are one call each."""

from typing import Any, NamedTuple

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
    """Weights, and what Adam remembers of their gradients; ``steps`` is a scalar."""

    weights: Tensor
    mean: Tensor
    square: Tensor
    steps: Tensor


class Gradient:
    """Computes gradients as one vector, in the order of ``flatten``."""

    def __init__(self, module: nn.Module, flat: Tensor) -> None:
        self._parameters = list(module.parameters())
        self._vector = torch.zeros_like(flat)
        self._parts = views(self._vector, module)

    def of(self, outputs: Tensor, slope: Tensor) -> Tensor:
        """Return the gradient of a loss whose derivative by ``outputs`` is ``slope``.

        The next call writes over it.
        """
        parts = torch.autograd.grad(outputs, self._parameters, slope)
        torch._foreach_copy_(self._parts, parts)
        return self._vector


BETAS = 0.9, 0.999  # of Adam


class Correction(NamedTuple):
    """What makes up for moments that began at zero: two scalars, the same for all weights.

    A compiled form returns them although nobody asks: the compiler computes once what is returned,
    and everything else anew for every few weights, two powers in double precision each time.
    """

    rate: Tensor  # by which a mean moves the weights
    root: Tensor  # by which the root of a mean square is divided


BESIDE = len(Correction._fields)  # results of a compiled form that nobody asks for, at its end


def correction(steps: Tensor, lr: Tensor | float) -> Correction:
    """Return what Adam corrects its moments by after so many steps, this one included.

    Of a learning rate that changes, a compiled form must be given the tensor.
    """
    first, second = (1.0 - beta ** steps.double() for beta in BETAS)
    return Correction((lr / first).float(), second.sqrt().float())


def adam(now: Moments, gradient: Tensor, by: Correction, eps: float) -> Moments:
    """Return what ``FlatAdam`` would change everything to: the same equations, without effects.

    ``by`` is the ``correction`` of one step more than ``now`` has.
    """
    mean = torch.lerp(now.mean, gradient, 1.0 - BETAS[0])
    square = BETAS[1] * now.square + (1.0 - BETAS[1]) * gradient.square()
    spread = square.sqrt() / by.root + eps
    return Moments(now.weights - by.rate * mean / spread, mean, square, now.steps + 1)


def clipped(gradient: Tensor, norm: Tensor, most: float) -> Tensor:
    """Return a gradient of that norm, shortened to ``most`` if it is longer."""
    return gradient * torch.where(norm > most, most / norm, torch.ones_like(norm))


def chosen(condition: Tensor, then: Moments, otherwise: Moments) -> Moments:
    """Return one or the other, as a scalar condition says."""
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

    @property
    def rate(self) -> Tensor:
        """The learning rate as a scalar tensor, an input of compiled updates."""
        return torch.full((), self.lr, dtype=torch.float64, device=self._flat.device)

    def step(self, gradient: Tensor) -> None:
        """Move against ``gradient``."""
        self.steps += 1
        torch._fused_adam_(  # what torch.optim.Adam(fused=True) ends in, after 30 us of preparation
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

    def state_dict(self) -> dict[str, Any]:
        """Return the moments and the number of steps."""
        return {"mean": self.mean, "square": self.square, "steps": self.steps}

    def load_state_dict(self, state_dict: dict[str, Any], /) -> None:
        """Take over the moments and the number of steps of another."""
        self.mean.copy_(torch.as_tensor(state_dict["mean"]))
        self.square.copy_(torch.as_tensor(state_dict["square"]))
        self.steps.copy_(torch.as_tensor(state_dict["steps"]))


def views(flat: Tensor, module: nn.Module) -> list[Tensor]:
    """Return views of ``flat`` with the shapes of the module's parameters."""
    shapes = [parameter.shape for parameter in module.parameters()]
    parts = flat.split([shape.numel() for shape in shapes])
    return [part.view(shape) for part, shape in zip(parts, shapes, strict=True)]
