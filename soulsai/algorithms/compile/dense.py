"""Linear layers that use the fastest matrix product of the CPU.

Where a processor of another maker than Intel has AVX-512, torch's default library does not use it
and takes up to twice as long as oneDNN, which torch includes, too; on all others it takes a third
to all of the time. Both compute in float32. Compiled updates may compute the products of hidden
layers in bfloat16, with sums in float32: half the time on processors that have instructions for it.
"""

import math
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from itertools import pairwise, zip_longest
from typing import Any, Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from soulsai.algorithms.compile.processor import processor

LEAST_WORK = 2**20  # multiplications below which starting oneDNN costs more than it saves

ROUNDS = 40  # in which both formats are timed, in turns
WORTHWHILE = 0.8  # of the time in float32: bfloat16 has to be faster than this to be chosen

AVX512 = b" avx512f"  # in the list of a processor's instructions

Format = Literal["float32", "bfloat16"]
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
        return linear(x, self.out.weight, self.out.bias, exact=True)


def linear(x: Tensor, weight: Tensor, bias: Tensor, *, exact: bool = False) -> Tensor:
    """Return ``F.linear``, computed faster, within the error of the format of ``traced_products``.

    Args:
        x: Inputs [B, I].
        weight: Weights [O, I].
        bias: Biases [O].
        exact: Compute in float32 in any case: for outputs whose scale is that of the rewards.
    """
    product = _EXACT if exact else _HIDDEN
    if product is F.linear or torch.onnx.is_in_onnx_export() or not _pays(x, weight):
        plain = _bias_apart if _TRACED and x.dim() == 2 else F.linear
        return plain(x, weight, bias)
    result: Tensor = _Linear.apply(x, weight, bias, product)
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
    def forward(ctx: Any, x: Tensor, weight: Tensor, bias: Tensor, product: Product) -> Tensor:
        ctx.save_for_backward(x, weight)
        ctx.product = product
        return product(x, weight, bias)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        x, weight = ctx.saved_tensors
        for_x, for_weight, for_bias, _ = ctx.needs_input_grad
        grad = grads[0]
        return (
            ctx.product(grad, weight.t(), None) if for_x else None,
            ctx.product(grad.t(), x.t(), None) if for_weight else None,
            grad.sum(0) if for_bias else None,
            None,
        )


def _dropout_mask(x: Tensor, dropout: float, rng: torch.Generator | None) -> Tensor:
    """Return factors of ``x``: 0 where it is dropped, else 1 / (1 - dropout)."""
    return torch.empty_like(x).bernoulli_(1.0 - dropout, generator=rng).div_(1.0 - dropout)


def _pays(x: Tensor, weight: Tensor) -> bool:
    usable = x.device.type == "cpu" and x.dtype == torch.float32
    return usable and x.dim() == 2 and len(x) * weight.numel() >= LEAST_WORK


def _fastest() -> Product:
    """Return oneDNN's product, or torch's if that is faster, or if oneDNN multiplies wrongly."""
    texts = list(processor())
    widest = any(b"GenuineIntel" in text for text in texts) or all(AVX512 not in t for t in texts)
    if widest and torch.backends.mkl.is_available():
        return F.linear

    def product(x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        result: Tensor = torch.ops.mkldnn._linear_pointwise(x, weight, bias, "none", [], "")
        return result

    x = torch.arange(6.0, device="cpu").view(2, 3)
    try:
        right = torch.equal(product(x, x, None), x @ x.t())
    except (AttributeError, RuntimeError, TypeError):
        return F.linear
    return product if right else F.linear


def _bias_apart(x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    """Return ``F.linear``, of which the compiler joins the sum to what follows.

    ``F.linear`` copies the bias into every row before it multiplies, an eighth of the time; and a
    sum that follows the product directly would be made ``F.linear`` again.
    """
    return ((x @ weight.t()).unsqueeze(0) + bias).squeeze(0)


def _shape(x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    del bias
    return x.new_empty(len(x), len(weight))


def _bfloat16(x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    rounded: Tensor = (x.bfloat16() @ weight.bfloat16().t()).float()
    return rounded if bias is None else rounded + bias


_FASTEST = _fastest()
_EXACT: Product = _FASTEST  # of output layers
_HIDDEN: Product = _FASTEST  # of hidden layers
_TRACED = False  # whether products are traced, to be compiled

# Tracers keep an operator of our own as one node of the graph.
_library = torch.library.Library("soulsai", "DEF")
_library.define("product(Tensor x, Tensor weight, Tensor? bias) -> Tensor")
_library.impl("product", _FASTEST, "CPU")
_library.impl("product", _shape, "Meta")


@contextmanager
def traced_products(wanted: Format) -> Iterator[None]:
    """Compute products by operators that compile, slower to call, as long as the context lasts.

    Args:
        wanted: The format of the products of hidden layers; those of output layers are in float32.
    """
    global _EXACT, _HIDDEN, _TRACED
    before = _EXACT, _HIDDEN, _TRACED
    _TRACED = True
    if _FASTEST is not F.linear:
        _EXACT = _HIDDEN = torch.ops.soulsai.product
    if wanted == "bfloat16":
        _HIDDEN = _bfloat16
    try:
        yield
    finally:
        _EXACT, _HIDDEN, _TRACED = before


def fastest_format(rows: int, width: int, clock: Callable[[], float] = time.thread_time) -> Format:
    """Return the format in which this machine multiplies matrices of a hidden layer faster.

    Args:
        rows: Rows of a batch.
        width: Width of the layer.
        clock: Seconds of CPU time.
    """
    x, weight = torch.rand(rows, width), torch.rand(width, width)
    if not _pays(x, weight):
        return "float32"
    shortest: dict[Product, float] = {}
    for _ in range(ROUNDS):
        for product in (_FASTEST, _bfloat16):
            began = clock()
            product(x, weight, None)
            shortest[product] = min(clock() - began, shortest.get(product, math.inf))
    return "bfloat16" if shortest[_bfloat16] < WORTHWHILE * shortest[_FASTEST] else "float32"
