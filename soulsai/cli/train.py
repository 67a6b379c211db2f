"""A local run from the command to the summary: what ``soulsai train`` does."""

import shutil
import sys
from pathlib import Path

import msgspec
from rich.console import Console
from rich.table import Table

from soulsai.config.schema import Config
from soulsai.errors import SoulsAIError
from soulsai.process import StopSignal
from soulsai.train.summary import Summary, save, summarise, table
from soulsai.train.supervisor import Supervisor
from soulsai.train.terminal import view_for


class CannotGoOn(SoulsAIError):
    """The run could not go on; carries the exit code of the process that failed."""

    def __init__(self, reason: str, code: int) -> None:
        super().__init__(reason)
        self.exit_code = code


def train(config: Config, *, resume: str = "", as_json: bool = False) -> int:
    """Run until the end, sum up, and return the exit code; ``resume`` is a run's id."""
    with StopSignal() as stop:
        outcome = Supervisor(config, stop, view_for(sys.stderr), resume=resume).run()
        for line in outcome.tail:
            sys.stderr.write(f"  | {line}\n")
        if outcome.folder is not None and outcome.status is not None:
            summary = summarise(outcome.folder, outcome.status, outcome.wall_seconds)
            _print(summary, as_json=as_json)
            save(outcome.folder, summary)
    if outcome.reason:
        raise CannotGoOn(outcome.reason, outcome.code)
    return outcome.code


def _print(summary: Summary, *, as_json: bool) -> None:
    if as_json:
        sys.stdout.write(msgspec.json.encode(summary).decode() + "\n")
        sys.stdout.flush()
        return
    rows = Table.grid(padding=(0, 2))
    rows.add_column(style="dim")
    for what, text in table(summary):
        rows.add_row(what, text)
    console = Console(soft_wrap=True)
    console.print(rows)
    console.print(f"\nNext: {_ourselves()} evaluate {summary.run}")
    if summary.phase != "ended":
        console.print(f"  or: {_ourselves()} train --resume {summary.run}")


def _ourselves() -> str:
    """Return how this shell can call us."""
    if shutil.which("soulsai"):
        return "soulsai"
    called = Path(sys.argv[0])
    return str(called) if called.name == "soulsai" else "python -m soulsai"
