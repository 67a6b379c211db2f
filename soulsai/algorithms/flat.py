"""All parameters of a network in one vector: clipping, Adam and averaging are one call each."""

from typing import Any

import torch
from torch import Tensor, nn


def flatten(module: nn.Module) -> Tensor:
    """Move all parameters into one vector, of which they become views, and return it."""
    parameters = list(module.parameters())
    flat = torch.cat([parameter.detach().reshape(-1) for parameter in parameters])
    for parameter, part in zip(parameters, _views(flat, module), strict=True):
        parameter.data = part
    return flat


class Gradient:
    """Computes gradients as one vector, in the order of ``flatten``."""

    def __init__(self, module: nn.Module, flat: Tensor) -> None:
        self._parameters = list(module.parameters())
        self._vector = torch.zeros_like(flat)
        self._parts = _views(self._vector, module)

    def of(self, outputs: Tensor, slope: Tensor) -> Tensor:
        """Return the gradient of a loss whose derivative by ``outputs`` is ``slope``.

        The next call writes over it.
        """
        parts = torch.autograd.grad(outputs, self._parameters, slope)
        torch._foreach_copy_(self._parts, parts)
        return self._vector


class FlatAdam:
    """Adam (arXiv:1412.6980) over one vector."""

    def __init__(self, flat: Tensor, *, lr: float, eps: float) -> None:
        self.lr, self.eps = lr, eps
        self._flat = flat
        self._mean = torch.zeros_like(flat)
        self._square = torch.zeros_like(flat)
        self._steps = torch.zeros((), device=flat.device)

    def step(self, gradient: Tensor) -> None:
        """Move against ``gradient``."""
        self._steps += 1
        torch._fused_adam_(  # what torch.optim.Adam(fused=True) ends in, after 30 us of preparation
            [self._flat],
            [gradient],
            [self._mean],
            [self._square],
            [],
            [self._steps],
            lr=self.lr,
            beta1=0.9,
            beta2=0.999,
            weight_decay=0.0,
            eps=self.eps,
            amsgrad=False,
            maximize=False,
        )

    def state_dict(self) -> dict[str, Any]:
        """Return the moments and the number of steps."""
        return {"mean": self._mean, "square": self._square, "steps": self._steps}

    def load_state_dict(self, state_dict: dict[str, Any], /) -> None:
        """Take over the moments and the number of steps of another."""
        self._mean.copy_(torch.as_tensor(state_dict["mean"]))
        self._square.copy_(torch.as_tensor(state_dict["square"]))
        self._steps.copy_(torch.as_tensor(state_dict["steps"]))


def _views(flat: Tensor, module: nn.Module) -> list[Tensor]:
    """Return views of ``flat`` with the shapes of the module's parameters."""
    shapes = [parameter.shape for parameter in module.parameters()]
    parts = flat.split([shape.numel() for shape in shapes])
    return [part.view(shape) for part, shape in zip(parts, shapes, strict=True)]
