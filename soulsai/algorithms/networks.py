"""Networks over observations of named leaves; every forward pass exports to ONNX."""

import math
from collections.abc import Sequence
from itertools import zip_longest
from math import prod

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from soulsai.algorithms.compile.dense import linear
from soulsai.algorithms.custom_networks import CustomNetwork
from soulsai.algorithms.vision import Vision, feature_count, vision_encoder
from soulsai.frame_stacks import ImageAxes, image_axes
from soulsai.types import Array, Leaf

CLIP = 10.0  # standard deviations to which normalised elements are clipped


class Observation(nn.Module):
    """Converts named leaves to the inputs of a network: one vector, then images.

    Floats, and integers without useful bounds, are normalised by the buffers ``mean`` and
    ``inv_std`` (their elements in the order of ``floats``), so the statistics travel with the
    weights. Other integers are divided by their largest magnitude, categories become one-hot,
    booleans 0 and 1.

    Args:
        leaves: Shape and type of each leaf.
        normalize: Normalise floats.
        named: Give each leaf as a part of its own, in its shape, and convert only what is
            normalised: for networks that are not ours.
    """

    mean: Tensor
    inv_std: Tensor

    def __init__(self, leaves: dict[str, Leaf], *, normalize: bool, named: bool = False) -> None:
        super().__init__()
        self.leaves, self._named = leaves, named
        self.images = {name: axes for name, leaf in leaves.items() if (axes := image_axes(leaf))}
        others = {name: leaf for name, leaf in leaves.items() if name not in self.images}
        self.floats = {name: leaf for name, leaf in others.items() if leaf.normalised}
        self.flat = {n: leaf for n, leaf in leaves.items() if n not in (*self.images, *self.floats)}
        size = sum(prod(leaf.shape) for leaf in self.floats.values())
        self.width = size + sum(_flat_width(leaf) for leaf in self.flat.values())
        self.size = size if normalize else 0  # number of elements that are normalised
        self.normalizes = self.size > 0
        if self.normalizes:
            self.register_buffer("mean", torch.zeros(size))
            self.register_buffer("inv_std", torch.ones(size))

    def parts(self, obs: dict[str, Tensor]) -> list[Tensor]:
        """Map leaves [B, ...] to the vector [B, width], if any, and the images [B, C, H, W]."""
        if self._named:
            return self._each(obs)
        flat: list[Tensor] = []
        if self.floats:
            vector = _concatenated([_row(obs[name]).float() for name in self.floats])
            if self.normalizes:
                vector = ((vector - self.mean) * self.inv_std).clamp(-CLIP, CLIP)
            flat.append(vector)
        flat += [_flatten(leaf, obs[name]) for name, leaf in self.flat.items()]
        images = [_image(self.leaves[n], axes, obs[n]) for n, axes in self.images.items()]
        return [_concatenated(flat), *images] if flat else images

    def _each(self, obs: dict[str, Tensor]) -> list[Tensor]:
        """Return the leaves in order, numbers normalised, in their shapes [B, ...]."""
        parts, first = [], 0
        for name, leaf in self.leaves.items():
            part = obs[name]
            if name in self.floats:
                part, last = part.float(), first + prod(leaf.shape)
                if self.normalizes:
                    mean, inv_std = self.mean[first:last], self.inv_std[first:last]
                    part = (part - mean.view(leaf.shape)) * inv_std.view(leaf.shape)
                    part = part.clamp(-CLIP, CLIP)
                first = last
            parts.append(part)
        return parts

    def elements(self, obs: dict[str, Array]) -> Array:
        """Return the normalised elements of leaves [B, ...] as rows [B, size]."""
        rows = [obs[n].reshape(-1, max(1, prod(leaf.shape))) for n, leaf in self.floats.items()]
        if not self.normalizes:
            return np.zeros((0, 0))
        return rows[0] if len(rows) == 1 else np.concatenate(rows, axis=1)


