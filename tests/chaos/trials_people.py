"""Trials of those who take part: many who come and go, wrong clocks, and polite requests to end."""

import random
import statistics
import time
from collections import defaultdict
from pathlib import Path

from .crowd import Crowd
from .garbage import PER_SECOND, Garbage
from .trial import Impossible, trial
from .watch import rate

SKEWS = ("-10y", "-2h", "+2h", "+10y")
RESULTS = "results.jsonl"  # of the telemetry node
FAKETIME = "/usr/lib/*/faketime/libfaketime.so.1"
ROUNDS = 20
CROWD = 200
CROWD_SECONDS = 30.0
HONEST = 10
MEASURED_SECONDS = 20.0


def clocks(folder, links):
    """R15: clients whose clocks are wrong by hours and years."""
    library = next(Path("/").glob(FAKETIME.lstrip("/")), None)
    if library is None:
        raise Impossible("libfaketime is not installed")
    with trial(folder, links, "clients' clocks are wrong by up to ten years", clients=1) as t:
        for number, skew in enumerate(SKEWS, start=2):
            t.stage.clients.append(t.stage.client(number, LD_PRELOAD=str(library), FAKETIME=skew))
        t.begin()
        began = time.time()
        for child in t.stage.clients:
            t.recovered(began, child.name)
        t.wait(10.0)
        rejected = t.watch.status.rejected
        seen = [at for at, _, _ in t.watch.seen]
        verdict, _ = t.end_whole()
        t.row.must(f"rejected: {rejected}", not rejected)
        t.row.must(f"{verdict.missing} env steps missing", not verdict.missing)
        t.row.must("telemetry shows other times than ours", max(seen) - min(seen) < 600)
    return t.row


def goodbyes(folder, links, rounds=ROUNDS):
    """R14: SIGTERM to both nodes and a client, then to the server, at so many random moments."""
    rng = random.Random(14)
    with trial(folder, links, f"SIGTERM to everybody, {rounds} times", clients=1) as t:
        t.begin()
        took, back = [], defaultdict(list)
        for _ in range(rounds):
            t.wait(rng.uniform(0.0, 1.5))
            took += t.stage.end(t.stage.everybody).items()
            took.append(("redis", t.stage.broker.stop()))
            for name, seconds in _start_again(t).items():
                back[name].append(round(seconds, 2))
        slowest = defaultdict(float)
        for name, (seconds, _) in took:
            slowest[name] = max(slowest[name], round(seconds, 2))
        codes = {(name, code) for name, (_, code) in took if code}
        t.row.figures |= {"ends": len(took)}
        t.row.figures |= {f"slowest_{name}_s": seconds for name, seconds in slowest.items()}
        for name, seconds in back.items():
            t.row.figures[f"{name}_back_median_s"] = round(statistics.median(seconds), 2)
            t.row.figures[f"{name}_back_max_s"] = max(seconds)
        t.row.must(f"exit codes {codes}", not codes)
        t.row.must(f"{len(took)} of {4 * rounds} ended", len(took) == 4 * rounds)
        t.row.within("all had ended", max(slowest.values()), 5.0)
        t.end_whole()
    return t.row


def _start_again(t):
    """Start everybody; return after how many seconds each was at work, by name."""
    generation = t.watch.status.generation
    record = t.stage.run_folder / RESULTS
    size, began = record.stat().st_size, time.time()
    t.stage.broker.start()
    for child in t.stage.everybody:
        child.start()
    back = {"redis": t.stage.broker.ready[-1]}
    t.until("the learner", lambda: t.watch.status.generation > generation)
    back["learner"] = time.time() - began
    t.recovered(began)
    t.until("the record", lambda: record.stat().st_size > size)
    return back | {"telemetry": time.time() - began}


def crowd(folder, links):
    """R13: two hundred clients that come and go, and a server that is killed among them."""
    sets = ("dqn.epsilon_base=1",)  # they act at random: here, everybody does
    with trial(folder, links, "200 clients come and go", clients=1, sets=sets) as t:
        t.begin()
        people = Crowd(t.stage, CROWD)
        with people:
            t.until("everybody", lambda: people.all_since(t.watch.seen, 0.0))
            t.wait(CROWD_SECONDS)
            began = time.time()
            t.stage.broker.kill()
            t.stage.broker.start()
            again = t.until("everybody again", lambda: people.all_since(t.watch.seen, began))
            t.wait(5.0)
        t.row.seconds = round(again, 2)
        t.until("everybody lost", lambda: _active(t) <= 1, 30.0, must=False)
        left = time.monotonic() - people.asked_to_leave
        verdict, progress = t.end()
        status = t.watch.status
        t.row.figures |= people.figures | {
            "reconnected_s": round(again, 2),
            "inactive_after_s": round(left, 1),
            "lost": progress["lost"],
            "dropped": status.dropped,
        }
        t.row.lost = f"{verdict.missing} env steps"
        t.row.must(f"errors: {people.errors}", not people.errors)
        t.row.must(f"{people.figures['unsent']} could not end", not people.figures["unsent"])
        t.row.must(f"{verdict.acked_lost} acked lost", not verdict.acked_lost)
        t.row.must(f"rejected {progress['rejected']}", not progress["rejected"])
        t.row.must(f"{_active(t)} still active", _active(t) <= 1)
        t.row.within("everybody was back", again, 10.0)
    return t.row


def garbage(folder, links):
    """R2: garbage by the thousand, among ten honest clients: what those lose by it."""
    fault = f"two send {PER_SECOND} malformed messages a second each, beside ten honest clients"
    with trial(folder, links, fault, clients=HONEST, step_delay=0.02) as t:
        t.begin()
        before = _throughput(t)
        with Garbage(t.stage) as sent:
            during = _throughput(t)
        alone = (before + _throughput(t)) / 2
        t.until("all is counted", lambda: _refused(t) >= sent.sent, 10.0, must=False)
        refused = _refused(t)
        t.end_whole()
        t.row.figures |= {
            "alone_steps_per_second": round(alone),
            "honest_share": round(during / alone, 3),
            "sent_per_second": round(sent.per_second),
            "sent": sent.sent,
            "refused": refused,
        }
        t.row.must(f"{during / alone:.1%} of solo, not 95 %", during >= 0.95 * alone)
        t.row.must("it was not sent as fast as meant", sent.per_second > 0.9 * PER_SECOND)
        t.row.must(f"{refused} of {sent.sent} were counted", refused == sent.sent)
    return t.row


def _throughput(t):
    t.wait(2.0)
    began = time.time()
    t.wait(MEASURED_SECONDS)
    return rate(t.watch.seen, began, time.time())


def _refused(t):
    return sum(t.watch.status.rejected.values())


def _active(t):
    return sum(client.state != "lost" for client in t.watch.status.clients)


TRIALS = {"clocks": clocks, "goodbyes": goodbyes, "crowd": crowd, "garbage": garbage}
