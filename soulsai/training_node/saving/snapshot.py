"""A checkpoint's files: every part of the algorithm, all counters, and the policy."""

from pathlib import Path

import msgspec
from msgspec import Struct

from soulsai.algorithms.base import Stateful
from soulsai.errors import CheckpointError
from soulsai.training_node.admission import Mark
from soulsai.training_node.saving import atomic_folders, state_file
from soulsai.training_node.saving.atomic_folders import Buffer

PROGRESS = "progress.json"
POLICY = "policy.onnx"
REPLAY = "replay"  # the part that may be left out
SUFFIX = ".safetensors"
OLD_SUFFIX = ".state"  # of earlier releases


class Exclusion(Struct):
    """One client's entry in the quarantine."""

    reason: str
    since: float  # Unix seconds
    until: float | None  # Unix seconds; None: until it is pardoned
    times: int = 1
    over: bool = False  # kept all the same, so that the next exclusion takes longer


class Progress(Struct):
    """The counters of a run."""

    run: str
    generation: int = 0
    version: int = 0
    env_steps: int = 0
    updates: int = 0
    episodes: int = 0
    seconds: float = 0.0
    began: int | None = None  # env steps admitted before the first update
    rejected: dict[str, int] = {}
    duplicates: int = 0
    lost: int = 0
    bytes_received: int = 0
    marks: dict[str, Mark] = {}
    withheld: int = 0  # versions whose weights were not sound
    rollbacks: int = 0  # to the last good version
    quarantined: dict[str, Exclusion] = {}

    def go_back(self, then: "Progress") -> None:
        """Take over the counters of an earlier state, except those that must never fall."""
        for name in self.__struct_fields__:
            if name not in ("run", "generation", "version", "withheld", "rollbacks", "quarantined"):
                setattr(self, name, getattr(then, name))


def files(
    progress: Progress, parts: dict[str, Stateful], policy: bytes, *, replay: bool
) -> dict[str, list[Buffer]]:
    """Return a checkpoint's files by name; large arrays are not copied.

    Args:
        progress: The counters.
        parts: The algorithm's parts by name.
        policy: A whole ``policy.onnx``.
        replay: Whether to save the replay, too.
    """
    content: dict[str, list[Buffer]] = {PROGRESS: [msgspec.json.encode(progress)]}
    content[POLICY] = [policy]
    for name, part in parts.items():
        if replay or name != REPLAY:
            content[name + SUFFIX] = list(state_file.encode(part.state_dict()))
    return content


def restore(folder: Path, parts: dict[str, Stateful]) -> Progress:
    """Load an undamaged checkpoint into the parts; a replay that was not saved stays empty.

    Raises:
        CheckpointError: It is of another algorithm, network or environment.
    """
    files = map(Path, atomic_folders.names(folder))
    saved = {file.stem: file.name for file in files if file.suffix in (SUFFIX, OLD_SUFFIX)}
    if saved.keys() | {REPLAY} != parts.keys() | {REPLAY}:
        raise CheckpointError(
            f"{folder}: holds {', '.join(sorted(saved))}, "
            f"but this algorithm has {', '.join(sorted(parts))}"
        )
    try:
        progress = msgspec.json.decode(atomic_folders.read(folder, PROGRESS), type=Progress)
    except (msgspec.MsgspecError, UnicodeDecodeError) as error:
        raise CheckpointError(f"{folder / PROGRESS}: {error}") from error
    for name, part in parts.items():
        if name in saved:
            _load(part, folder / saved[name])
    return progress


def _load(part: Stateful, file: Path) -> None:
    content = state_file.decode(atomic_folders.read(file.parent, file.name))
    try:
        part.load_state_dict(content)
    except (RuntimeError, ValueError, KeyError, TypeError, IndexError, AttributeError) as error:
        line = " ".join(str(error).split())[:300]
        raise CheckpointError(
            f"{file.with_suffix('')}: does not fit this run: {line}; start a new one"
        ) from error
