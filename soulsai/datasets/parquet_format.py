"""Data sets as one Parquet file: a row for each observation, with the step that follows it.

The columns are ``episode``, ``step``, ``obs.<leaf>``, ``action``, ``reward``, ``terminated``,
``truncated``, ``intervened`` and ``info.<key>``; arrays are lists of fixed size. The last row of an
episode holds its last observation, and no step. The spec is in the file's metadata.
"""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import msgspec
import numpy as np

from soulsai.datasets.episodes import EpisodeDataset, RecordedEpisode
from soulsai.datasets.extra import need
from soulsai.datasets.native import action_space, misfits, observation_space
from soulsai.errors import DatasetError
from soulsai.types import Array, Leaf, Spec

KEY = b"soulsai"  # of the file's metadata
FORMAT = 1
OBS, INFO = "obs.", "info."


class _About(msgspec.Struct, frozen=True):
    """The metadata of a file."""

    format: int
    spec: Spec
    environment: str = ""
    seeds: list[int | None] = []
    facts: list[dict[str, str | int | float | bool]] = []


def write(dataset: EpisodeDataset, path: Path) -> None:
    """Write a data set.

    Args:
        dataset: The episodes.
        path: A new file.

    Raises:
        DatasetError: The file is there already, or cannot be written.
    """
    need("pyarrow")
    import pyarrow.parquet as pq

    if path.exists():
        raise DatasetError(f"{path}: is there already; name a new file")
    about = _About(
        format=FORMAT,
        spec=dataset.spec,
        environment=dataset.environment,
        seeds=[episode.seed for episode in dataset.episodes],
        facts=[episode.facts for episode in dataset.episodes],
    )
    table = _table(dataset).replace_schema_metadata({KEY: msgspec.json.encode(about)})
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        pq.write_table(table, path, compression="zstd")
    except OSError as error:
        raise DatasetError(f"{path}: cannot be written: {error}") from error


def _table(dataset: EpisodeDataset) -> Any:
    import pyarrow as pa

    episodes = dataset.episodes
    lengths = np.array([len(episode) for episode in episodes])
    last = np.cumsum(lengths + 1) - 1  # rows without a step
    without = np.zeros(int((lengths + 1).sum()), np.bool_)
    without[last] = True
    columns: dict[str, Any] = {
        "episode": pa.array(np.repeat(np.arange(len(episodes)), lengths + 1)),
        "step": pa.array(np.concatenate([np.arange(length + 1) for length in lengths])),
    }
    for name in dataset.spec.obs:
        columns[OBS + name] = _column(np.concatenate([each.obs[name] for each in episodes]))

    def add(name: str, rows: Callable[[RecordedEpisode], Array]) -> None:
        """Add a column of steps, without values in the rows that are none."""
        steps = np.concatenate([rows(each) for each in episodes])
        padded = np.zeros((len(without), *steps.shape[1:]), steps.dtype)
        padded[~without] = steps
        columns[name] = _column(padded, without)

    add("action", lambda each: each.action)
    add("reward", lambda each: each.reward)
    add("terminated", lambda each: _at_end(len(each), each.terminated))
    add("truncated", lambda each: _at_end(len(each), each.truncated))
    if any(each.intervened is not None for each in episodes):
        add("intervened", _intervened)
    for name in sorted({name for each in episodes for name in each.infos}):
        rows = [each.infos.get(name, np.full(len(each) + 1, np.nan)) for each in episodes]
        columns[INFO + name] = _column(np.concatenate(rows))
    return pa.table(columns)


def _intervened(episode: RecordedEpisode) -> Array:
    return np.zeros(len(episode), np.bool_) if episode.intervened is None else episode.intervened


def _at_end(steps: int, value: bool) -> Array:
    column = np.zeros(steps, np.bool_)
    column[-1] = value
    return column


def _column(rows: Array, without: Array | None = None) -> Any:
    import pyarrow as pa

    mask = None if without is None else pa.array(without)
    if rows.ndim == 1:
        return pa.array(np.ascontiguousarray(rows), mask=without)
    size = int(np.prod(rows.shape[1:]))
    flat = pa.array(np.ascontiguousarray(rows).reshape(-1))
    return pa.FixedSizeListArray.from_arrays(flat, size, mask=mask)


