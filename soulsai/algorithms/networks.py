"""Networks for observations made of named leaves; every forward pass exports to ONNX."""

from collections.abc import Sequence
from itertools import zip_longest
from math import prod

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from soulsai.types import Array, Leaf

CLIP = 10.0  # standard deviations a normalised observation may lie from the mean
NATURE = ((32, 8, 4, 0), (64, 4, 2, 0), (64, 3, 1, 0))  # channels, kernel, stride, padding
SMALL = ((16, 3, 1, 1), (32, 3, 1, 1))  # for images too small for Nature's kernels


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
        self, observation: Observation, hidden: Sequence[int], *, layer_norm: bool
    ) -> None:
        super().__init__()
        self.eyes = nn.ModuleList([_eye(leaf) for leaf in observation.images.values()])
        seen = sum(_eye_width(leaf) for leaf in observation.images.values())
        self.layers = Layers(observation.width + seen, hidden, layer_norm=layer_norm)
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


class QuantileHead(nn.Module):
    """Values of every action, as quantiles of the return.

    If dueling, each quantile is a state's value plus the action's advantage over the mean action.
    """

    def __init__(self, features: int, actions: int, quantiles: int, *, dueling: bool) -> None:
        super().__init__()
        self.shape = (actions + dueling, quantiles)
        self.dueling = dueling
        self.out = nn.Linear(features, (actions + dueling) * quantiles)

    def quantiles(self, features: Tensor) -> Tensor:
        """Map features [B, F] to quantiles [B, A, N]."""
        out = F.linear(features, self.out.weight, self.out.bias).view(-1, *self.shape)
        if not self.dueling:
            return out
        value, advantage = out[:, :1], out[:, 1:]
        return value + (advantage - advantage.mean(1, keepdim=True))


def _beside(parts: list[Tensor]) -> Tensor:
    return parts[0] if len(parts) == 1 else torch.cat(parts, 1)


def _kind(leaf: Leaf) -> str:
    return np.dtype(leaf.dtype).kind


def _is_image(leaf: Leaf) -> bool:
    """Say whether a leaf is a picture: bytes or booleans over height, width and channels."""
    return len(leaf.shape) == 3 and np.dtype(leaf.dtype).itemsize == 1 and not leaf.categories


def _channels_last(leaf: Leaf) -> bool:
    return leaf.shape[2] < leaf.shape[0]


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
    picture = raw.permute(0, 3, 1, 2) if _channels_last(leaf) else raw
    return picture.float() if _kind(leaf) == "b" else picture.float() * (1.0 / 255.0)


def _planes(leaf: Leaf) -> tuple[int, int, int]:
    first, second, third = leaf.shape
    return (third, first, second) if _channels_last(leaf) else (first, second, third)


def _convolutions(leaf: Leaf) -> tuple[tuple[int, int, int, int], ...]:
    return NATURE if min(_planes(leaf)[1:]) >= 36 else SMALL


def _eye(leaf: Leaf) -> nn.Sequential:
    layers: list[nn.Module] = []
    before = _planes(leaf)[0]
    for channels, kernel, stride, padding in _convolutions(leaf):
        layers += [nn.Conv2d(before, channels, kernel, stride, padding), nn.ReLU()]
        before = channels
    return nn.Sequential(*layers, nn.Flatten())


def _eye_width(leaf: Leaf) -> int:
    channels, height, width = _planes(leaf)
    for channels, kernel, stride, padding in _convolutions(leaf):  # noqa: B007
        height = (height + 2 * padding - kernel) // stride + 1
        width = (width + 2 * padding - kernel) // stride + 1
    return channels * height * width
