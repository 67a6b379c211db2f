"""One run under fire, and what came of it."""

import statistics
import time
from dataclasses import dataclass, field

from soulsai.training_node.saving import atomic_folders

from . import ledger
from .faults import LEARNER_KILLS, Nemesis
from .watch import ENOUGH, Watch, Yardstick, gap, windows

READY_SECONDS = 150.0
DRAIN_SECONDS = 60.0
STILL_SECONDS = 3.0  # without anything let in: all has been read
CALM_SECONDS = 11.0  # after the last fault: one window at least
TICK = 0.02
MEDIAN, LONGEST = 4.0, 8.0  # seconds for which a learner may be gone


@dataclass
class Result:
    """What is printed at the end; see the bars in ``faults_of``."""

    seed: int
    links: str
    algorithm: str = "dqn"
    minutes: float = 0.0
    faults: int = 0
    accepted: int = 0
    acked: int = 0
    acked_lost: int = 0
    double_counted: int = 0
    never_sent: int = 0
    miscounted: int = 0
    unaccounted: int = 0
    checkpoints: int = 0
    unloadable_checkpoints: int = 0
    downtime_median_s: float = 0.0
    downtime_max_s: float = 0.0
    slow: float = 1.0  # how many times slower than the reference the machine was meanwhile
    windows: int = 0
    windows_without_progress: int = 0
    seconds: float = 0.0
    done: dict = field(default_factory=dict)  # kind: how often
    recovery: dict = field(default_factory=dict)  # kind: seconds until experience came in again
    notes: list = field(default_factory=list)


def bars(result):
    """Return which promises were broken; those in seconds follow the machine."""
    zero = {
        "acked_lost": result.acked_lost,
        "double_counted": result.double_counted,
        "never_sent": result.never_sent,
        "miscounted": result.miscounted,
        "unaccounted": result.unaccounted,
        "unloadable_checkpoints": result.unloadable_checkpoints,
        "windows_without_progress": result.windows_without_progress,
    }
    short = {
        "downtime_median_s": (result.downtime_median_s, result.slow * MEDIAN),
        "downtime_max_s": (result.downtime_max_s, result.slow * LONGEST),
    }
    broken = [f"{name} = {value}, not 0" for name, value in zero.items() if value]
    broken += [
        f"{name} = {s}, not below {limit:.1f}" for name, (s, limit) in short.items() if s >= limit
    ]
    if not result.checkpoints or not result.accepted:
        broken.append("nothing was learnt")
    return broken + result.notes


def run(stage, planned, seconds, *, seed=0, calm=CALM_SECONDS, say=lambda line: None):
    """Let a run suffer planned faults within so many seconds; return the result."""
    result = Result(seed, stage.links.kind, stage.algorithm, minutes=seconds / 60)
    began = time.monotonic()
    with Watch(stage) as watch:
        stage.start()
        ready(stage, watch)
        begin = time.time()
        with Yardstick() as yardstick:
            suffer(stage, planned, seconds, say)
        result.slow = yardstick.slow
        _await_learner(stage, watch, planned)
        wait(stage, calm)
        end = time.time()
        settle(stage, watch, result)
    result.seconds = round(time.monotonic() - began, 1)
    judge(stage, watch, planned, (begin, end), result)
    return result


def ready(stage, watch, *, checkpoint=True):
    """Wait until everybody plays, and there is a checkpoint to go on from, if that was seen."""
    deadline = time.monotonic() + READY_SECONDS
    wanted = {child.name for child in stage.clients}
    while True:
        stage.tend()
        playing = {client for _, _, client in watch.seen}
        if wanted <= playing and (watch.whole or watch.broken or not checkpoint):
            return
        if time.monotonic() > deadline or stage.over:
            tails = [(child.name, child.tail(5)) for child in stage.everybody]
            raise OSError(f"it did not begin: playing {playing}, {stage.over} {tails}")
        time.sleep(TICK)


