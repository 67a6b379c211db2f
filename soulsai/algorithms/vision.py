"""Vision encoders: networks from one image [B, C, H, W] to features [B, F]; all export to ONNX."""

from collections.abc import Sequence
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from soulsai.errors import ConfigError

Vision = Literal["auto", "small", "minatar", "efficient", "nature", "impala"]
ImageShape = tuple[int, int, int]  # channels, height, width

# Channels, kernel, stride and padding of each layer
NATURE = ((32, 8, 4, 0), (64, 4, 2, 0), (64, 3, 1, 0))  # doi:10.1038/nature14236
EFFICIENT = ((32, 5, 5, 0), (64, 5, 5, 0))  # data-efficient Rainbow (arXiv:1906.05243)
MINATAR = ((16, 3, 1, 0),)  # arXiv:1903.03176
SMALL = ((16, 3, 1, 1), (32, 3, 1, 1))
LAYERS = {"nature": NATURE, "efficient": EFFICIENT, "minatar": MINATAR, "small": SMALL}
STAGES = (16, 32, 32)  # channels of IMPALA's stages (arXiv:1802.01561), before widening
POOLED = 6  # height and width after IMPALA's last stage (Beyond the Rainbow, arXiv:2411.03820)
LARGE = 128  # pixels: features of images with a longer side are pooled if there are too many
MOST_FEATURES = 64 * 12 * 12  # those of ``nature`` on 128 x 128 pixels
GRID = 7  # height and width after that, as after the layers of ``nature`` on 84 x 84 pixels


def vision_encoder(kind: Vision, image: ImageShape, *, widen: int = 2) -> nn.Module:
    """Return an encoder for images of one shape.

    Args:
        kind: Architecture; ``auto`` chooses by the shorter side, as strides lose too much of a
            small image.
        image: Channels, height and width.
        widen: Factor of IMPALA's channels.

    Raises:
        ConfigError: The image is smaller than the layers of the architecture can read.
    """
    side = min(image[1:])
    if kind == "auto":
        board = 5 <= side <= 16  # cells of a board rather than pixels
        kind = "nature" if side >= 36 else "minatar" if board else "small"
    if kind == "impala":
        return Impala(image, widen=widen)
    least = smallest_side(LAYERS[kind])
    if side < least:
        _, height, width = image
        raise ConfigError(
            f"vision: {kind} reads images of {least} x {least} pixels or more, and these have "
            f"{height} x {width}; take auto, which chooses by the size"
        )
    return convolutions(image, LAYERS[kind])


def smallest_side(layers: Sequence[tuple[int, int, int, int]]) -> int:
    """Return the least height and width of an image for convolutions as in ``convolutions``."""
    side = 1
    for _, kernel, stride, padding in reversed(layers):
        side = max(1, (side - 1) * stride + kernel - 2 * padding)
    return side


def feature_count(encoder: nn.Module, image: ImageShape) -> int:
    """Return the number of features F that an encoder computes from an image."""
    with torch.no_grad():
        return int(encoder(torch.zeros(1, *image)).shape[1])


def convolutions(image: ImageShape, layers: Sequence[tuple[int, int, int, int]]) -> nn.Sequential:
    """Return convolutions of given channels, kernel, stride and padding, with a ReLU each.

    Many features of a large image are pooled to a grid, or the next layer would be too large.
    """
    modules: list[nn.Module] = []
    inputs, *size = image
    for channels, kernel, stride, padding in layers:
        modules += [nn.Conv2d(inputs, channels, kernel, stride, padding), nn.ReLU()]
        inputs, size = channels, [(side + 2 * padding - kernel) // stride + 1 for side in size]
    if max(image[1:]) > LARGE and inputs * size[0] * size[1] > MOST_FEATURES:
        modules.append(MaxPoolToGrid(size[0], size[1], GRID))
    return nn.Sequential(*modules, nn.Flatten())


class Impala(nn.Module):
    """Stages of residual blocks under spectral norm, pooled to a fixed grid at the end."""

    def __init__(self, image: ImageShape, *, widen: int) -> None:
        super().__init__()
        inputs, height, width = image
        stages: list[nn.Module] = []
        for channels in (widen * channels for channels in STAGES):
            stages += [
                nn.Conv2d(inputs, channels, 3, padding=1),
                nn.MaxPool2d(3, stride=2, padding=1),
                Residual(channels),
                Residual(channels),
            ]
            inputs, height, width = channels, (height + 1) // 2, (width + 1) // 2
        self.stages = nn.Sequential(*stages)
        self.pool = MaxPoolToGrid(height, width, POOLED)

    def forward(self, image: Tensor) -> Tensor:
        """Map an image [B, C, H, W] to features [B, F]."""
        pooled: Tensor = self.pool(self.stages(image).relu())
        return pooled.flatten(1)


class Residual(nn.Module):
    """Two convolutions, added to their input."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.first, self.second = SpectralConv(channels), SpectralConv(channels)

    def forward(self, x: Tensor) -> Tensor:
        """Map [B, C, H, W] to the same shape."""
        residual: Tensor = self.second(self.first(x.relu()).relu())
        return x + residual


class SpectralConv(nn.Module):
    """A 3x3 convolution with weights divided by their largest singular value (arXiv:1802.05957).

    The singular vectors are buffers that ``power_iteration`` refines once per update, so the
    forward pass has no side effect and exports.
    """

    u: Tensor
    v: Tensor

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(channels, channels, 3, padding=1)
        self.register_buffer("u", torch.zeros(channels))
        self.register_buffer("v", torch.ones(9 * channels))
        for _ in range(10):
            self.power_iteration()

    @torch.no_grad()
    def power_iteration(self) -> None:
        """Refine the singular vectors by one step."""
        matrix = self.conv.weight.flatten(1)
        self.u.copy_(F.normalize(matrix @ self.v, dim=0))
        self.v.copy_(F.normalize(matrix.t() @ self.u, dim=0))

    def forward(self, x: Tensor) -> Tensor:
        """Map [B, C, H, W] to the same shape."""
        weight = self.conv.weight
        largest = (self.u * (weight.flatten(1) * self.v).sum(1)).sum()
        return F.conv2d(x, weight / largest, self.conv.bias, padding=1)


class MaxPoolToGrid(nn.Module):
    """``AdaptiveMaxPool2d`` with fixed slices, as that one does not export; never enlarges."""

    def __init__(self, height: int, width: int, size: int) -> None:
        super().__init__()
        self._rows, self._columns = pooling_windows(height, size), pooling_windows(width, size)

    def forward(self, x: Tensor) -> Tensor:
        """Map [B, C, H, W] to [B, C, size, size]."""
        x = torch.stack([x[:, :, first:end].amax(2) for first, end in self._rows], 2)
        return torch.stack([x[..., first:end].amax(3) for first, end in self._columns], 3)


def pooling_windows(length: int, size: int) -> list[tuple[int, int]]:
    """Return first and end of ``size`` windows that cover ``length`` places."""
    size = min(length, size)
    return [(i * length // size, -(-(i + 1) * length // size)) for i in range(size)]


def spectral_convolutions(*networks: nn.Module) -> list[SpectralConv]:
    """Return all convolutions that need a power iteration after each update of the weights."""
    modules = (module for network in networks for module in network.modules())
    return [module for module in modules if isinstance(module, SpectralConv)]
