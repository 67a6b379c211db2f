"""Write TensorBoard event files: TFRecords of protocol buffers.

tensorboardX would do the same, but its import loads torch: 194 MiB and five seconds.
"""

import os
import socket
import struct
from pathlib import Path
from typing import BinaryIO

from soulsai.telemetry_node.connectors import Point, Thinner
from soulsai.telemetry_node.sinks.animation import Animation, animation

FOLDER = "tensorboard"  # in the run's folder: `tensorboard --logdir saves` shows all runs
_POLYNOMIAL = 0x82F63B78  # of CRC-32C, reflected
_LARGEST = 3.0e38  # of a float32


class EventFile:
    """Append points to one event file, which is created with the first of them."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._file: BinaryIO | None = None
        self._thinner = Thinner()

    def write(self, item: Point) -> None:
        """Add a point, or the animation of a recorded episode."""
        if item.video:
            moving = animation(Path(item.video))
            self._append_bytes(item, moving_event(item, moving) if moving else None)
        else:
            self._append(self._thinner.add(item))

    def flush(self) -> None:
        """Flush the file, so that TensorBoard sees the written points."""
        if self._file is not None:
            self._file.flush()

    def close(self) -> None:
        """Write the remaining points and close the file."""
        self._append(self._thinner.rest())
        if self._file is not None:
            self._file.close()

    def abort(self) -> None:
        """Do nothing: writes to a disk end by themselves."""

    def _append(self, point: Point | None) -> None:
        self._append_bytes(point, None if point is None else event(point))

    def _append_bytes(self, point: Point | None, data: bytes | None) -> None:
        if point is None or data is None:
            return
        if self._file is None:
            self._folder.mkdir(exist_ok=True)
            host = socket.gethostname()
            name = f"events.out.tfevents.{int(point.time):010d}.{host}.{os.getpid()}.0"
            self._file = (self._folder / name).open("ab")
            self._file.write(record(_double(1, point.time) + _bytes(3, b"brain.Event:2")))
        self._file.write(record(data))


def event(point: Point) -> bytes:
    """Return a point as TensorFlow's ``Event`` message."""
    values = b"".join(
        _bytes(1, _bytes(1, name.encode()) + b"\x15" + struct.pack("<f", _clipped(value)))
        for name, value in point.values.items()
    )
    step = b"\x10" + _varint(max(0, point.env_steps))
    return _double(1, point.time) + step + _bytes(5, values)


def moving_event(point: Point, moving: Animation) -> bytes:
    """Return an animation as TensorFlow's ``Event`` message, for the images of TensorBoard.

    Args:
        point: The time and the env steps.
        moving: The animation.
    """
    size = b"\x08" + _varint(moving.height) + b"\x10" + _varint(moving.width) + b"\x18\x03"
    image = size + _bytes(4, moving.data)
    value = _bytes(1, _bytes(1, b"evaluation/video") + _bytes(4, image))
    step = b"\x10" + _varint(max(0, point.env_steps))
    return _double(1, point.time) + step + _bytes(5, value)


def record(data: bytes) -> bytes:
    """Return data as a TFRecord: its length, the data, and a checksum of each."""
    length = struct.pack("<Q", len(data))
    return length + _checksum(length) + data + _checksum(data)


def crc32c(data: bytes) -> int:
    """Return the CRC-32C (Castagnoli) of data."""
    check = 0xFFFFFFFF
    for byte in data:
        check = _TABLE[(check ^ byte) & 0xFF] ^ (check >> 8)
    return check ^ 0xFFFFFFFF


def _remainder(byte: int) -> int:
    for _ in range(8):
        byte = (byte >> 1) ^ (_POLYNOMIAL if byte & 1 else 0)
    return byte


_TABLE = tuple(map(_remainder, range(256)))


def _checksum(data: bytes) -> bytes:
    """Return the masked checksum of a TFRecord."""
    check = crc32c(data)
    return struct.pack("<I", (((check >> 15) | (check << 17)) + 0xA282EAD8) & 0xFFFFFFFF)


def _clipped(value: float) -> float:
    return min(max(value, -_LARGEST), _LARGEST)


def _varint(number: int) -> bytes:
    encoded = bytearray()
    while number > 0x7F:
        encoded.append(number & 0x7F | 0x80)
        number >>= 7
    encoded.append(number)
    return bytes(encoded)


def _bytes(field: int, data: bytes) -> bytes:
    return bytes([field << 3 | 2]) + _varint(len(data)) + data


def _double(field: int, number: float) -> bytes:
    return bytes([field << 3 | 1]) + struct.pack("<d", number)
