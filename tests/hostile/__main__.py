"""``python -m tests.hostile``: attack a run; a JSON line at the end has the figures."""

import argparse
import json
import socket
import sys
import tempfile
from dataclasses import asdict
from pathlib import Path

from tests.chaos.proxy import ProxyLinks

from .program import LEARN_STEPS, Result, faults, run

MESSAGES = 2_000_000


def main():
    parser = argparse.ArgumentParser(prog="python -m tests.hostile", description=__doc__)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--minutes", type=float, default=30.0)
    parser.add_argument("--messages", type=int, default=MESSAGES)
    parser.add_argument("--rate", type=float, default=2000.0, help="messages per second")
    parser.add_argument("--learn", type=int, default=LEARN_STEPS, help="env steps after the attack")
    parser.add_argument("--keep", type=Path, help="folder for all that was written")
    given = parser.parse_args()
    result = Result(given.seed)
    links = ProxyLinks()
    with tempfile.TemporaryDirectory(prefix="hostile-") as temporary:
        try:
            run(
                given.keep or Path(temporary), links, result,
                seconds=60 * given.minutes, least=given.messages, per_second=given.rate,
                page=free_port(), say=say, learn=given.learn,
            )  # fmt: skip
        finally:
            links.close()
            print(json.dumps(asdict(result)))
    say(
        f"hostile: {result.messages} messages at {result.messages_per_second}/s, attacks "
        f"{result.attacks}, honest share {result.share}, reward {result.reward} after "
        f"{result.learnt_steps} env steps without the attacker, load {result.load}"
    )
    broken = faults(result, least=given.messages, learnt=given.learn > 0)
    for line in broken:
        say(f"hostile: {line}")
    return 1 if broken else 0


def free_port():
    """Return a port of the loopback interface that is free now."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def say(line):
    print(line, file=sys.stderr, flush=True)


if __name__ == "__main__":
    sys.exit(main())
