"""The command ``python -m benchmarks``: one subcommand per group of figures."""

import sys

from benchmarks.command import app
from soulsai.__main__ import run

if __name__ == "__main__":
    sys.exit(run(sys.argv[1:], app=app, name="python -m benchmarks"))
