"""Trials of links: gone for half a minute, half open, slow and lossy."""

import importlib.util
import statistics
import time

import numpy as np

from . import ledger
from .stamps import SEATS, TIMES
from .trial import Impossible, trial

PARTITION_SECONDS = 30.0
HZ = 20
SPOILT_SECONDS = 60.0
ROUND_TRIP = 0.3
LOSS = 0.01
BITS = 40_000_000  # per second, of five clients together


def partition(folder, links):
    """R10: a client is cut off for half a minute, and plays on."""
    with trial(folder, links, "a client's network is gone for 30 s", clients=2) as t:
        t.begin()
        links.cut("client-1")
        t.wait(PARTITION_SECONDS)
        healed = time.time()
        links.heal("client-1")
        seconds = t.recovered(healed, "client-1")
        t.row.within("resumed", seconds, 5.0)
        t.wait(5.0)
        dropped = sum(client.dropped for client in t.watch.status.clients)
        verdict, progress = t.end_whole()
        t.row.must(f"{verdict.missing} env steps never arrived", not verdict.missing)
        t.row.must(f"{dropped} env steps dropped", not dropped)
        t.row.must(f"{progress['lost']} env steps lost", not progress["lost"])
    return t.row


def half_open(folder, links):
    """The server restarts while nobody reaches it: nobody is told that connections are gone."""
    with trial(folder, links, "the server restarts behind a dead network", clients=2) as t:
        t.begin()
        for child in t.stage.everybody:
            links.cut(child.name)
        t.stage.broker.kill()
        t.stage.broker.start()
        t.wait(8.0)
        healed = time.time()
        for child in t.stage.everybody:
            links.heal(child.name)
        for client in ("client-1", "client-2"):
            seconds = t.recovered(healed, client)
            t.row.within(f"{client} resumed", seconds, 5.0)
        t.wait(3.0)
        t.end_whole()
    return t.row


def bad_link(folder, links):
    """R11: five clients at 20 Hz behind 300 ms, 1 % loss and 8 Mbit/s each; one beside them."""
    if links.kind != "netns":
        raise Impossible("packets can be lost in a network namespace only")
    if importlib.util.find_spec("netfilterqueue") is None:
        raise Impossible("packets can be late only with netfilterqueue (see `make test-chaos`)")
    times = folder / "times"
    times.mkdir(parents=True)
    sets = ("dqn.hidden=512,512", "training.publish_seconds=10")  # 1 MB of weights
    with trial(folder, links, "300 ms, 1 % loss, 8 Mbit/s", clients=6, sets=sets,
               step_delay=1 / HZ, environ={TIMES: str(times)}) as t:  # fmt: skip
        spoilt = [f"client-{number}" for number in range(1, 6)]
        links.narrow(BITS)
        for name in spoilt:
            links.spoil(name, delay=ROUND_TRIP / 2, loss=LOSS)
        t.begin()
        t.wait(SPOILT_SECONDS)
        verdict, _ = t.end_whole()
        ledgers = [path for name in spoilt for path in t.stage.ledgers.glob(f"{name}-*")]
        _judge_link(t.row, verdict, ledgers, times)
    return t.row


def _judge_link(row, verdict, ledgers, times):
    pushes = ledger.durations(ledgers, "acked")
    fetches = ledger.durations(ledgers, "weights")
    p95 = float(np.percentile(pushes, 95))
    steps = {int(path.name.split("-")[0]) // SEATS: np.load(path) for path in times.iterdir()}
    del steps[0]  # the training node has a look at the environment, too
    jitter = {who: float(np.percentile(np.diff(at), 99)) for who, at in steps.items()}
    beside = jitter.pop(6)
    added = statistics.median(jitter.values()) - beside
    share = 1 - verdict.missing / (verdict.missing + verdict.accepted)
    row.figures |= {
        "delivered_share": round(share, 4),
        "push_p95_s": round(p95, 2),
        "weights_max_s": round(max(fetches), 2),
        "p99_step_added_ms": round(1000 * added, 2),
        "p99_step_beside_ms": round(1000 * beside, 2),
    }
    row.seconds = round(p95, 2)
    row.must(f"{share:.1%} delivered, not 95 %", share >= 0.95)
    row.must("packets were not late: nothing was tried", min(pushes) >= ROUND_TRIP)
    row.within("95 % of pushes were answered", p95, 3.0)
    row.within("weights were there", max(fetches), 5.0)
    row.must(f"the loop's p99 rose by {1000 * added:.1f} ms", added < 0.001 or added < 0.1 * beside)


TRIALS = {"partition": partition, "half-open": half_open, "bad-link": bad_link}
