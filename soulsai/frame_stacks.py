"""Images, and stacks of frames: consecutive images of a stack share all frames but one."""

from math import prod
from typing import NamedTuple

import numpy as np

from soulsai.types import Array, Leaf

LEAST_BYTES = 1024  # of a frame; deduplication of smaller ones costs more than it saves
LEAST_SIDE = 36  # of an image that could as well be a table; smaller ones suit dense layers


class ImageAxes(NamedTuple):
    """The axes of an image leaf: frames if there are four, and the place of the channels."""

    frames: int
    channels: int
    height: int
    width: int
    last: bool  # channels are the last axis, not the first after the frames

    @property
    def depth(self) -> int:
        """The number of channels of all frames."""
        return self.frames * self.channels


class FrameStack(NamedTuple):
    """Axes and sizes of stacked frames; the newest frame is the last, as in Gymnasium's wrapper."""

    depth: int  # frames, or channels
    height: int
    width: int  # times the channels, if each frame has some
    last: bool  # the frames are the last axis, not the first
    channels: int = 0  # of each frame, as an axis of its own; 0: no such axis

    @property
    def shape(self) -> tuple[int, ...]:
        """The shape of an image."""
        if self.channels:
            return (self.depth, self.height, self.width // self.channels, self.channels)
        size = (self.height, self.width)
        return (*size, self.depth) if self.last else (self.depth, *size)

    def frames(self, images: Array) -> Array:
        """Return a view [N, frames, height, width] of images [N, ...]."""
        if self.channels:
            return images.reshape(len(images), self.depth, self.height, self.width)
        return images.transpose(0, 3, 1, 2) if self.last else images

    def images(self, frames: Array) -> Array:
        """Return a view [N, ...] of frames [N, frames, height, width]; inverts ``frames``."""
        if self.channels:
            return frames.reshape(len(frames), *self.shape)
        return frames.transpose(0, 2, 3, 1) if self.last else frames

    def rolls(self, images: Array) -> bool:
        """Return whether each image [N, ...] equals the previous one shifted by one frame."""
        frames = self.frames(images)
        # A comparison across the pixels of interleaved frames at once is several times slower.
        return all(
            np.array_equal(frames[1:, older], frames[:-1, older + 1])
            for older in range(self.depth - 1)
        )

    def unrolled(self, images: Array) -> Array:
        """Return the distinct frames [N + frames - 1, height, width] of images that roll."""
        frames = self.frames(images)
        return np.concatenate((frames[0], frames[1:, -1]))

    def rolled(self, frames: Array) -> Array:
        """Return images [N, ...] as a read-only view of frames; inverts ``unrolled``."""
        windows = np.lib.stride_tricks.sliding_window_view(frames, self.depth, axis=0)
        return self.images(windows.transpose(0, 3, 1, 2))


def image_axes(leaf: Leaf) -> ImageAxes | None:
    """Return the axes of a leaf that is an image, else ``None``.

    An image is a box of bytes or booleans with height, width and channels, or with frames before
    these. Without channels, or with other bounded numbers, its sides have ``LEAST_SIDE`` pixels at
    least. The shorter of the first and last axis holds channels.
    """
    axes, dtype = _axes(leaf), np.dtype(leaf.dtype)
    if axes is None or leaf.categories:
        return None
    if dtype.itemsize == 1 and len(leaf.shape) > 2:
        return axes
    bounded = leaf.low is not None and leaf.high is not None and leaf.low < leaf.high
    numbers = dtype.itemsize == 1 or (bounded and dtype.str in ("<f2", "<f4", "<f8", "<u2"))
    return axes if numbers and min(axes.height, axes.width) >= LEAST_SIDE else None


def stack_of(leaf: Leaf) -> FrameStack | None:
    """Return the axes of a leaf that stacks large frames of bytes, else ``None``."""
    axes = image_axes(leaf)
    if axes is None or np.dtype(leaf.dtype).itemsize != 1 or len(leaf.shape) == 2:
        return None
    if len(leaf.shape) == 4:
        depth, height, *rest = leaf.shape
        stack = FrameStack(depth, height, prod(rest), last=False, channels=rest[-1])
    else:
        stack = FrameStack(axes.channels, axes.height, axes.width, axes.last)
    return stack if stack.depth > 1 and stack.height * stack.width >= LEAST_BYTES else None


def _axes(leaf: Leaf) -> ImageAxes | None:
    if len(leaf.shape) == 2:
        return ImageAxes(1, 1, *leaf.shape, last=False)
    if len(leaf.shape) not in (3, 4):
        return None
    frames = leaf.shape[0] if len(leaf.shape) == 4 else 1
    first, second, third = leaf.shape[-3:]
    if third < first:
        return ImageAxes(frames, third, first, second, last=True)
    return ImageAxes(frames, first, second, third, last=False)
