"""Networks that look at one image: each maps [B, C, H, W] to [B, width], and exports to ONNX."""

from collections.abc import Sequence
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

Vision = Literal["auto", "small", "minatar", "nature", "impala"]
Planes = tuple[int, int, int]  # channels, height, width

# Channels, kernel, stride and padding of each layer
NATURE = ((32, 8, 4, 0), (64, 4, 2, 0), (64, 3, 1, 0))  # doi:10.1038/nature14236
MINATAR = ((16, 3, 1, 0),)  # arXiv:1903.03176
SMALL = ((16, 3, 1, 1), (32, 3, 1, 1))
STAGES = (16, 32, 32)  # channels of IMPALA's stages (arXiv:1802.01561), before they are widened
POOLED = 6  # height and width after IMPALA's last stage (Beyond the Rainbow, arXiv:2411.03820)


def eye(kind: Vision, planes: Planes, *, wide: int = 2) -> nn.Module:
    """Return a network for images of that shape; ``auto`` chooses by their size."""
    if kind == "auto":
        kind = _fitting(min(planes[1:]))
    if kind == "impala":
        return Impala(planes, wide=wide)
    return convolutions(planes, {"nature": NATURE, "minatar": MINATAR, "small": SMALL}[kind])


def _fitting(least: int) -> Literal["small", "minatar", "nature"]:
    """Choose by an image's shorter side: too much is lost of a small one between strides."""
    if least >= 36:
        return "nature"
    return "minatar" if 5 <= least <= 16 else "small"  # cells of a board, not pixels


def width(look: nn.Module, planes: Planes) -> int:
    """Return how many features a network makes of an image."""
    with torch.no_grad():
        return int(look(torch.zeros(1, *planes)).shape[1])


def convolutions(planes: Planes, layers: Sequence[tuple[int, int, int, int]]) -> nn.Sequential:
    """Return convolutions with a ReLU each."""
    modules: list[nn.Module] = []
    before = planes[0]
    for channels, kernel, stride, padding in layers:
        modules += [nn.Conv2d(before, channels, kernel, stride, padding), nn.ReLU()]
        before = channels
    return nn.Sequential(*modules, nn.Flatten())


class Impala(nn.Module):
    """Stages of residual blocks under spectral norm, pooled to a fixed size at the end."""

    def __init__(self, planes: Planes, *, wide: int) -> None:
        super().__init__()
        before, height, across = planes
        stages: list[nn.Module] = []
        for channels in (wide * channels for channels in STAGES):
            stages += [
                nn.Conv2d(before, channels, 3, padding=1),
                nn.MaxPool2d(3, stride=2, padding=1),
                Residual(channels),
                Residual(channels),
            ]
            before, height, across = channels, (height + 1) // 2, (across + 1) // 2
        self.stages = nn.Sequential(*stages)
        self.pool = Pool(height, across, POOLED)

    def forward(self, image: Tensor) -> Tensor:
        """Return features [B, width]."""
        seen: Tensor = self.pool(self.stages(image).relu())
        return seen.flatten(1)


class Residual(nn.Module):
    """Two convolutions, whose result is added to what they were given."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.first, self.second = SpectralConv(channels), SpectralConv(channels)

    def forward(self, x: Tensor) -> Tensor:
        """Keep the shape."""
        added: Tensor = self.second(self.first(x.relu()).relu())
        return x + added


class SpectralConv(nn.Module):
    """A 3x3 convolution whose weights are divided by their largest singular value.

    The value is estimated with two vectors, which ``settle`` brings nearer to the singular ones,
    once per update; so the forward pass changes nothing, and exports.
    """

    u: Tensor
    v: Tensor

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(channels, channels, 3, padding=1)
        self.register_buffer("u", torch.zeros(channels))
        self.register_buffer("v", torch.ones(9 * channels))
        for _ in range(10):
            self.settle()

    @torch.no_grad()
    def settle(self) -> None:
        """Do one step of power iteration."""
        matrix = self.conv.weight.flatten(1)
        self.u.copy_(F.normalize(matrix @ self.v, dim=0))
        self.v.copy_(F.normalize(matrix.t() @ self.u, dim=0))

    def forward(self, x: Tensor) -> Tensor:
        """Keep the shape."""
        weight = self.conv.weight
        largest = (self.u * (weight.flatten(1) * self.v).sum(1)).sum()
        return F.conv2d(x, weight / largest, self.conv.bias, padding=1)


class Pool(nn.Module):
    """What ``AdaptiveMaxPool2d`` computes, from slices that are fixed: that one does not export.

    An image that is smaller stays as it is.
    """

    def __init__(self, height: int, width: int, size: int) -> None:
        super().__init__()
        self._rows, self._columns = windows(height, size), windows(width, size)

    def forward(self, x: Tensor) -> Tensor:
        """Map [B, C, H, W] to [B, C, size, size]."""
        x = torch.stack([x[:, :, first:end].amax(2) for first, end in self._rows], 2)
        return torch.stack([x[..., first:end].amax(3) for first, end in self._columns], 3)


def windows(length: int, size: int) -> list[tuple[int, int]]:
    """Return where each of ``size`` windows over ``length`` places begins and ends."""
    size = min(length, size)
    return [(i * length // size, -(-(i + 1) * length // size)) for i in range(size)]


def spectral(*networks: nn.Module) -> list[SpectralConv]:
    """Return all parts of networks that must settle after each update of their weights."""
    parts = (part for network in networks for part in network.modules())
    return [part for part in parts if isinstance(part, SpectralConv)]
