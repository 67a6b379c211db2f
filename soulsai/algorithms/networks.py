"""Networks for observations made of named leaves; every forward pass exports to ONNX."""

import math
from collections.abc import Sequence
from itertools import zip_longest
from math import prod

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from soulsai.algorithms import vision
from soulsai.algorithms.vision import Vision
from soulsai.frame_stacks import form_of
from soulsai.types import Array, Leaf

CLIP = 10.0  # standard deviations a normalised observation may lie from the mean


class Observation(nn.Module):
    """Turns raw leaves into parts a network can digest: one vector, and images.

    Floats are normalised by the buffers ``mean`` and ``inv_std`` (all float elements, in the order
    of ``floats``), so the statistics travel with the weights. Integers are scaled by their bounds,
    categories become one-hot, booleans 0 and 1.
    """

    mean: Tensor
    inv_std: Tensor

    def __init__(self, leaves: dict[str, Leaf], *, normalize: bool) -> None:
        super().__init__()
        self.leaves = leaves
        self.images = {name: leaf for name, leaf in leaves.items() if _is_image(leaf)}
        self.floats = {name: leaf for name, leaf in leaves.items() if _kind(leaf) == "f"}
        self.flat = {n: leaf for n, leaf in leaves.items() if n not in self.images | self.floats}
        size = sum(prod(leaf.shape) for leaf in self.floats.values())
        self.width = size + sum(_flat_width(leaf) for leaf in self.flat.values())
        self.size = size if normalize else 0  # number of elements that are normalised
        self.normalizes = self.size > 0
        if self.normalizes:
            self.register_buffer("mean", torch.zeros(size))
            self.register_buffer("inv_std", torch.ones(size))

    def parts(self, obs: dict[str, Tensor]) -> list[Tensor]:
        """Return the vector [B, width], if there is one, and then the images [B, C, H, W]."""
        flat: list[Tensor] = []
        if self.floats:
            vector = _beside([_row(obs[name]).float() for name in self.floats])
            if self.normalizes:
                vector = ((vector - self.mean) * self.inv_std).clamp(-CLIP, CLIP)
            flat.append(vector)
        flat += [_flatten(leaf, obs[name]) for name, leaf in self.flat.items()]
        images = [_picture(leaf, obs[name]) for name, leaf in self.images.items()]
        return [_beside(flat), *images] if flat else images

    def elements(self, obs: dict[str, Array]) -> Array:
        """Return what ``mean`` and ``inv_std`` are statistics of, as rows [B, size]."""
        rows = [obs[n].reshape(-1, max(1, prod(leaf.shape))) for n, leaf in self.floats.items()]
        if not self.normalizes:
            return np.zeros((0, 0))
        return rows[0] if len(rows) == 1 else np.concatenate(rows, axis=1)


class Encoder(nn.Module):
    """Maps the parts of an observation to features: a CNN per image, then layers over all."""

    def __init__(
        self,
        observation: Observation,
        hidden: Sequence[int],
        *,
        layer_norm: bool,
        residual: bool = False,
        eyes: Vision = "auto",
    ) -> None:
        super().__init__()
        forms = [form_of(leaf) for leaf in observation.images.values()]
        planes = [(form.depth, form.height, form.width) for form in forms]
        self.eyes = nn.ModuleList([vision.eye(eyes, one) for one in planes])
        seen = sum(vision.width(eye, one) for eye, one in zip(self.eyes, planes, strict=True))
        inputs = observation.width + seen
        self.layers: Layers | Blocks = (
            Blocks(inputs, hidden) if residual else Layers(inputs, hidden, layer_norm=layer_norm)
        )
        self.width = self.layers.width

    def features(self, parts: list[Tensor]) -> Tensor:
        """Return features [B, width]."""
        if not self.eyes:
            return self.layers.features(parts[0])
        vector, images = parts[: -len(self.eyes)], parts[-len(self.eyes) :]
        seen = [eye(image) for eye, image in zip(self.eyes, images, strict=True)]
        return self.layers.features(_beside(vector + seen))


class Layers(nn.Module):
    """Linear layers, each with an optional LayerNorm and a ReLU."""

    def __init__(self, inputs: int, widths: Sequence[int], *, layer_norm: bool) -> None:
        super().__init__()
        before = [inputs, *widths]
        linear = [nn.Linear(i, o) for i, o in zip(before, widths, strict=False)]
        norm = [nn.LayerNorm(width) for width in widths] if layer_norm else []
        self.linear, self.norm = nn.ModuleList(linear), nn.ModuleList(norm)
        self.width = before[-1]
        self._layers = list(zip_longest(linear, norm))

    def features(self, x: Tensor) -> Tensor:
        """Return the last layer's output [B, width]."""
        # functions, not module calls: for small networks these take a third of an update's time
        for linear, norm in self._layers:
            x = F.linear(x, linear.weight, linear.bias)
            if norm is not None:
                x = F.layer_norm(x, norm.normalized_shape, norm.weight, norm.bias)
            x = x.relu()
        return x


