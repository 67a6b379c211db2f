"""Our own commands, run as a user would run them, and their answers in JSON."""

import subprocess
import sys
from collections.abc import Callable, Mapping
from typing import Any

import msgspec

from soulsai.errors import SoulsAIError

INTERRUPTED = "interrupted; what was done is kept"
LOOK = 0.5  # seconds between two looks at whether to stop


class Interrupted(SoulsAIError):
    """We were asked to stop before the command had ended."""

    exit_code = 130


def never() -> bool:
    """Return whether to stop: no."""
    return False


def nothing() -> None:
    """Do nothing."""


def answer(
    *words: str,
    stopped: Callable[[], bool] = never,
    meanwhile: Callable[[], None] = nothing,
) -> dict[str, Any]:
    """Run ``soulsai <words> --json`` to its end, and return the object on its last line.

    Calls ``meanwhile`` now and then. Raises ``Interrupted``, after ending the command, as soon as
    ``stopped()``.
    """
    process = subprocess.Popen(
        [sys.executable, "-m", "soulsai", *words, "--json"],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    with process:
        said, errors = _finish(process, stopped, meanwhile)
    if stopped():
        raise Interrupted(INTERRUPTED)
    if process.returncode != 0:
        last = (errors.strip().splitlines() or ["no message"])[-1]
        raise SoulsAIError(f"soulsai {words[0]} ended with {process.returncode}: {last}")
    lines = said.strip().splitlines() or [""]
    try:
        return msgspec.json.decode(lines[-1], type=dict[str, Any])
    except msgspec.DecodeError as error:
        raise SoulsAIError(f"soulsai {words[0]} gave no JSON: {error}") from error


def options(named: Mapping[str, object]) -> list[str]:
    """Return options and their values as words of a command line."""
    return [str(word) for option in named.items() for word in option]


def _finish(
    process: subprocess.Popen[str], stopped: Callable[[], bool], meanwhile: Callable[[], None]
) -> tuple[str, str]:
    while True:
        try:
            return process.communicate(timeout=LOOK)
        except subprocess.TimeoutExpired:
            meanwhile()
            if stopped():
                process.terminate()