class Encoder(nn.Module):
    """Maps the parts of an observation to features: one vision encoder per image, then layers.

    Args:
        observation: The source of the parts.
        hidden: Widths of the layers; without any, features are concatenated.
        layer_norm: Add a LayerNorm to each layer.
        residual: Residual blocks instead of plain layers.
        vision: Architecture of the vision encoders.
        extractor: A feature extractor in place of the vision encoders, for a named observation.
    """

    def __init__(
        self,
        observation: Observation,
        hidden: Sequence[int],
        *,
        layer_norm: bool,
        residual: bool = False,
        vision: Vision = "auto",
        extractor: CustomNetwork | None = None,
    ) -> None:
        super().__init__()
        self.extractor = extractor
        images = observation.images.values() if extractor is None else ()
        shapes = [(image.depth, image.height, image.width) for image in images]
        # Checkpoints name the vision encoders ``eyes``.
        self.eyes = nn.ModuleList([vision_encoder(vision, shape) for shape in shapes])
        inputs = observation.width if extractor is None else extractor.width
        inputs += sum(feature_count(e, shape) for e, shape in zip(self.eyes, shapes, strict=True))
        self.layers: DenseLayers | ResidualBlocks = (
            ResidualBlocks(inputs, hidden)
            if residual
            else DenseLayers(inputs, hidden, layer_norm=layer_norm)
        )
        self.width = self.layers.width

    def features(self, parts: list[Tensor]) -> Tensor:
        """Map the parts of an observation to features [B, width]."""
        if self.extractor is not None:
            return self.layers.features(self.extractor(parts))
        if not self.eyes:
            return self.layers.features(parts[0])
        vector, images = parts[: -len(self.eyes)], parts[-len(self.eyes) :]
        encoded = [encoder(image) for encoder, image in zip(self.eyes, images, strict=True)]
        return self.layers.features(_concatenated(vector + encoded))


class DenseLayers(nn.Module):
    """Linear layers, each with an optional LayerNorm and a ReLU."""

    def __init__(self, inputs: int, widths: Sequence[int], *, layer_norm: bool) -> None:
        super().__init__()
        before = [inputs, *widths]
        layers = [nn.Linear(i, o) for i, o in zip(before, widths, strict=False)]
        norms = [nn.LayerNorm(width) for width in widths] if layer_norm else []
        self.linear, self.norm = nn.ModuleList(layers), nn.ModuleList(norms)
        self.width = before[-1]
        self._layers = list(zip_longest(layers, norms))

    def features(self, x: Tensor) -> Tensor:
        """Map [B, inputs] to the last layer's output [B, width]."""
        # Module calls take a third of an update's time in small networks; functions do not.
        for layer, norm in self._layers:
            x = linear(x, layer.weight, layer.bias)
            if norm is not None:
                x = F.layer_norm(x, norm.normalized_shape, norm.weight, norm.bias)
            x = x.relu()
        return x


class ResidualBlocks(nn.Module):
    """SimBa (arXiv:2410.09754): residual blocks of LayerNorm and a layer four times as wide."""

    def __init__(self, inputs: int, widths: Sequence[int]) -> None:
        super().__init__()
        self.width = widths[0]
        self.enter = nn.Linear(inputs, self.width)
        self.norm = nn.ModuleList([nn.LayerNorm(self.width) for _ in widths])
        self.wide = nn.ModuleList([nn.Linear(self.width, 4 * self.width) for _ in widths])
        self.narrow = nn.ModuleList([nn.Linear(4 * self.width, self.width) for _ in widths])
        self.last = nn.LayerNorm(self.width)

    def features(self, x: Tensor) -> Tensor:
        """Map [B, inputs] to the normalised sum of all blocks [B, width]."""
        x = self.enter(x)
        for norm, wide, narrow in zip(self.norm, self.wide, self.narrow, strict=True):
            x = x + narrow(wide(norm(x)).relu())
        normed: Tensor = self.last(x)
        return normed


class QuantileHead(nn.Module):
    """Action values as quantiles of the return at evenly spread levels (arXiv:1710.10044).

    Args:
        features: Number of input features F.
        sizes: Number of choices of each component; they sum to A.
        quantiles: Number of quantiles N.
        dueling: Add the value of the state to centred advantages (arXiv:1511.06581).
        noisy: Use a noisy output layer.
    """

    def __init__(
        self,
        features: int,
        sizes: Sequence[int],
        quantiles: int,
        *,
        dueling: bool,
        noisy: bool = False,
    ) -> None:
        super().__init__()
        outputs = sum(sizes) + dueling
        self.shape = (outputs, quantiles)
        self.sizes, self.dueling = list(sizes), dueling
        self.out = output_layer(features, outputs * quantiles, noisy=noisy)
        self.noises = self.out.noises

    def quantiles(
        self, features: Tensor, levels: Tensor | None = None, noise: Tensor | None = None
    ) -> Tensor:
        """Map features to quantiles.

        Args:
            features: Features [B, F].
            levels: Ignored; the levels are fixed.
            noise: Noise of the output layer [B or 1, noises].

        Returns:
            Quantiles [B, A, N].
        """
        del levels
        out: Tensor = self.out(features, noise).view(-1, *self.shape)
        return dueling_values(out, self.sizes) if self.dueling else out


