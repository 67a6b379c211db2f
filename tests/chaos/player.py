"""A client as a process: the product's session, over a wire that keeps a ledger."""

import argparse
import logging
import os
from pathlib import Path

from soulsai import connect, process
from soulsai.client.session import serve
from soulsai.config import load

from . import broken, stamps
from .ledger import RecordingWire


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("settings", type=Path)
    parser.add_argument("--number", type=int, required=True)
    parser.add_argument("--life", type=int, required=True)
    parser.add_argument("--ledger", type=Path, required=True)
    parser.add_argument("--step-delay", type=float, default=0.01)
    given = parser.parse_args()
    logging.basicConfig(level=logging.INFO, format="%(relativeCreated)d %(name)s: %(message)s")
    os.environ[stamps.CLIENT], os.environ[stamps.LIFE] = str(given.number), str(given.life)
    broken.seed()
    config = load(given.settings, {}, [])
    with (
        process.StopSignal(process.parent(), at_once=True) as stop,
        connect.client(config, None) as wire,
    ):
        serve(
            config,
            RecordingWire(wire, config.client.name, given.ledger),
            environment=config.environment.id,
            seed=given.number * 1000 + given.life,
            step_delay=given.step_delay,
            stopped=stop,
        )
    raise SystemExit(stop.exit_code)


if __name__ == "__main__":
    main()
