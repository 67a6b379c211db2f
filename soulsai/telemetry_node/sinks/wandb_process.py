"""Read points from standard input and log them to Weights & Biases until the input ends."""

import signal
import sys

import msgspec

from soulsai.telemetry_node.connectors import Point
from soulsai.telemetry_node.sinks.wandb import Beginning


def main() -> int:
    """Log until the input ends; return the exit code."""
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
        run.log({**point.values, "env_steps": point.env_steps})
    run.finish()
    return 0


if __name__ == "__main__":
    sys.exit(main())
