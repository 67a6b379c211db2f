"""Linear layers that use the fastest matrix product of the CPU.

On processors of other makers than Intel, torch's default library does not use AVX-512 and takes
twice as long as oneDNN, which torch includes, too. Both compute in float32.
"""

from collections.abc import Callable, Sequence
from itertools import pairwise, zip_longest
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

LEAST_WORK = 2**20  # multiplications below which starting oneDNN costs more than it saves

Product = Callable[[Tensor, Tensor, Tensor | None], Tensor]


class Tower(nn.Module):
    """Linear layers with optional dropout, optional LayerNorm and ReLU, and a linear output."""

    def __init__(
        self,
        inputs: int,
        hidden: Sequence[int],
        outputs: int,
        *,
        layer_norm: bool = False,
        dropout: float = 0.0,
    ) -> None:
        super().__init__()
        before = [inputs, *hidden]
        layers = [nn.Linear(*widths) for widths in pairwise(before)]
        norms = [nn.LayerNorm(width) for width in hidden] if layer_norm else []
        self.linear, self.norm = nn.ModuleList(layers), nn.ModuleList(norms)
        self.out = nn.Linear(before[-1], outputs)
        self.dropout = dropout
        self._layers = list(zip_longest(layers, norms))

    def forward(self, x: Tensor, rng: torch.Generator | None = None) -> Tensor:
        """Map [B, inputs] to [B, outputs]; ``rng`` draws the dropout."""
        for layer, norm in self._layers:
            x = linear(x, layer.weight, layer.bias)
            if self.dropout:
                x = x * _dropout_mask(x, self.dropout, rng)
            if norm is not None:
                x = F.layer_norm(x, norm.normalized_shape, norm.weight, norm.bias)
            x = x.relu()
        return linear(x, self.out.weight, self.out.bias)


def linear(x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    """Return ``F.linear``, computed faster, within the error of float32.

    Args:
        x: Inputs [B, I].
        weight: Weights [O, I].
        bias: Biases [O].
    """
    if torch.onnx.is_in_onnx_export() or not _pays(x, weight):
        return F.linear(x, weight, bias)
    result: Tensor = _Linear.apply(x, weight, bias)
    return result


def keep_freed_memory() -> None:
    """Make the C library reuse the memory of large temporaries, which saves a quarter of the time.

    glibc returns freed memory to the system above a threshold, and raises the threshold for good
    once a large block is freed; the block allocated here is never written.
    """
    torch.empty(30 * 2**20, dtype=torch.uint8, device="cpu")


class _Linear(torch.autograd.Function):
    """The product and its gradient, by oneDNN."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
        ctx.save_for_backward(x, weight)
        return _product(x, weight, bias)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        x, weight = ctx.saved_tensors
        for_x, for_weight, for_bias = ctx.needs_input_grad
        grad = grads[0]
        return (
            _product(grad, weight.t(), None) if for_x else None,
            _product(grad.t(), x.t(), None) if for_weight else None,
            grad.sum(0) if for_bias else None,
        )


def _dropout_mask(x: Tensor, dropout: float, rng: torch.Generator | None) -> Tensor:
    """Return factors of ``x``: 0 where it is dropped, else 1 / (1 - dropout)."""
    return torch.empty_like(x).bernoulli_(1.0 - dropout, generator=rng).div_(1.0 - dropout)


def _pays(x: Tensor, weight: Tensor) -> bool:
    usable = _ONEDNN is not None and x.device.type == "cpu" and x.dtype == torch.float32
    return usable and x.dim() == 2 and len(x) * weight.numel() >= LEAST_WORK


def _product(x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    return F.linear(x, weight, bias) if _ONEDNN is None else _ONEDNN(x, weight, bias)


def _onednn() -> Product | None:
    """Return oneDNN's product, if this build of torch has it and it multiplies correctly."""

    def product(x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        result: Tensor = torch.ops.mkldnn._linear_pointwise(x, weight, bias, "none", [], "")
        return result

    x = torch.arange(6.0, device="cpu").view(2, 3)
    try:
        right = torch.equal(product(x, x, None), x @ x.t())
    except (AttributeError, RuntimeError, TypeError):
        return None
    return product if right else None


_ONEDNN = _onednn()


def _shape(x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    del bias
    return x.new_empty(len(x), len(weight))


# Tracers keep an operator of our own as one node of the graph.
_library = torch.library.Library("soulsai", "DEF")
_library.define("product(Tensor x, Tensor weight, Tensor? bias) -> Tensor")
_library.impl("product", _ONEDNN or F.linear, "CPU")
_library.impl("product", _shape, "Meta")


def trace_products() -> None:
    """Compute products by our own operator from now on: slower to call, but it compiles."""
    global _ONEDNN
    if _ONEDNN is not None:
        _ONEDNN = torch.ops.soulsai.product