def suffer(stage, planned, seconds, say):
    """Carry the plan out; faults that take longer than planned delay those after them."""
    nemesis = Nemesis(stage)
    began = time.monotonic()
    left = list(planned)
    live = []
    while left or live or time.monotonic() - began < seconds:
        now = time.monotonic() - began
        if left and not live and now >= left[0].at and nemesis.begin(left[0]):
            live.append(left.pop(0))
            say(f"{now:6.1f} s  {live[0].kind}  {live[0].seconds:.1f} s")
        stage.tend()
        over = time.time()
        live = [f for f in live if over < f.began + f.seconds or not nemesis.end(f)]
        if stage.over:
            return
        time.sleep(TICK)


def wait(stage, seconds):
    """Let everybody work in peace."""
    until = time.monotonic() + seconds
    while time.monotonic() < until and not stage.over:
        stage.tend()
        time.sleep(TICK)


def _await_learner(stage, watch, planned):
    """Wait until something has come in after the last kill of the learner, if it ever does."""
    killed = max((f.began for f in planned if f.kind in LEARNER_KILLS), default=0.0)
    deadline = time.monotonic() + READY_SECONDS
    while gap(watch.seen, killed) is None and time.monotonic() < deadline and not stage.over:
        wait(stage, TICK)


def settle(stage, watch, result):
    """Let clients end, then the learner when it has read all, then the record."""
    result.notes += stage.over
    _ended(stage.end(stage.clients), result)
    deadline = time.monotonic() + DRAIN_SECONDS
    last, since = -1, time.monotonic()
    while time.monotonic() - since < STILL_SECONDS and time.monotonic() < deadline:
        stage.tend()
        status = watch.status
        if status is not None and status.env_steps != last:
            last, since = status.env_steps, time.monotonic()
        time.sleep(TICK)
    _ended(stage.end([stage.learner]), result)
    _ended(stage.end([stage.telemetry]), result)


def _ended(ended, result):
    for name, (seconds, code) in ended.items():
        if code != 0:
            result.notes.append(f"{name} ended with {code} after {seconds:.1f} s")


def judge(stage, watch, planned, span, result):
    """Compare the clients' ledgers with the last checkpoint, and measure what was seen."""
    done = [fault for fault in planned if fault.began]
    result.faults = len(done)
    for path in atomic_folders.numbered(stage.run_folder / "checkpoints"):
        watch.inspect(path)
    result.checkpoints = len(watch.whole)
    result.unloadable_checkpoints = len(watch.broken)
    result.notes += [f"checkpoint {name}: {why}" for name, why in watch.broken.items()]
    verdict, _ = reckon(stage)
    result.accepted, result.acked = verdict.accepted, verdict.acked
    result.acked_lost, result.never_sent = verdict.acked_lost, verdict.never_sent
    result.miscounted = verdict.miscounted
    result.double_counted = max(verdict.double_counted, watch.doubled)
    result.unaccounted = watch.unaccounted
    _measure(watch, done, span, result)


def reckon(stage):
    """Compare what all clients say with the newest checkpoint; return how, and its progress."""
    claims = ledger.read(sorted(stage.ledgers.iterdir()))
    newest = atomic_folders.numbered(stage.run_folder / "checkpoints")[-1]
    account = ledger.counted(newest)
    return ledger.compare(claims, account.held, account.progress["env_steps"]), account.progress


def _measure(watch, done, span, result):
    downs = []
    for fault in done:
        result.done[fault.kind] = result.done.get(fault.kind, 0) + 1
        killed = fault.kind in LEARNER_KILLS
        who = f"client-{fault.client + 1}" if fault.kind.endswith("client") else None
        after = fault.began if fault.kind.startswith("kill") else fault.ended
        silence = gap(watch.seen, after, client=who)
        if silence is None:
            result.notes.append(f"nothing came in after {fault.kind} at {fault.at:.0f} s")
            continue
        result.recovery.setdefault(fault.kind, []).append(round(silence, 2))
        if killed:
            downs.append(silence)
            # Its absence has a bar of its own; nothing comes in before it is back.
            fault.ended = max(fault.ended, fault.began + min(silence, LONGEST * result.slow))
    if downs:
        result.downtime_median_s = round(statistics.median(downs), 2)
        result.downtime_max_s = round(max(downs), 2)
    live = [(fault.began, fault.ended or span[1]) for fault in done]
    progress = windows(watch.seen, live, *span)
    result.windows = len(progress)
    result.windows_without_progress = sum(steps < ENOUGH for steps in progress)