def read(path: Path, spec: Spec) -> EpisodeDataset:
    """Read a data set, also one without our metadata, if its columns have the run's names.

    Args:
        path: The file.
        spec: The spaces of the run.

    Raises:
        DatasetError: It is damaged, or has other spaces.
    """
    need("pyarrow")
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        table = pq.read_table(path)
    except (OSError, pa.ArrowException) as error:
        raise DatasetError(f"{path}: cannot be read: {' '.join(str(error).split())}") from error
    about = _about(path, (table.schema.metadata or {}).get(KEY))
    if about is not None:
        theirs = observation_space(about.spec), action_space(about.spec.action)
        if faults := misfits(spec, *theirs):
            raise DatasetError(f"{path}: does not fit: {'; '.join(faults)}")
    wanted = ["episode", "step", "action", "reward", *(OBS + name for name in spec.obs)]
    if missing := [name for name in wanted if name not in table.column_names]:
        raise DatasetError(f"{path}: column {missing[0]!r} is missing")
    columns = _Columns(path, table)
    number = columns.numbers("episode")
    starts = np.flatnonzero(np.append(True, number[1:] != number[:-1]))
    spans = zip(starts, np.append(starts[1:], len(number)), strict=True) if len(number) else ()
    episodes = [
        columns.episode(spec, index, slice(*span), about) for index, span in enumerate(spans)
    ]
    return EpisodeDataset(spec, episodes, about.environment if about else "", str(path))


def _about(path: Path, text: bytes | None) -> _About | None:
    if text is None:
        return None
    try:
        about = msgspec.json.decode(text, type=_About)
    except msgspec.MsgspecError as error:
        raise DatasetError(f"{path}: its metadata cannot be read: {error}") from error
    if about.format > FORMAT:
        raise DatasetError(
            f"{path}: has format {about.format}, and this version of SoulsAI reads {FORMAT}; "
            "install a newer one"
        )
    return about


class _Columns:
    """The columns of a file as arrays."""

    def __init__(self, path: Path, table: Any) -> None:
        self._path, self._table = path, table
        self._read: dict[str, Array] = {}

    def numbers(self, name: str) -> Array:
        """Return a column [rows] or [rows, size]; values that are missing are zero."""
        import pyarrow as pa

        if name not in self._read:
            column = self._table.column(name).combine_chunks()
            try:
                self._read[name] = _array(column)
            except (pa.ArrowException, ValueError, TypeError) as error:
                line = " ".join(str(error).split())
                raise DatasetError(f"{self._path}: column {name!r}: {line}") from error
        return self._read[name]

    def episode(self, spec: Spec, index: int, span: slice, about: _About | None) -> RecordedEpisode:
        """Return the episode in the rows of a span."""
        rows = span.stop - span.start
        where = f"{self._path}: episode {index}"
        if not np.array_equal(self.numbers("step")[span], np.arange(rows)):
            raise DatasetError(f"{where}: its steps do not count from 0 without a gap")
        obs = {name: self._rows(OBS + name, leaf, span, where) for name, leaf in spec.obs.items()}
        steps = slice(span.start, span.stop - 1)
        names = self._table.column_names
        ends = [self._ends(name, steps) for name in ("terminated", "truncated")]
        over = ends[0] | ends[1]
        if over[:-1].any():
            raise DatasetError(
                f"{where}, step {int(np.argmax(over))}: the episode ends, and has more steps"
            )
        facts = about.facts if about is not None else []
        seeds = about.seeds if about is not None else []
        return RecordedEpisode(
            obs=obs,
            action=self._rows("action", Leaf(spec.action.shape, ""), steps, where),
            reward=self.numbers("reward")[steps],
            terminated=bool(ends[0][-1:].any()),
            truncated=bool(ends[1][-1:].any()),
            intervened=self.numbers("intervened")[steps] if "intervened" in names else None,
            infos={
                name.removeprefix(INFO): self.numbers(name)[span]
                for name in names
                if name.startswith(INFO)
            },
            seed=seeds[index] if index < len(seeds) else None,
            facts=facts[index] if index < len(facts) else {},
        )

    def _ends(self, name: str, steps: slice) -> Array:
        if name not in self._table.column_names:
            return np.zeros(steps.stop - steps.start, np.bool_)
        return self.numbers(name)[steps].astype(np.bool_)

    def _rows(self, name: str, leaf: Leaf, span: slice, where: str) -> Array:
        rows = self.numbers(name)[span]
        try:
            shaped = rows.reshape(len(rows), *leaf.shape)
        except ValueError:
            raise DatasetError(
                f"{where}: column {name!r} has {rows[0].size} numbers in a row, and the run's "
                f"leaf the shape {leaf.shape}"
            ) from None
        return shaped.astype(leaf.dtype) if leaf.dtype and not leaf.categories else shaped


def _array(column: Any) -> Array:
    import pyarrow as pa

    if pa.types.is_fixed_size_list(column.type):
        values = column.flatten() if not column.null_count else column.values
        return _plain(values).reshape(len(column), column.type.list_size)
    if pa.types.is_list(column.type) or pa.types.is_large_list(column.type):
        rows: Sequence[Any] = column.to_pylist()
        size = max((len(row) for row in rows if row is not None), default=0)
        return np.array([[0] * size if row is None else row for row in rows])
    return _plain(column)


def _plain(values: Any) -> Array:
    import pyarrow as pa

    if values.null_count:
        values = values.fill_null(False if pa.types.is_boolean(values.type) else 0)
    array: Array = values.to_numpy(zero_copy_only=False)
    if array.dtype.kind not in "fiub":
        raise ValueError(f"holds {values.type} instead of numbers")
    return array
