"""Stacks of frames, of which each frame is kept once, however many stacks it is in."""

import zlib

import numpy as np

from soulsai.frame_stacks import Stack
from soulsai.replay.storage import Room
from soulsai.types import Array

SPARE = 1024  # frames beyond one per row, to begin with


class Frames:
    """Finds frames by what is in them; those that no stack needs any more make room."""

    def __init__(self, stack: Stack, dtype: str, rows: int, room: Room) -> None:
        self.stack = stack
        self.top = 0  # places that were ever used
        self._room = room
        self._pixels = room((rows + SPARE, stack.height, stack.width), dtype)
        self._needed = np.zeros(rows + SPARE, np.int64)  # by so many stacks
        self._where: dict[int, int] = {}  # by checksum
        self._free: list[int] = []

    def __len__(self) -> int:
        """Return the number of different frames."""
        return self.top - len(self._free)

    def put(self, images: Array) -> Array:
        """Return the places [N, frames] of the frames of images [N, ...]."""
        stacks = np.ascontiguousarray(self.stack.frames(images))
        places = np.empty(stacks.shape[:2], np.int64)
        for row, stack in enumerate(stacks):
            # most are the one before it and one more frame: cheaper to see than to look all up
            if row and np.array_equal(stack[:-1], stacks[row - 1, 1:]):
                places[row, :-1] = places[row - 1, 1:]
                places[row, -1] = self._place(stack[-1])
            else:
                places[row] = [self._place(frame) for frame in stack]
        np.add.at(self._needed, places, 1)
        return places

    def get(self, places: Array) -> Array:
        """Return the images [B, ...] whose frames are at ``places`` [B, frames]."""
        stacks = self._pixels.take(places.reshape(-1), axis=0)
        return self.stack.images(stacks.reshape(*places.shape, *self._pixels.shape[1:]))

    def release(self, places: Array) -> None:
        """Forget stacks: their frames go when no other stack needs them."""
        np.subtract.at(self._needed, places.reshape(-1), 1)
        for place in np.unique(places[self._needed[places] == 0]).tolist():
            key = zlib.crc32(self._pixels[place].data)
            if self._where.get(key) == place:
                del self._where[key]
            self._free.append(place)

    def _place(self, frame: Array) -> int:
        key = zlib.crc32(frame.data)
        place = self._where.get(key)
        if place is not None and np.array_equal(self._pixels[place], frame):
            return place
        if self._free:
            new = self._free.pop()
        else:
            new = self.top
            self.top += 1
            if self.top > len(self._needed):
                self._grow()
        self._pixels[new] = frame
        self._where[key] = new
        return new

    def _grow(self) -> None:
        """Make room for half as many frames again."""
        old, needed = self._pixels, self._needed
        size = len(old) + len(old) // 2
        self._pixels = self._room((size, *old.shape[1:]), old.dtype.str)
        self._pixels[: len(old)] = old
        self._needed = np.zeros(size, np.int64)
        self._needed[: len(old)] = needed

    def state(self) -> Array:
        """Return all frames."""
        return self._pixels[: self.top]

    def restore(self, pixels: Array, places: list[Array]) -> None:
        """Take over the frames of another, and the stacks that need them."""
        self.top = len(pixels)
        while len(self._needed) < self.top:
            self._grow()
        self._pixels[: self.top] = pixels
        self._needed[:] = 0
        for stacks in places:
            np.add.at(self._needed, stacks.reshape(-1), 1)
        used = self._needed[: self.top] > 0
        self._free = np.flatnonzero(~used).tolist()
        places_used = np.flatnonzero(used).tolist()
        self._where = {zlib.crc32(self._pixels[place].data): place for place in places_used}
