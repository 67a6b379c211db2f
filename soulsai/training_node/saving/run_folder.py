"""One folder per run: its settings, its checkpoints, its best model and its last status."""

import re
import secrets
from collections.abc import Mapping
from datetime import UTC, datetime
from pathlib import Path
from urllib.parse import urlsplit, urlunsplit

import msgspec
from msgspec import Struct

from soulsai.config.layers import load
from soulsai.config.schema import Config
from soulsai.errors import CheckpointError, ConfigError
from soulsai.evaluations.record import kept_policy
from soulsai.training_node.saving import atomic_folders
from soulsai.training_node.saving.atomic_folders import Files
from soulsai.types import Program, SaveBest, Status

LATEST = "latest"
CONFIG = "config.json"
NUMBER = "number"  # the file with the place of a run among all
PROGRAM = "program.msgpack"
VERSIONS = "versions.json"
ABOUT = "about.json"  # of the best model
MODEL = re.compile(r"[a-z0-9][a-z0-9-]{0,63}")


class RunFolder(Struct, frozen=True):
    """The folder of a run."""

    path: Path

    @property
    def run(self) -> str:
        """The run's unique id."""
        return self.path.name

    @property
    def checkpoints(self) -> Path:
        """Where the numbered checkpoints are."""
        return self.path / "checkpoints"

    @property
    def best_model(self) -> Path:
        """Where the weights that produced the best average are."""
        return self.path / "best_model"

    @property
    def manual_save(self) -> Path:
        """Where a quicksave goes."""
        return self.path / "manual_save"

    @property
    def best_checkpoint(self) -> str:
        """The checkpoint of the best model, if the evaluator has chosen it; else empty."""
        try:
            about = (self.best_model / ABOUT).read_bytes()
            return msgspec.json.decode(about, type=SaveBest).checkpoint
        except (OSError, msgspec.MsgspecError, UnicodeDecodeError):
            return ""

    def evaluated_policy(self, model: str) -> bytes | None:
        """Return the policy that the evaluator has played, if it has kept it."""
        try:
            return kept_policy(self.path, model).read_bytes() if MODEL.fullmatch(model) else None
        except OSError:
            return None

    def saved(self, name: str) -> Path | None:
        """Return the folder of a numbered checkpoint or of ``manual_save``, if it is there."""
        found = [*atomic_folders.numbered(self.checkpoints), self.manual_save]
        return next((path for path in found if path.name == name and path.is_dir()), None)

    def tidy(self) -> None:
        """Remove the files of an interrupted write."""
        atomic_folders.tidy(self.path)
        atomic_folders.tidy(self.checkpoints)

    def newest(self) -> tuple[Path, str]:
        """Return the newest undamaged checkpoint, and a line about newer ones that are damaged.

        Raises:
            CheckpointError: There is none.
        """
        candidates = atomic_folders.numbered(self.checkpoints)[::-1]
        if self.manual_save.is_dir():
            candidates.append(self.manual_save)
        found, faults = atomic_folders.newest(candidates)
        if found is None:
            fault = (
                f"all {len(candidates)} checkpoints are damaged" if candidates else "it has none"
            )
            raise CheckpointError(f"{self.path}: cannot resume, {fault}; start a new run")
        skipped = f"went back to checkpoint {found.name}: damaged are {', '.join(faults)}"
        return found, skipped if faults else ""

    @property
    def has_checkpoint(self) -> bool:
        """Whether there is any checkpoint, damaged or not."""
        return bool(atomic_folders.numbered(self.checkpoints)) or self.manual_save.is_dir()

    def replace(self, target: Path, files: Files) -> None:
        """Write ``best_model`` or ``manual_save`` anew."""
        atomic_folders.replace(target, files)

    def write_config(self, config: Config) -> None:
        """Write the run's settings; a password in the server's address is left out."""
        redis = msgspec.structs.replace(config.redis, url=_without_password(config.redis.url))
        public = msgspec.structs.replace(config, redis=redis)
        data = msgspec.json.format(msgspec.json.encode(public), indent=2)
        atomic_folders.write_file(self.path / CONFIG, data)

    def config(self) -> Config | None:
        """Return the settings under which the run was begun or last resumed, if readable."""
        try:
            return load(self.path / CONFIG, {}, [])
        except (ConfigError, OSError):
            return None

    def write_status(self, status: Status) -> None:
        """Write the last status."""
        atomic_folders.write_file(self.path / "status.json", msgspec.json.encode(status))

    def write_versions(self, versions: Mapping[str, str]) -> None:
        """Write the versions of the software that trains the run from now on, by package."""
        atomic_folders.write_file(self.path / VERSIONS, msgspec.json.encode(versions))

    def write_program(self, program: Program) -> None:
        """Keep the program, so that a resumed run has the very same one."""
        atomic_folders.write_file(self.path / PROGRAM, msgspec.msgpack.encode(program))

    def program(self) -> Program | None:
        """Return the program that was kept, if there is a readable one."""
        try:
            return msgspec.msgpack.decode((self.path / PROGRAM).read_bytes(), type=Program)
        except (OSError, msgspec.DecodeError, UnicodeDecodeError):
            return None


def create(config: Config, now: datetime) -> RunFolder:
    """Make the folder of a new run, named after its time in UTC, environment and algorithm."""
    environment = "".join(c if c.isalnum() and c.isascii() else "-" for c in config.environment.id)
    saves = Path(config.run.saves)
    now = now.astimezone(UTC)
    name = f"{now:%Y-%m-%d_%H-%M-%S}_{environment[-40:].strip('-').lower()}_{config.algorithm.name}"
    folder = RunFolder(saves / f"{name}_{secrets.token_hex(2)}")
    try:
        number = 1 + max(map(_number, every(saves)), default=0)
        folder.checkpoints.mkdir(parents=True)
        atomic_folders.write_file(folder.path / NUMBER, b"%d" % number)
        folder.write_config(config)
    except OSError as error:
        raise CheckpointError(f"{folder.path}: cannot make the run's folder: {error}") from error
    return folder


def every(saves: Path) -> list[Path]:
    """Return all run folders, oldest first, by their numbers and then by their names.

    Clocks may be set back, so a name alone, which begins with a time, does not give the order.
    """
    folders = (path.parent for path in saves.glob(f"*/{CONFIG}"))
    return sorted(folders, key=lambda folder: (_number(folder), folder.name))


def _number(folder: Path) -> int:
    """Return the place of a run among the runs of its folder; 0 for one of an earlier release."""
    try:
        return int((folder / NUMBER).read_bytes())
    except (OSError, ValueError):
        return 0


def find(saves: Path, resume: str) -> RunFolder:
    """Return the folder of a run, by its id, as ``latest``, or as the folder itself.

    Raises:
        CheckpointError: There is no such run; the message names those that exist.
    """
    if (Path(resume) / CONFIG).is_file():
        return RunFolder(Path(resume))
    runs = every(saves)
    if resume == LATEST and runs:
        return RunFolder(runs[-1])
    for path in runs:
        if path.name == resume:
            return RunFolder(path)
    known = ", ".join(path.name for path in runs[-5:]) or (
        "none; begin one with `soulsai train`, or name the folder of yours: --saves FOLDER"
    )
    raise CheckpointError(f"{saves}: there is no run {resume!r}; newest runs: {known}")


def _without_password(url: str) -> str:
    parts = urlsplit(url)
    if "@" not in parts.netloc:
        return url
    user, _, host = parts.netloc.rpartition("@")
    name = user.partition(":")[0]
    return urlunsplit(parts._replace(netloc=f"{name}@{host}" if name else host))
