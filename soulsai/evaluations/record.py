"""The record of evaluations: ``evaluations.jsonl`` of a run, append-only, and the models played.

Only the evaluator writes. A model that gets more episodes gets another line with all of them, so
the last line of a model holds everything about it.
"""

import os
from collections import OrderedDict
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Annotated, Literal

import msgspec
from msgspec import Meta, Struct

from soulsai.evaluations.intervals import iqm_estimate, mean_estimate

NAME = "evaluations.jsonl"
FOLDER = "evaluations"  # of the models that were evaluated, and of their recordings
STATE = "evaluator.json"
POLICY = "policy.onnx"
MOST_EPISODES = 10_000  # of one line
LONGEST_LINE = 2_000_000  # bytes; longer ones are no lines of ours
MOST_LINES = 20_000  # kept in memory, without their episodes
SILENT_SECONDS = 30.0  # after which an evaluator counts as dead; it writes more often
PIECE = 4_000_000  # bytes of one read

Verdict = Literal["first", "best", "candidate", "no better"]
Player = Literal["evaluator", "clients"]
ModelName = Annotated[str, Meta(pattern=r"\A[a-z0-9][a-z0-9-]{0,63}\Z")]


class EvaluationLine(Struct, frozen=True):
    """One line: a model's episodes so far, in the order of their seeds, and the verdict on it.

    ``mean``, ``iqm`` and their 95 % intervals are of ``scores``: of the metric that ranks models.
    """

    number: int  # from 1
    time: float  # Unix seconds
    model: ModelName  # a checkpoint's number, or ``best-<generation>-<version>``
    generation: int
    version: int
    env_steps: int
    verdict: Verdict
    regressed: bool = False  # far worse than the best model
    by: Player = "evaluator"
    metric: str = "reward"
    smaller: bool = False  # less of it is better
    seeds: tuple[int, ...] = ()  # empty if clients have played: they have no seeds
    returns: tuple[float, ...] = ()
    lengths: tuple[int, ...] = ()  # env steps
    scores: tuple[float, ...] = ()  # of ``metric``; empty: the returns
    metrics: dict[str, float] = {}  # means of ``telemetry.metrics``
    mean: float = 0.0
    low: float = 0.0
    high: float = 0.0
    iqm: float = 0.0
    iqm_low: float = 0.0
    iqm_high: float = 0.0
    episodes: int = 0
    left_out: int = 0  # episodes in which the environment broke each time
    seconds: float = 0.0  # of playing

    @property
    def is_checkpoint(self) -> bool:
        """Whether the model is a numbered checkpoint."""
        return self.model.isdecimal()

    @property
    def is_best(self) -> bool:
        """Whether the model was the best one when the line was written."""
        return self.verdict in ("first", "best")

    @property
    def ranked(self) -> tuple[float, ...]:
        """The value of each episode that ranks models."""
        return self.scores or self.returns

    def by_seed(self) -> dict[int, float]:
        """Return the score of each seed; a larger one is better."""
        sign = -1.0 if self.smaller else 1.0
        return {seed: sign * score for seed, score in zip(self.seeds, self.ranked, strict=False)}


class EvaluatorState(Struct, frozen=True):
    """``evaluator.json``: what the evaluator is doing; written every few seconds."""

    time: float  # Unix seconds
    doing: str = ""
    fault: str = ""  # the reason why something is not evaluated or not recorded
    request: str = ""  # the model that clients are asked to play, because nobody can here
    generation: int = 0
    version: int = 0
    episodes: int = 0  # that are asked for
    ended: bool = False  # it has stopped because it was told to
    every: int = 1  # the checkpoints that it plays
    finished: tuple[str, ...] = ()  # the last models that it is done with, recordings included


def measured(line: EvaluationLine) -> EvaluationLine:
    """Return a line with its mean, interquartile mean and intervals filled in."""
    mean, middle = mean_estimate(line.ranked), iqm_estimate(line.ranked)
    return msgspec.structs.replace(
        line,
        mean=mean.value, low=mean.low, high=mean.high,
        iqm=middle.value, iqm_low=middle.low, iqm_high=middle.high,
        episodes=len(line.returns),
    )  # fmt: skip


