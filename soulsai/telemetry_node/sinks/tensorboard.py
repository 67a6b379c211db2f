"""Write TensorBoard event files with tensorboardX."""

import os
from pathlib import Path

from tensorboardX.event_file_writer import EventsWriter
from tensorboardX.proto.event_pb2 import Event
from tensorboardX.proto.summary_pb2 import Summary

from soulsai.telemetry_node.connectors import Point, Thinner

FOLDER = "tensorboard"  # in the run's folder: `tensorboard --logdir saves` shows all runs
_LARGEST = 3.0e38  # of a float32


class EventFile:
    """Append points to one event file, which is created with the first of them."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._file: EventsWriter | None = None
        self._thinner = Thinner()

    def write(self, item: Point) -> None:
        """Add a point."""
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
        if point is None:
            return
        if self._file is None:
            self._folder.mkdir(exist_ok=True)
            self._file = EventsWriter(str(self._folder / "events"), f".{os.getpid()}.0")
        values = [
            Summary.Value(tag=name, simple_value=min(max(value, -_LARGEST), _LARGEST))
            for name, value in point.values.items()
        ]
        self._file.write_event(
            Event(
                wall_time=point.time,
                step=max(0, point.env_steps),
                summary=Summary(value=values),
            )
        )
