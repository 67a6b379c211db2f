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
from .trials import TRIALS


def main():
    parser = argparse.ArgumentParser(prog="python -m tests.chaos", description=__doc__)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--faults", type=int, default=50)
    parser.add_argument("--minutes", type=float, default=10.0)
    parser.add_argument("--clients", type=int, default=3)
    parser.add_argument("--keep", type=Path, help="folder for all that was written")
    parser.add_argument("--proxy", action="store_true", help="no namespaces, even if we could")
    parser.add_argument("--slow", type=float, default=1.0, help="how slow this machine is")
    parser.add_argument("--trial", choices=sorted(TRIALS), help="one fault, done thoroughly")
    given = parser.parse_args()
    why = "--proxy" if given.proxy else namespace.enter()
    if why:
        say(f"links are made by a proxy: {why}")
    with tempfile.TemporaryDirectory(prefix="chaos-") as temporary:
        folder = given.keep or Path(temporary)
        links = ProxyLinks() if why else NetworkLinks()
        try:
            result = _trial(given, folder, links) if given.trial else _fire(given, folder, links)
        finally:
            links.close()
    print(json.dumps(asdict(result)))
    broken = result.broken if given.trial else bars(result, slow=given.slow)
    for line in broken:
        say(f"chaos: {line}")
    return 1 if broken else 0


def _fire(given, folder, links):
    seconds = 60 * given.minutes
    planned = plan(given.seed, given.faults, seconds, given.clients)
    with Stage(folder, links, clients=given.clients) as stage:
        return run(stage, planned, seconds, seed=given.seed, say=say)


def _trial(given, folder, links):
    return TRIALS[given.trial](folder, links)


def say(line):
    print(line, file=sys.stderr, flush=True)


if __name__ == "__main__":
    sys.exit(main())