class EvaluationReader:
    """Follow ``evaluations.jsonl``: each call reads what was appended since the last one."""

    def __init__(self, folder: Path) -> None:
        self._path = folder / NAME
        self._offset = 0
        self._decoder = msgspec.json.Decoder(EvaluationLine)

    def fresh(self) -> list[EvaluationLine]:
        """Return new sound lines; an unfinished last one is read when it is complete."""
        return list(self._lines())

    def _lines(self) -> Iterator[EvaluationLine]:
        try:
            size = self._path.stat().st_size
        except OSError:
            return
        if size < self._offset:
            self._offset = 0
        if size == self._offset:
            return
        with self._path.open("rb") as file:
            file.seek(self._offset)
            end = min(size, self._offset + PIECE)
            while self._offset < end:
                raw = file.readline(LONGEST_LINE)
                if not raw.endswith(b"\n") and len(raw) < LONGEST_LINE:
                    return  # it is still being written
                self._offset += len(raw)
                try:
                    yield self._decoder.decode(raw)
                except (msgspec.MsgspecError, UnicodeDecodeError):
                    continue


class Evaluations:
    """All evaluations of a run, the last line of each model; the oldest models are forgotten.

    Episodes are kept for the best model and for the newest line only.
    """

    def __init__(self, folder: Path) -> None:
        self.models: OrderedDict[str, EvaluationLine] = OrderedDict()
        self.first: EvaluationLine | None = None
        self.best: EvaluationLine | None = None
        self.newest: EvaluationLine | None = None
        self.last = 0  # the number of the newest line
        self._reader = EvaluationReader(folder)

    def refresh(self) -> list[EvaluationLine]:
        """Read all that was appended, and return the new lines."""
        new: list[EvaluationLine] = []
        while lines := self._reader.fresh():
            for line in lines:
                self._add(line)
            new += lines[-MOST_LINES:]
        return new[-MOST_LINES:]

    def _add(self, line: EvaluationLine) -> None:
        self.first = self.first or line
        if line.is_best or (self.best is not None and line.model == self.best.model):
            self.best = line
        self.newest = line
        self.last = max(self.last, line.number)
        self.models[line.model] = msgspec.structs.replace(
            line, seeds=(), returns=(), lengths=(), scores=()
        )
        self.models.move_to_end(line.model)
        if len(self.models) > MOST_LINES:
            self.models.popitem(last=False)

    @property
    def rules(self) -> bool:
        """Whether the best model is the one by evaluation: two models have been compared."""
        return self.best is not None and len(self.models) > 1


def append(folder: Path, line: EvaluationLine) -> None:
    """Append a line as a whole; after an ``OSError`` nothing is appended.

    Args:
        folder: The run's folder.
        line: The line.
    """
    data = memoryview(msgspec.json.encode(line) + b"\n")
    with (folder / NAME).open("a+b", buffering=0) as file:
        size = file.seek(0, os.SEEK_END)
        if size and not _ends_whole(folder / NAME, size):  # the process before died in a write
            data = memoryview(b"\n" + bytes(data))
        try:
            while data:
                data = data[file.write(data) :]
            os.fsync(file.fileno())
        except OSError:
            file.truncate(size)
            raise


def write_state(folder: Path, state: EvaluatorState) -> None:
    """Replace ``evaluator.json``; raise ``OSError`` if the disk refuses."""
    aside = folder / f".{STATE}.part"
    aside.write_bytes(msgspec.json.encode(state))
    aside.replace(folder / STATE)


def read_state(folder: Path) -> EvaluatorState | None:
    """Return the content of ``evaluator.json`` if it is there and readable."""
    try:
        return msgspec.json.decode((folder / STATE).read_bytes(), type=EvaluatorState)
    except (OSError, msgspec.MsgspecError, UnicodeDecodeError):
        return None


def awaits(folder: Path, checkpoint: str, now: float) -> bool:
    """Return whether an evaluator that is alive has not finished with a checkpoint.

    Args:
        folder: The run's folder.
        checkpoint: The checkpoint's name.
        now: Unix seconds.
    """
    state = read_state(folder)
    if state is None or state.ended or now - state.time > SILENT_SECONDS or state.request:
        return False
    if not checkpoint.isdecimal() or int(checkpoint) % max(1, state.every):
        return False
    return checkpoint not in state.finished


def kept_policy(folder: Path, model: str) -> Path:
    """Return the place of the evaluator's copy of a model's policy.

    Args:
        folder: The run's folder.
        model: The model's name in the record.
    """
    return folder / FOLDER / model / POLICY


def mean_metrics(rows: Sequence[Mapping[str, float]]) -> dict[str, float]:
    """Return the mean of each number over the episodes that have it."""
    names = dict.fromkeys(name for row in rows for name in row)
    found = {name: [row[name] for row in rows if name in row] for name in names}
    return {name: sum(values) / len(values) for name, values in found.items()}


def _ends_whole(path: Path, size: int) -> bool:
    with path.open("rb") as file:
        file.seek(size - 1)
        return file.read(1) == b"\n"
