"""A trial of an environment in a process, ``python -m soulsai.client.environment_trial``.

An environment that ends its process, or hangs, is then named by ``check-env`` as well.
"""

import faulthandler
import os
import re
import signal
import subprocess
import sys
from contextlib import suppress
from typing import get_args

import msgspec
from msgspec import Struct

from soulsai.client.environment_report import Call, EnvironmentReport, check
from soulsai.client.isolation import process_tree
from soulsai.config.schema import Config, WatchdogSettings
from soulsai.errors import ConfigError, EnvironmentFault, SoulsAIError
from soulsai.process import PARENT, die_with_parent

_INSTALLED = ("site-packages", "dist-packages")  # folders of other people's packages
_PLACE = re.compile(r'^  File "(.+)", line (\d+) in ', re.MULTILINE)  # of a dump of faulthandler


class TrialSetup(Struct, frozen=True):
    """The settings of a trial, which its process reads from its standard input as JSON."""

    config: Config
    paths: tuple[str, ...]  # of modules


class TrialResult(Struct, frozen=True):
    """The last line of the process, as JSON: a report, or an error."""

    report: EnvironmentReport | None = None
    error: str = ""
    is_setting: bool = False  # the error is one of the settings


def check_apart(config: Config) -> EnvironmentReport:
    """Try an environment as ``environment_report.check`` does, in a process of its own.

    Raises:
        EnvironmentFault: It cannot be played, ends its process, or hangs; the message says where.
        ConfigError: The settings of the environment contradict one another.
    """
    try:
        setup = msgspec.json.encode(TrialSetup(config, tuple(sys.path)))
    except UnicodeEncodeError as error:  # an argument may be any bytes
        raise ConfigError(f"environment: {error.object!r} is no text") from None
    done = subprocess.run(
        [sys.executable, "-P", "-m", "soulsai.client.environment_trial"],
        input=setup,
        stdout=subprocess.PIPE,
        env={name: value for name, value in os.environ.items() if name != PARENT},
        check=False,
    )
    lines = done.stdout.decode(errors="replace").splitlines()
    if not lines or not lines[-1].startswith("{"):
        raise EnvironmentFault(f"{config.environment.id}: {_end(config, lines, done.returncode)}")
    result = msgspec.json.decode(lines[-1], type=TrialResult)
    if result.report is not None:
        return result.report
    raise ConfigError(result.error) if result.is_setting else EnvironmentFault(result.error)


def _end(config: Config, lines: list[str], code: int) -> str:
    """Return how a process without a result has ended.

    Args:
        config: All settings.
        lines: Those of the process: its calls to the environment, then a dump if one of them hung.
        code: The exit code.
    """
    calls: list[Call] = [call for call in get_args(Call) for line in lines if line == call]
    last = next((line for line in reversed(lines) if line in calls), "start")
    during = f"{last} {calls.count('step')}" if last == "step" else last
    again = "; in training, environment.isolate: true would start it again"
    hint = again if last in ("step", "reset") else ""
    dump = "\n".join(lines)
    if "Timeout (" not in dump:
        return f"its process {process_tree.describe(code)} during {during}{hint}"
    seconds = next(_limit(config.watchdog, call) for call in get_args(Call) if call == last)
    return f"{during} has not ended within {seconds:g} s{_place(dump)}{hint}"


def _place(dump: str) -> str:
    """Return the author's line at which a process hung, or else the innermost one."""
    places = _PLACE.findall(dump)
    own = [place for place in places if not any(part in place[0] for part in _INSTALLED)]
    return next((f" at {file}:{line}" for file, line in [*own, *places]), "")


def _limit(limits: WatchdogSettings, call: Call) -> float:
    """Return the seconds that a call to an environment may take."""
    seconds = {"start": limits.start_seconds, "reset": limits.reset_seconds}
    return seconds.get(call, limits.step_seconds)


def main() -> None:
    """Try the environment of the settings on the standard input, and write the result."""
    signal.signal(signal.SIGINT, signal.SIG_DFL)  # Ctrl-C ends it without a word
    die_with_parent(at_once=True)
    process_tree.bind_children()
    report = os.fdopen(os.dup(1), "w", buffering=1, encoding="utf-8")
    with suppress(OSError):
        os.dup2(2, 1)  # the output of games goes to the standard error
    setup = msgspec.json.decode(sys.stdin.buffer.read(), type=TrialSetup)
    sys.path += [path for path in setup.paths if path not in sys.path]

    def before(call: Call) -> None:
        report.write(f"{call}\n")
        limit = _limit(setup.config.watchdog, call)
        faulthandler.dump_traceback_later(limit, exit=True, file=report)

    try:
        result = TrialResult(check(setup.config, before=before))
    except SoulsAIError as error:
        result = TrialResult(error=str(error), is_setting=isinstance(error, ConfigError))
    faulthandler.cancel_dump_traceback_later()
    report.write(msgspec.json.encode(result).decode() + "\n")
    report.flush()
    # The interpreter's own end would wait for the threads of a game.
    sys.stderr.flush()
    os._exit(0)


if __name__ == "__main__":
    main()
