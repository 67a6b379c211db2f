"""``python -m benchmarks.faulty_client``: a real client on a wire that is not."""

import argparse
import random
import sys

import msgspec

from benchmarks.faults import Faults, FaultyWire
from soulsai import connect, process
from soulsai.client.session import serve
from soulsai.config.schema import ClientSettings, Config, RedisSettings
from soulsai.errors import SoulsAIError


def main() -> int:
    """Play as ``soulsai client`` does, with faults."""
    parser = argparse.ArgumentParser(description=main.__doc__)
    for name in ("redis", "secrets", "env", "name", "faults"):
        parser.add_argument(f"--{name}", required=True)
    parser.add_argument("--seed", type=int, required=True)
    parser.add_argument("--step-delay", type=float, default=0.0)
    given = parser.parse_args()
    settings = Config(
        redis=RedisSettings(url=given.redis, secrets=given.secrets),
        client=ClientSettings(name=given.name),
    )
    faults = msgspec.json.decode(given.faults, type=Faults)
    with process.StopSignal(process.parent(), at_once=True) as stop:
        connect.begin_log()
        with connect.client(settings, None) as wire:
            serve(
                settings,
                FaultyWire(wire, faults, random.Random(given.seed)),
                environment=given.env,
                seed=given.seed,
                step_delay=given.step_delay,
                stopped=stop,
            )
    return stop.exit_code


if __name__ == "__main__":
    try:
        code = main()
    except SoulsAIError as error:
        sys.stderr.write(f"soulsai: {error}\n")
        code = error.exit_code
    sys.exit(code)
