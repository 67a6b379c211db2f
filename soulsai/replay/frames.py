"""Deduplicated storage of stacked frames: each distinct frame is stored once."""

import zlib

import numpy as np

from soulsai.frame_stacks import FrameStack
from soulsai.replay.storage import Allocate
from soulsai.types import Array

SPARE = 1024  # initial capacity beyond one frame per row


class FrameStore:
    """Stores the frames of image stacks once, by content, and counts references to them.

    Args:
        stack: Axes and sizes of the images.
        dtype: NumPy type of a pixel.
        rows: Number of stacks expected; the store grows if frames repeat less than expected.
        allocate: Allocates the pixel array.
    """

    def __init__(self, stack: FrameStack, dtype: str, rows: int, allocate: Allocate) -> None:
        self.stack = stack
        self.used = 0  # slots that were ever used, free ones included
        self._allocate = allocate
        self._pixels = allocate((rows + SPARE, stack.height, stack.width), dtype)
        self._references = np.zeros(rows + SPARE, np.int64)
        self._slot_by_checksum: dict[int, int] = {}
        self._free: list[int] = []

    def __len__(self) -> int:
        """Return the number of distinct frames."""
        return self.used - len(self._free)

    def put(self, images: Array) -> Array:
        """Add images [N, ...]; return the slots [N, frames] of their frames."""
        stacks = np.ascontiguousarray(self.stack.frames(images))
        slots = np.empty(stacks.shape[:2], np.int64)
        for row, stack in enumerate(stacks):
            # Most stacks shift the previous one by a frame: comparing is cheaper than looking up.
            if row and np.array_equal(stack[:-1], stacks[row - 1, 1:]):
                slots[row, :-1] = slots[row - 1, 1:]
                slots[row, -1] = self._put_frame(stack[-1])
            else:
                slots[row] = [self._put_frame(frame) for frame in stack]
        np.add.at(self._references, slots, 1)
        return slots

    def get(self, slots: Array) -> Array:
        """Return images [B, ...] from the slots [B, frames] of their frames."""
        stacks = self._pixels.take(slots.reshape(-1), axis=0)
        return self.stack.images(stacks.reshape(*slots.shape, *self._pixels.shape[1:]))

    def release(self, slots: Array) -> None:
        """Drop one reference per slot [N, frames]; free frames without any."""
        np.subtract.at(self._references, slots.reshape(-1), 1)
        for slot in np.unique(slots[self._references[slots] == 0]).tolist():
            checksum = zlib.crc32(self._pixels[slot].data)
            if self._slot_by_checksum.get(checksum) == slot:
                del self._slot_by_checksum[checksum]
            self._free.append(slot)

    def _put_frame(self, frame: Array) -> int:
        checksum = zlib.crc32(frame.data)
        slot = self._slot_by_checksum.get(checksum)
        if slot is not None and np.array_equal(self._pixels[slot], frame):
            return slot
        if self._free:
            new = self._free.pop()
        else:
            new = self.used
            self.used += 1
            if self.used > len(self._references):
                self._grow()
        self._pixels[new] = frame
        self._slot_by_checksum[checksum] = new
        return new

    def _grow(self) -> None:
        """Enlarge the capacity by half."""
        pixels, references = self._pixels, self._references
        size = len(pixels) + len(pixels) // 2
        self._pixels = self._allocate((size, *pixels.shape[1:]), pixels.dtype.str)
        self._pixels[: len(pixels)] = pixels
        self._references = np.zeros(size, np.int64)
        self._references[: len(references)] = references

    def state(self) -> Array:
        """Return all frames [used, height, width]; free slots hold stale pixels."""
        return self._pixels[: self.used]

    def restore(self, pixels: Array, references: list[Array]) -> None:
        """Load frames [used, height, width] and the slot arrays [N, frames] that refer to them."""
        self.used = len(pixels)
        while len(self._references) < self.used:
            self._grow()
        self._pixels[: self.used] = pixels
        self._references[:] = 0
        for slots in references:
            np.add.at(self._references, slots.reshape(-1), 1)
        referenced = self._references[: self.used] > 0
        self._free = np.flatnonzero(~referenced).tolist()
        self._slot_by_checksum = {
            zlib.crc32(self._pixels[slot].data): slot
            for slot in np.flatnonzero(referenced).tolist()
        }
