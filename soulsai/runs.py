"""Run folders as their user names them: an id, ``latest``, a folder, or a policy's file."""

import logging
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from tempfile import TemporaryDirectory

import msgspec
from msgspec import Struct

from soulsai.config import Config, load
from soulsai.errors import CheckpointError, ConfigError
from soulsai.training_node.saving import atomic_folders, run_folder
from soulsai.training_node.saving.run_folder import CONFIG, every
from soulsai.types import Status

__all__ = [
    "CONFIG",
    "HeldPolicy",
    "PrivateServer",
    "announce",
    "describe",
    "environment",
    "environments",
    "every",
    "find",
    "held_policy",
    "kept_in",
    "running",
    "settings",
    "status",
    "withdraw",
]

log = logging.getLogger(__name__)

POLICY = "policy.onnx"
SERVER = "server.json"  # where a running run's private server is; gone when the run is


class PrivateServer(Struct, frozen=True):
    """Where the embedded server of a running run can be reached, by its own user only."""

    url: str
    secrets: str  # folder
    page: str = ""  # the address of the page, or the reason why there is none yet


def find(saves: Path, run: str) -> Path:
    """Return the folder of a run; raise ``CheckpointError`` if there is none."""
    return run_folder.find(saves, run).path


def unfinished(config: Config) -> str:
    """Return the newest unfinished run of the same name, environment and algorithm, or ``""``.

    A run that reached its end, or was stopped by a command, is finished.
    """
    for folder in reversed(every(Path(config.run.saves))):
        last = status(folder)
        if last is not None and last.phase == "ended":
            continue
        try:
            then = load(folder / CONFIG, {}, [])
        except ConfigError as error:
            log.warning("run not resumed folder=%s error=%s", folder, error)
            continue
        if _kind(then) == _kind(config):
            return folder.name
    return ""


def _kind(config: Config) -> tuple[str, str, str]:
    return config.run.name, config.environment.id, config.algorithm.name


class HeldPolicy(Struct, frozen=True):
    """A policy to play, which stays while a training node removes old checkpoints."""

    file: Path
    origin: Path  # the file that was named, or the one in a checkpoint of which it is a copy


@contextmanager
def held_policy(saves: Path, run: str) -> Iterator[HeldPolicy]:
    """Yield the file that is named, or a copy of the policy of the newest undamaged checkpoint.

    Args:
        saves: The folder of all runs.
        run: A run's id, ``latest``, a folder, or a ``policy.onnx``.

    Raises:
        CheckpointError: There is no such run, or it has no undamaged checkpoint.
    """
    named = Path(run)
    if not named.is_file() and not (named / POLICY).is_file():
        with TemporaryDirectory(prefix="soulsai-policy-") as folder:
            copy = Path(folder) / POLICY
            yield HeldPolicy(copy, _copy_newest(find(saves, run) / "checkpoints", copy))
        return
    file = named if named.is_file() else named / POLICY
    yield HeldPolicy(file, file)


def _copy_newest(checkpoints: Path, copy: Path) -> Path:
    """Copy the policy of the newest checkpoint in which it is whole; return its file.

    A training node may remove a checkpoint at any moment. It has then written newer ones, so the
    folders are listed anew.
    """
    tried: list[Path] = []
    while tried != (tried := atomic_folders.numbered(checkpoints)):
        for checkpoint in reversed(tried):
            if atomic_folders.copy_file(checkpoint, POLICY, copy):
                return checkpoint / POLICY
    raise CheckpointError(f"{checkpoints.parent}: holds no undamaged checkpoint yet")


def environment(saves: Path, run: str) -> str:
    """Return the environment of a run, or an empty text for a policy that is only a file."""
    if Path(run).is_file() or (Path(run) / POLICY).is_file():
        return ""
    return load(find(saves, run) / CONFIG, {}, []).environment.id


def environments(saves: Path, run: str) -> int:
    """Return the number of environments that a run's own clients play on its machine."""
    if Path(run).is_file() or (Path(run) / POLICY).is_file():
        return 0
    then = load(find(saves, run) / CONFIG, {}, [])
    return then.run.clients * then.environment.offer.count


def count(saves: Path, run: str) -> int:
    """Return the number of environments that each client of a run plays; 0 without such a run."""
    with suppress(CheckpointError, ConfigError):
        return load(find(saves, run) / CONFIG, {}, []).environment.offer.count if run else 0
    return 0


def status(folder: Path) -> Status | None:
    """Return the last status that the training node left in a run folder, if it is readable."""
    try:
        return msgspec.json.decode((folder / "status.json").read_bytes(), type=Status)
    except (OSError, msgspec.DecodeError):
        return None


def settings(folder: Path, now: Config, environ: Mapping[str, str], sets: Sequence[str]) -> Config:
    """Return the settings with which a run is resumed: its own, with the newer overrides.

    Args:
        folder: The run's folder.
        now: The settings of this command; the server and the client are taken from it.
        environ: Environment variables with overrides.
        sets: ``section.key=value`` overrides.
    """
    then = load(folder / CONFIG, environ, sets)
    return msgspec.structs.replace(then, redis=now.redis, client=now.client)


def kept_in(folder: Path, config: Config) -> Config:
    """Return settings with ``run.saves`` set to the parent of a run's folder."""
    run = msgspec.structs.replace(config.run, saves=str(folder.parent))
    return msgspec.structs.replace(config, run=run)


def describe(folder: Path, state: Status | None) -> str:
    """Return a run as one line."""
    if state is None:
        state_now = "running" if (folder / SERVER).exists() else "never learnt"
        return f"{folder}  {state_now}, no checkpoint yet"
    # Nothing is written after "stopping".
    phase: str = "stopped" if state.phase == "stopping" else state.phase
    server = _server(folder)
    if phase not in ("stopped", "ended") and server is not None and not _is_there(server):
        phase = "interrupted"
    planned = state.max_env_steps
    of = f" of {planned:,}" if state.env_steps < planned else ""
    reward = "none yet" if state.reward_mean is None else f"{state.reward_mean:.1f}"
    return (
        f"{folder}  {phase}: {state.algorithm} on {state.environment}, "
        f"{state.env_steps:,}{of} env steps, {state.updates:,} updates, reward {reward}"
    )


def announce(folder: Path, server: PrivateServer) -> None:
    """Write the address of a running run's private server for this user's other commands."""
    file = folder / SERVER
    file.touch(mode=0o600)
    file.write_bytes(msgspec.json.encode(server))


def withdraw(folder: Path) -> None:
    """Remove the address of the private server."""
    (folder / SERVER).unlink(missing_ok=True)


def running(saves: Path) -> PrivateServer | None:
    """Return the private server of the newest run in progress, if it is readable."""
    found = (_server(folder) for folder in reversed(every(saves)))
    return next((server for server in found if server is not None and _is_there(server)), None)


def _server(folder: Path) -> PrivateServer | None:
    try:
        return msgspec.json.decode((folder / SERVER).read_bytes(), type=PrivateServer)
    except (OSError, msgspec.DecodeError):
        return None


def _is_there(server: PrivateServer) -> bool:
    """Return false for a private server whose run was killed; its socket is gone with it."""
    kind, _, path = server.url.partition("://")
    return kind != "unix" or Path(path).exists()
