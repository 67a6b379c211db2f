"""``python -m tests.chaos``: break a run on purpose; a JSON line at the end says what was lost."""

import argparse
import json
import sys
import tempfile
from dataclasses import asdict
from pathlib import Path

from . import namespace
from .faults import plan
from .links import NetworkLinks
from .program import bars, run
from .proxy import ProxyLinks
from .stage import Stage


def main():
    parser = argparse.ArgumentParser(prog="python -m tests.chaos", description=__doc__)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--faults", type=int, default=50)
    parser.add_argument("--minutes", type=float, default=10.0)
    parser.add_argument("--clients", type=int, default=3)
    parser.add_argument("--keep", type=Path, help="folder for all that was written")
    parser.add_argument("--proxy", action="store_true", help="no namespaces, even if we could")
    parser.add_argument("--slow", type=float, default=1.0, help="how slow this machine is")
    given = parser.parse_args()
    planned = plan(given.seed, given.faults, 60 * given.minutes, given.clients)
    why = "--proxy" if given.proxy else namespace.enter()
    if why:
        print(f"links are made by a proxy: {why}", file=sys.stderr)
    with tempfile.TemporaryDirectory(prefix="chaos-") as temporary:
        folder = given.keep or Path(temporary)
        links = ProxyLinks() if why else NetworkLinks()
        try:
            with Stage(folder, links, clients=given.clients) as stage:
                result = run(stage, planned, 60 * given.minutes, seed=given.seed, say=say)
        finally:
            links.close()
    print(json.dumps(asdict(result)))
    broken = bars(result, slow=given.slow)
    for line in broken:
        print(f"chaos: {line}", file=sys.stderr)
    return 1 if broken else 0


def say(line):
    print(line, file=sys.stderr, flush=True)


if __name__ == "__main__":
    sys.exit(main())