class OutputLinear(nn.Linear):
    """A linear layer with the signature of ``NoisyLinear``."""

    noises = 0

    def forward(self, x: Tensor, noise: Tensor | None = None) -> Tensor:
        """Map [..., inputs] to [..., outputs]."""
        del noise
        return linear(x, self.weight, self.bias, exact=True)


class NoisyLinear(nn.Linear):
    """A linear layer with factorised noise of learnt scale on its weights (arXiv:1706.10295).

    The noise is an argument: factors of the inputs, then of the outputs.
    """

    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__(inputs, outputs)
        self.noises = inputs + outputs
        spread = 0.5 / math.sqrt(inputs)
        self.weight_spread = nn.Parameter(torch.full((outputs, inputs), spread))
        self.bias_spread = nn.Parameter(torch.full((outputs,), spread))

    def forward(self, x: Tensor, noise: Tensor | None = None) -> Tensor:
        """Map [..., inputs] and noise [..., inputs + outputs], or none, to [..., outputs]."""
        mean: Tensor = F.linear(x, self.weight, self.bias)
        if noise is None:
            return mean
        factor = noise.sign() * noise.abs().sqrt()
        before: Tensor = factor[..., : self.in_features]
        after: Tensor = factor[..., self.in_features :]
        noisy: Tensor = F.linear(x * before, self.weight_spread, self.bias_spread)
        return mean + after * noisy


def output_layer(inputs: int, outputs: int, *, noisy: bool) -> OutputLinear | NoisyLinear:
    """Return a last layer.

    Args:
        inputs: Number of input features.
        outputs: Number of outputs.
        noisy: Whether its weights are noisy.
    """
    return NoisyLinear(inputs, outputs) if noisy else OutputLinear(inputs, outputs)


def dueling_values(out: Tensor, sizes: Sequence[int]) -> Tensor:
    """Combine a state's value and its advantages into action values.

    All components of an action share the value (arXiv:1711.08946).

    Args:
        out: The value and then the advantages [B, 1 + A, N].
        sizes: Number of choices of each component; they sum to A.

    Returns:
        Values [B, A, N].
    """
    value, advantages = out[:, :1], out[:, 1:].split(list(sizes), 1)
    values = [value + (part - part.mean(1, keepdim=True)) for part in advantages]
    return values[0] if len(values) == 1 else torch.cat(values, 1)


def _concatenated(parts: list[Tensor]) -> Tensor:
    return parts[0] if len(parts) == 1 else torch.cat(parts, 1)


def _kind(leaf: Leaf) -> str:
    return np.dtype(leaf.dtype).kind


def _flat_width(leaf: Leaf) -> int:
    return prod(leaf.shape) * max(1, leaf.categories)


def _flatten(leaf: Leaf, raw: Tensor) -> Tensor:
    """Convert a leaf [B, ...] that is neither float nor image to floats [B, width]."""
    if leaf.categories:
        names = torch.arange(leaf.categories, device=raw.device)
        return (raw.long().unsqueeze(-1) == names).float().flatten(1)
    return _row(raw).float() * (1.0 / _largest(leaf))


def _row(raw: Tensor) -> Tensor:
    """Reshape a leaf [B, ...] to [B, width]."""
    return raw.flatten(1) if raw.dim() > 1 else raw.unsqueeze(1)


def _largest(leaf: Leaf) -> float:
    """Return the largest known magnitude of an integer leaf, else 1."""
    if leaf.low is not None and leaf.high is not None:
        return max(abs(leaf.low), abs(leaf.high), 1.0)
    return 255.0 if leaf.dtype == "|u1" else 1.0


def _image(leaf: Leaf, axes: ImageAxes, raw: Tensor) -> Tensor:
    """Convert an image leaf [B, ...] to floats in 0..1 [B, C, H, W]."""
    if axes.last:
        raw = raw.movedim(-1, -3)
    image = raw.reshape(-1, axes.depth, axes.height, axes.width).float()
    if np.dtype(leaf.dtype).itemsize == 1:
        return image if _kind(leaf) == "b" else image * (1.0 / 255.0)
    low, high = leaf.low or 0.0, leaf.high or 0.0
    return (image - low) * (1.0 / (high - low))