class Blocks(nn.Module):
    """Residual blocks, each with a LayerNorm and a layer four times as wide (arXiv:2410.09754)."""

    def __init__(self, inputs: int, widths: Sequence[int]) -> None:
        super().__init__()
        self.width = widths[0]
        self.enter = nn.Linear(inputs, self.width)
        self.norm = nn.ModuleList([nn.LayerNorm(self.width) for _ in widths])
        self.wide = nn.ModuleList([nn.Linear(self.width, 4 * self.width) for _ in widths])
        self.narrow = nn.ModuleList([nn.Linear(4 * self.width, self.width) for _ in widths])
        self.last = nn.LayerNorm(self.width)

    def features(self, x: Tensor) -> Tensor:
        """Return the sum of all blocks, normalised [B, width]."""
        x = self.enter(x)
        for norm, wide, narrow in zip(self.norm, self.wide, self.narrow, strict=True):
            x = x + narrow(wide(norm(x)).relu())
        normed: Tensor = self.last(x)
        return normed


class QuantileHead(nn.Module):
    """Values of every action, as quantiles of the return at levels that are spread evenly.

    If dueling, each quantile is a state's value plus the action's advantage over the mean action.
    """

    def __init__(
        self, features: int, actions: int, quantiles: int, *, dueling: bool, noisy: bool = False
    ) -> None:
        super().__init__()
        self.shape = (actions + dueling, quantiles)
        self.dueling = dueling
        self.out = output(features, (actions + dueling) * quantiles, noisy=noisy)

    def quantiles(
        self, features: Tensor, levels: Tensor | None = None, noise: Tensor | None = None
    ) -> Tensor:
        """Map features [B, F] to quantiles [B, A, N]; the ``levels`` are our own."""
        del levels
        out: Tensor = self.out(features, noise).view(-1, *self.shape)
        return dueling_values(out) if self.dueling else out


class Output(nn.Linear):
    """A linear layer that is asked as a noisy one is."""

    noises = 0

    def forward(self, x: Tensor, noise: Tensor | None = None) -> Tensor:
        """Map [..., inputs] to [..., outputs]."""
        del noise
        mapped: Tensor = F.linear(x, self.weight, self.bias)
        return mapped


class Noisy(nn.Linear):
    """A linear layer whose weights are noisy by as much as it learns (arXiv:1706.10295).

    The noise is an argument: factors for the inputs, and then for the outputs. None is none.
    """

    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__(inputs, outputs)
        self.noises = inputs + outputs
        spread = 0.5 / math.sqrt(inputs)
        self.weight_spread = nn.Parameter(torch.full((outputs, inputs), spread))
        self.bias_spread = nn.Parameter(torch.full((outputs,), spread))

    def forward(self, x: Tensor, noise: Tensor | None = None) -> Tensor:
        """Map [..., inputs] and noise [..., inputs + outputs] to [..., outputs]."""
        mean: Tensor = F.linear(x, self.weight, self.bias)
        if noise is None:
            return mean
        factor = noise.sign() * noise.abs().sqrt()
        before: Tensor = factor[..., : self.in_features]
        after: Tensor = factor[..., self.in_features :]
        noisy: Tensor = F.linear(x * before, self.weight_spread, self.bias_spread)
        return mean + after * noisy


def output(inputs: int, outputs: int, *, noisy: bool) -> Output | Noisy:
    """Return a last layer."""
    return Noisy(inputs, outputs) if noisy else Output(inputs, outputs)


def dueling_values(out: Tensor) -> Tensor:
    """Turn a state's value and its actions' advantages [B, 1 + A, N] into values [B, A, N]."""
    value, advantage = out[:, :1], out[:, 1:]
    return value + (advantage - advantage.mean(1, keepdim=True))


def _beside(parts: list[Tensor]) -> Tensor:
    return parts[0] if len(parts) == 1 else torch.cat(parts, 1)


def _kind(leaf: Leaf) -> str:
    return np.dtype(leaf.dtype).kind


def _is_image(leaf: Leaf) -> bool:
    """Say whether a leaf is a picture: bytes or booleans over height, width and channels."""
    return len(leaf.shape) == 3 and np.dtype(leaf.dtype).itemsize == 1 and not leaf.categories


def _flat_width(leaf: Leaf) -> int:
    return prod(leaf.shape) * max(1, leaf.categories)


def _flatten(leaf: Leaf, raw: Tensor) -> Tensor:
    """Return a leaf that is neither float nor image as floats [B, width]."""
    if leaf.categories:
        names = torch.arange(leaf.categories, device=raw.device)
        return (raw.long().unsqueeze(-1) == names).float().flatten(1)
    return _row(raw).float() * (1.0 / _largest(leaf))


def _row(raw: Tensor) -> Tensor:
    """Return a leaf [B, ...] as [B, width]."""
    return raw.flatten(1) if raw.dim() > 1 else raw.unsqueeze(1)


def _largest(leaf: Leaf) -> float:
    """Return the largest magnitude of an integer leaf, as far as it is known."""
    if leaf.low is not None and leaf.high is not None:
        return max(abs(leaf.low), abs(leaf.high), 1.0)
    return 255.0 if leaf.dtype == "|u1" else 1.0


def _picture(leaf: Leaf, raw: Tensor) -> Tensor:
    """Return an image leaf as floats in 0..1 [B, C, H, W]."""
    picture = raw.permute(0, 3, 1, 2) if form_of(leaf).last else raw
    return picture.float() if _kind(leaf) == "b" else picture.float() * (1.0 / 255.0)
