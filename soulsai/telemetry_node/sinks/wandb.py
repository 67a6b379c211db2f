"""Send points to Weights & Biases from a process of its own, which may hang or die."""

import signal
import subprocess
import sys
from pathlib import Path
from typing import Literal

import msgspec
from msgspec import Struct

from soulsai.telemetry_node.connectors import Point, Thinner

FOLDER = "wandb"
LAST = 20.0  # seconds for the remaining points


class Beginning(Struct, frozen=True):
    """The first line of the process's input: the run."""

    project: str
    run: str
    mode: Literal["online", "offline"]
    folder: str
    config: dict[str, str]


class WandB:
    """Start the process and write points to its input."""

    def __init__(self, beginning: Beginning) -> None:
        self._beginning = beginning
        self._process: subprocess.Popen[bytes] | None = None
        self._thinner = Thinner()

    def write(self, item: Point) -> None:
        """Add a point; raise ``OSError`` if the process has died."""
        if item.video:
            self._say(msgspec.json.encode(item))
            return
        due = self._thinner.add(item)
        if due is not None:
            self._say(msgspec.json.encode(due))

    def flush(self) -> None:
        """Do nothing: each line is sent at once."""

    def close(self) -> None:
        """Send the remaining points and wait up to ``LAST`` seconds."""
        rest = self._thinner.rest()
        process = self._process
        if process is None or process.stdin is None:
            return
        try:
            if rest is not None:
                self._say(msgspec.json.encode(rest))
            process.stdin.close()
            process.wait(LAST)
        except (OSError, subprocess.TimeoutExpired):
            process.kill()
            process.wait()

    def abort(self) -> None:
        """Kill the process, which ends a blocked write."""
        if self._process is not None:
            self._process.kill()

    def _say(self, line: bytes) -> None:
        if self._process is None or self._process.poll() is not None:
            self._process = self._start()
        if self._process.stdin is None:
            raise OSError("the process of wandb has no input")
        self._process.stdin.write(line + b"\n")

    def _start(self) -> "subprocess.Popen[bytes]":
        Path(self._beginning.folder).mkdir(exist_ok=True)
        process = subprocess.Popen(
            [
                sys.executable, "-P", "-c",
                "import sys; from soulsai.telemetry_node.sinks.wandb import main; sys.exit(main())",
            ],
            stdin=subprocess.PIPE,
            stdout=subprocess.DEVNULL,
            bufsize=0,
        )  # fmt: skip
        if process.stdin is not None:
            process.stdin.write(msgspec.json.encode(self._beginning) + b"\n")
        return process


def main() -> int:
    """Log the points from standard input until it ends, and return the exit code."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the parent closes the input at the end
    try:
        import wandb
    except ImportError:
        sys.stderr.write("soulsai: wandb is not installed; pip install 'soulsai[wandb]'\n")
        return 1
    beginning = msgspec.json.decode(sys.stdin.buffer.readline(), type=Beginning)
    run = wandb.init(
        project=beginning.project,
        id=beginning.run[-64:],
        name=beginning.run,
        mode=beginning.mode,
        dir=beginning.folder,
        config=beginning.config,
        resume="allow",
    )
    run.define_metric("env_steps", hidden=True)
    run.define_metric("*", step_metric="env_steps")
    for line in sys.stdin.buffer:
        point = msgspec.json.decode(line, type=Point)
        row: dict[str, object] = {**point.values, "env_steps": point.env_steps}
        if point.video:
            row["evaluation/video"] = wandb.Video(point.video, format="webm")
        run.log(row)
    run.finish()
    return 0
