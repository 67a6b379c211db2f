"""``python -m tests.chaos``: break a run on purpose; a JSON line at the end says what was lost."""

import argparse
import json
import subprocess
import sys
import tempfile
from dataclasses import asdict
from pathlib import Path

from . import namespace
from .faults import plan
from .links import NetworkLinks
from .page import page
from .program import bars, run
from .proxy import ProxyLinks
from .stage import ALGORITHMS, Stage
from .trial import Impossible
from .trials import IN_ROUNDS, LONG, TRIALS

NOT_TRIED = 77  # the exit code of a trial for which this machine lacks something


def main():
    parser = argparse.ArgumentParser(prog="python -m tests.chaos", description=__doc__)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--faults", type=int, default=50)
    parser.add_argument("--minutes", type=float, help="default 10; of a soak 60")
    parser.add_argument("--clients", type=int, default=3)
    parser.add_argument("--algorithm", choices=sorted(ALGORITHMS), default="dqn")
    parser.add_argument("--keep", type=Path, help="folder for all that was written")
    parser.add_argument("--proxy", action="store_true", help="no namespaces, even if we could")
    parser.add_argument("--trial", choices=sorted(TRIALS | LONG), help="one fault, done thoroughly")
    parser.add_argument("--all", action="store_true", help="all algorithms under fire, all trials")
    parser.add_argument("--page", type=Path, help="with --all: write the table of faults there")
    parser.add_argument("--rounds", type=int, help=f"with --trial {' or '.join(IN_ROUNDS)}")
    given = parser.parse_args()
    if given.rounds is not None and (given.trial not in IN_ROUNDS or given.rounds < 1):
        parser.error(f"--rounds N goes with --trial {' or '.join(IN_ROUNDS)}")
    given.minutes = given.minutes or (None if given.trial else 10.0)
    if given.all:
        return _everything(given)
    why = "--proxy" if given.proxy else namespace.enter()
    if why:
        say(f"links are made by a proxy: {why}")
    with tempfile.TemporaryDirectory(prefix="chaos-") as temporary:
        folder = given.keep or Path(temporary)
        links = ProxyLinks() if why else NetworkLinks()
        try:
            result = _trial(given, folder, links) if given.trial else _fire(given, folder, links)
        except Impossible as error:
            say(f"chaos: not tried: {error}")
            return NOT_TRIED
        finally:
            links.close()
    print(json.dumps(asdict(result)))
    broken = result.broken if given.trial else bars(result)
    for line in broken:
        say(f"chaos: {line}")
    return 1 if broken else 0


def _everything(given):
    """Run everything, each in a process of its own; sum up, and write the page if all is told."""
    proxy = ["--proxy"] if given.proxy else []
    fire = ["--seed", str(given.seed), "--faults", str(given.faults)]
    fire += ["--minutes", str(given.minutes), "--clients", str(given.clients)]
    fires = {f"fire {name}": [*fire, "--algorithm", name] for name in ALGORITHMS}
    runs = fires | {name: ["--trial", name] for name in TRIALS}
    told, failed, not_tried = {}, [], []
    for name, words in runs.items():
        say(f"-- {name}")
        command = [sys.executable, "-m", "tests.chaos", *words, *proxy]
        done = subprocess.run(command, stdout=subprocess.PIPE, text=True)
        if done.returncode == NOT_TRIED:
            not_tried.append(name)
        elif done.returncode:
            failed.append(name)
        if done.stdout.strip():
            told[name] = json.loads(done.stdout.splitlines()[-1])
            print(json.dumps({name: told[name]}), flush=True)
    if given.page and fires.keys() <= told.keys():
        under_fire = [told.pop(name) for name in fires]
        given.page.write_text(page(under_fire, list(told.values())))
    print(json.dumps({"runs": len(runs), "failed": failed, "not_tried": not_tried}))
    return 1 if failed else 0


def _fire(given, folder, links):
    seconds = 60 * given.minutes
    planned = plan(given.seed, given.faults, seconds, given.clients)
    with Stage(folder, links, clients=given.clients, algorithm=given.algorithm) as stage:
        return run(stage, planned, seconds, seed=given.seed, say=say)


def _trial(given, folder, links):
    said = {"rounds": given.rounds, "minutes": given.minutes if given.trial in LONG else None}
    said = {name: value for name, value in said.items() if value is not None}
    return (TRIALS | LONG)[given.trial](folder, links, **said)


def say(line):
    print(line, file=sys.stderr, flush=True)


if __name__ == "__main__":
    sys.exit(main())
