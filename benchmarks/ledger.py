"""What the seeds of learning targets came to: one line each in a file, written as it comes."""

import subprocess
import threading
from pathlib import Path

import msgspec
from msgspec import Struct

from soulsai.errors import ConfigError

NAME = "seeds.jsonl"


class Seed(Struct, frozen=True):
    """One training seed's result; ``score`` is missing if it failed, and ``fault`` says how."""

    target: str
    seed: int
    settings: list[str]  # of the command line, all that tells this run from a default one
    revision: str  # of the source; empty if unknown
    score: float | None = None  # mean of the greedy episodes of the final checkpoint
    env_steps: int = 0
    wall_seconds: float = 0.0
    run: str = ""  # its folder
    curve: list[tuple[int, float]] = []  # env steps and scores of checkpoints along the way
    fault: str = ""


_encode = msgspec.json.Encoder().encode
_decode = msgspec.json.Decoder(Seed).decode


class Ledger:
    """Results in ``seeds.jsonl`` of one folder, only ever appended to; any thread may add."""

    def __init__(self, folder: Path) -> None:
        try:
            folder.mkdir(parents=True, exist_ok=True)
        except FileExistsError:
            raise ConfigError(f"--saves: {folder} is not a folder") from None
        self._path = folder / NAME
        self._adding = threading.Lock()

    def add(self, result: Seed) -> None:
        """Write down one result."""
        with self._adding, self._path.open("ab") as file:
            file.write(_encode(result) + b"\n")

    def done(self, target: str, settings: list[str], *, curves: bool) -> dict[int, Seed]:
        """Return the newest result of each seed that came to its end with the same settings.

        With ``curves`` only those of whom checkpoints along the way were evaluated.
        """
        try:
            lines = self._path.read_bytes().splitlines()
        except FileNotFoundError:
            return {}
        found, wanted = {}, effective(settings)
        for line in lines:
            try:
                result = _decode(line)
            except (msgspec.MsgspecError, UnicodeDecodeError):
                continue  # the last line of an interrupted write
            alike = result.target == target and effective(result.settings) == wanted
            if alike and not result.fault and (result.curve or not curves):
                found[result.seed] = result
        return found


def effective(settings: list[str]) -> list[str]:
    """Leave out what only says how a run is kept and shown."""
    return [word for word in settings if not word.startswith(("--set=web.", "--set=checkpoint."))]


def revision() -> str:
    """Return which source this is: a commit, with ``+`` if it was changed; empty if unknown."""
    here = Path(__file__).parent
    try:
        commit = _git(here, "rev-parse", "--short=12", "HEAD")
        return commit + "+" * bool(_git(here, "status", "--porcelain", "--untracked-files=no"))
    except (OSError, subprocess.CalledProcessError):
        return ""


def _git(folder: Path, *words: str) -> str:
    command = ["git", "-C", str(folder), *words]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    return done.stdout.strip()
