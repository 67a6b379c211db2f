"""TensorBoard's event files, written without TensorBoard: records of protocol buffers, by hand."""

import os
import socket
import struct
from pathlib import Path
from typing import BinaryIO

from soulsai.telemetry_node.connectors import Point, Thinner

FOLDER = "tensorboard"  # in the run's folder, so that `tensorboard --logdir saves` shows all runs
_POLYNOMIAL = 0x82F63B78  # of CRC-32C, reflected
_MASK = 0xA282EAD8
_LENGTH, _CHECK, _DOUBLE, _FLOAT = (struct.Struct(form) for form in ("<Q", "<I", "<d", "<f"))


def _table() -> tuple[int, ...]:
    table = []
    for byte in range(256):
        remainder = byte
        for _ in range(8):
            remainder = (remainder >> 1) ^ (_POLYNOMIAL if remainder & 1 else 0)
        table.append(remainder)
    return tuple(table)


_TABLE = _table()


class EventFile:
    """Appends points to one event file; it is made with the first of them."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._file: BinaryIO | None = None
        self._thinner = Thinner()

    def write(self, item: Point) -> None:
        """Take in a point."""
        due = self._thinner.add(item)
        if due is not None:
            self._append(due)

    def flush(self) -> None:
        """Give what was written to the system, so that TensorBoard sees it."""
        if self._file is not None:
            self._file.flush()

    def close(self) -> None:
        """Write what is left."""
        rest = self._thinner.rest()
        if rest is not None:
            self._append(rest)
        if self._file is not None:
            self._file.close()

    def abort(self) -> None:
        """Do nothing: a disk answers sooner or later."""

    def _append(self, point: Point) -> None:
        if self._file is None:
            self._folder.mkdir(exist_ok=True)
            host = socket.gethostname()
            name = f"events.out.tfevents.{int(point.time):010d}.{host}.{os.getpid()}.0"
            self._file = (self._folder / name).open("ab")
            self._file.write(record(_double(1, point.time) + _bytes(3, b"brain.Event:2")))
        self._file.write(record(event(point)))


def event(point: Point) -> bytes:
    """Return the ``Event`` message of a point."""
    values = b"".join(
        _bytes(1, _bytes(1, name.encode()) + b"\x15" + _FLOAT.pack(_clipped(value)))
        for name, value in point.values.items()
    )
    step = b"\x10" + _varint(max(0, point.env_steps))
    return _double(1, point.time) + step + _bytes(5, values)


def record(data: bytes) -> bytes:
    """Return data as a TFRecord: its length, and checksums of both."""
    length = _LENGTH.pack(len(data))
    return length + _CHECK.pack(_masked(length)) + data + _CHECK.pack(_masked(data))


def crc32c(data: bytes) -> int:
    """Return the CRC-32C (Castagnoli) of data."""
    check, table = 0xFFFFFFFF, _TABLE
    for byte in data:
        check = table[(check ^ byte) & 0xFF] ^ (check >> 8)
    return check ^ 0xFFFFFFFF


def _masked(data: bytes) -> int:
    check = crc32c(data)
    return (((check >> 15) | (check << 17)) + _MASK) & 0xFFFFFFFF


def _clipped(value: float) -> float:
    return min(max(value, -3.0e38), 3.0e38)  # of what a float of four bytes holds


def _varint(number: int) -> bytes:
    found = bytearray()
    while number > 0x7F:
        found.append(number & 0x7F | 0x80)
        number >>= 7
    found.append(number)
    return bytes(found)


def _bytes(field: int, data: bytes) -> bytes:
    return bytes([field << 3 | 2]) + _varint(len(data)) + data


def _double(field: int, number: float) -> bytes:
    return bytes([field << 3 | 1]) + _DOUBLE.pack(number)
