"""Experience that a run keeps as it comes: files of fragments in a folder of the run.

A file is of the safetensors format; its tensors are named after the fragment's number and the
column, and its metadata holds the other fields as JSON. ``run.json`` describes the run.
"""

import json
from collections.abc import Collection, Iterator, Sequence
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
from msgspec import Struct

from soulsai.datasets.episodes import JoinedEpisodes, from_fragments
from soulsai.datasets.extra import need
from soulsai.errors import DatasetError
from soulsai.types import Array, Fragment, Head, RunSpec

RUN = "run.json"
PATTERN = "experience-*.safetensors"
_GROUPS = ("obs", "extras", "memory")  # fields that hold columns by name
_ARRAYS = ("action", "reward", "intervened")


class KeptRun(Struct, frozen=True):
    """The description of the run whose experience is kept."""

    spec: RunSpec
    head: Head


def name_of(number: int) -> str:
    """Return the name of the file of a number."""
    return f"experience-{number:08d}.safetensors"


def files(folder: Path) -> list[Path]:
    """Return the files of experience in a folder, oldest first."""
    return sorted(folder.glob(PATTERN))


def encode(fragments: Sequence[Fragment]) -> bytes:
    """Return the content of a file of fragments."""
    from safetensors.numpy import save

    arrays: dict[str, Array] = {}
    others: list[dict[str, Any]] = []
    for index, fragment in enumerate(fragments):
        fields = msgspec.structs.asdict(fragment)
        for group in _GROUPS:
            for name, column in fields.pop(group).items():
                arrays[f"{index}.{group}.{name}"] = np.ascontiguousarray(column)
        for name in _ARRAYS:
            if (column := fields.pop(name)) is not None:
                arrays[f"{index}.{name}"] = np.ascontiguousarray(column)
        others.append(fields)
    return save(arrays, {"fragments": json.dumps(others)})


def decode(data: bytes) -> list[Fragment]:
    """Return the fragments in the content of a file; raise ``ValueError`` if it is damaged."""
    from safetensors import SafetensorError
    from safetensors.numpy import load

    try:
        end = 8 + int.from_bytes(data[:8], "little")
        others = json.loads(json.loads(data[8:end])["__metadata__"]["fragments"])
        columns: list[dict[str, Any]] = [
            {group: {} for group in _GROUPS} | fields for fields in others
        ]
        for name, array in load(data).items():
            index, field, *rest = name.split(".", 2)
            if rest:
                columns[int(index)][field][rest[0]] = array
            else:
                columns[int(index)][field] = array
        return [Fragment(**fields) for fields in columns]
    except (SafetensorError, KeyError, TypeError, IndexError, AttributeError) as error:
        raise ValueError(str(error)) from error


def is_kept(path: Path) -> bool:
    """Return whether a folder holds kept experience."""
    return (path / RUN).is_file()


def read(folder: Path, *, purged: Collection[str] = ()) -> JoinedEpisodes:
    """Return the whole episodes of the experience in a folder.

    Args:
        folder: The run's folder of experience.
        purged: Clients whose experience is left out.

    Raises:
        DatasetError: A file is damaged, or there is none.
    """
    need("safetensors")
    try:
        run = msgspec.json.decode((folder / RUN).read_bytes(), type=KeptRun)
    except (OSError, msgspec.MsgspecError) as error:
        raise DatasetError(f"{folder / RUN}: cannot be read: {error}") from error
    fragments = (each for each in _fragments(folder) if each.client not in purged)
    return from_fragments(run.spec, run.head, fragments)


def _fragments(folder: Path) -> Iterator[Fragment]:
    for path in files(folder):
        try:
            yield from decode(path.read_bytes())
        except (OSError, ValueError) as error:
            raise DatasetError(f"{path}: cannot be read: {' '.join(str(error).split())}") from error
