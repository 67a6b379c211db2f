"""Trials of what holds experience: the server's memory and disk, and the learner's."""

import os
import secrets
import shutil
import time

from soulsai import connect
from soulsai.config.schema import RedisSettings
from soulsai.errors import Unreachable, WireError
from soulsai.training_node.saving import atomic_folders
from soulsai.wire.names import Keys
from soulsai.wire.redis.connection import RedisConnection
from soulsai.wire.secrets import server_for

from . import ledger, namespace
from .beside import Beside
from .trial import Impossible, trial

FLOOD_SECONDS = 30.0
RUBBISH_BYTES = 2**16
SMALL_MB = 8
ROUNDS = 12
BUSY_BLOCKS = 32  # of 4 MiB, between two syncs
LATE_BYTES = 2_000  # that the server has not written when it is killed


def wipe(folder, links):
    """The server comes back without anything: clients send what was not read once more."""
    with trial(folder, links, "the server restarts without its data", clients=2) as t:
        t.begin()
        t.stage.learner.pause()
        t.wait(2.0)  # in which there is something to lose
        began = time.time()
        t.stage.broker.kill()
        t.stage.broker.wipe()
        t.stage.broker.start()
        t.stage.learner.go_on()
        seconds = max(t.recovered(began, client) for client in ("client-1", "client-2"))
        t.row.within("recovered", seconds, 8.0)
        t.wait(3.0)
        t.end_whole()
        repeated = ledger.repeated(sorted(t.stage.ledgers.iterdir()))
        t.row.figures["sent_again"] = repeated
        t.row.must("nothing was sent again: the trial has tried nothing", repeated)
    return t.row


def server_kills(folder, links, rounds=ROUNDS):
    """R6: kill -9 of the server under load, twelve times."""
    with trial(folder, links, f"kill -9 of the server, {rounds} times", clients=2) as t:
        t.begin()
        for _ in range(rounds):
            t.wait(1.5)
            began = time.time()
            t.stage.broker.kill()
            t.stage.broker.start()
            t.recovered(began)
        slowest = max(t.stage.broker.ready)
        t.row.figures["ready_max_s"] = round(slowest, 2)
        t.row.within("the server was ready", slowest, 2.0)
        t.end_whole()
    return t.row


def busy_kills(folder, links, rounds=ROUNDS, *, binary=None, name="embedded"):
    """The same while its disk is so busy that it writes what it has acknowledged much later."""
    fault = f"kill -9 of the server ({name}) on a busy disk, {rounds} times"
    with trial(folder, links, fault, clients=3, step_delay=0.001, binary=binary) as t:
        t.begin()
        unwritten = 0
        with BusyDisk(folder), t.stage.broker.metrics() as link:
            for _ in range(rounds):
                t.wait(1.5)
                t.until("the server writes late", lambda: _unwritten_bytes(link) > LATE_BYTES)
                began = time.time()
                t.stage.broker.kill()
                unwritten += _unwritten(t.stage)
                t.stage.broker.start()
                t.recovered(began)
        t.row.figures["lost_by_the_server"] = unwritten
        t.row.must("the server lost nothing: the trial has tried nothing", unwritten)
        t.end_whole()
    return t.row


def busy_redis_kills(folder, links, rounds=ROUNDS):
    """The same with redis-server."""
    found = shutil.which("redis-server")
    if found is None:
        raise Impossible("redis-server is not installed")
    return busy_kills(folder, links, rounds, binary=found, name="redis-server")


def _unwritten_bytes(link):
    """Return how much a server has acknowledged and not written, because a sync is under way."""
    try:
        told = link.execute("INFO", "persistence").decode()
    except Unreachable:
        return 0
    numbers = dict(line.split(":", 1) for line in told.splitlines() if ":" in line)
    return int(numbers["aof_buffer_length"]) * int(numbers["aof_pending_bio_fsync"])


def _unwritten(stage):
    """Return how many env steps the killed server has acknowledged and not written."""
    keys, last = Keys(stage.config().run.name), stage.broker.last_written()
    lost = 0
    for child in stage.clients:
        written = last.get(keys.experience(child.name), "0-0").split("-")
        paths = sorted(stage.ledgers.glob(f"{child.name}-*"))
        lost += ledger.acknowledged_after(paths, tuple(map(int, written)))
    return lost


class BusyDisk(Beside):
    """Threads that write and sync large files beside the server's."""

    def __init__(self, folder):
        super().__init__(*(lambda name=name: self._write(folder / name) for name in "abc"))

    def _write(self, path):
        block = secrets.token_bytes(2**22)
        with path.open("wb", buffering=0) as file:
            while not self.stop.is_set():
                file.seek(0)
                for _ in range(BUSY_BLOCKS):
                    file.write(block)
                os.fsync(file.fileno())
        path.unlink()


def server_full(folder, links):
    """R12: somebody fills the server's 50 MB with rubbish, as fast as he can."""
    with trial(folder, links, "a client floods the server's memory", clients=3, memory_mb=50) as t:
        t.begin()
        t.wait(5.0)
        before = t.watch.status.env_steps
        t.wait(10.0)
        usual = (t.watch.status.env_steps - before) / 10
        flood = Flood(t.stage)
        with flood:
            t.wait(FLOOD_SECONDS)
        end = time.time()
        seconds = t.recovered(end)
        t.row.within("recovered", seconds, 8.0)
        t.row.figures |= {
            "flood_mb": round(flood.sent / 1e6),
            "refused": flood.refused,
            "version_gap_max_s": round(flood.longest, 1),
        }
        t.row.must("the server was never full: the trial has tried nothing", flood.refused)
        t.row.within("new weights", flood.longest, 3.0)
        dropped = sum(client.dropped for client in t.watch.status.clients)
        verdict, progress = t.end()
        t.row.must(f"acked_lost {verdict.acked_lost}, of which {progress['lost']} are counted",
                   verdict.acked_lost <= progress["lost"])  # fmt: skip
        _judge_flood(t, verdict, dropped, usual)
    return t.row


def _judge_flood(t, verdict, dropped, usual):
    lost = verdict.missing + dropped
    share = verdict.accepted / (verdict.accepted + lost)
    t.row.figures |= {"honest_share": round(share, 4), "usual_steps_per_second": round(usual)}
    t.row.lost = f"{lost} env steps of honest clients, {1 - share:.1%}"
    t.row.must(f"{share:.1%} of honest experience came in, not 95 %", share >= 0.95)


class Flood(Beside):
    """A thread that appends rubbish to a stream of its own, and looks for new weights meanwhile."""

    def __init__(self, stage):
        super().__init__(self._pour, self._look)
        redis = RedisSettings(url=stage.links.url("us"), secrets=str(stage.broker.secrets))
        server = server_for("client", redis)
        self.sent = self.refused = 0
        self.longest = 0.0  # seconds without a new version
        self._key = Keys(stage.config().run.name).experience("flood")
        self._link = RedisConnection(server, "flood")
        self._config = stage.config("flood")

    def __exit__(self, *reason):
        super().__exit__(*reason)
        self._link.close()

    def _pour(self):
        while not self.stop.is_set():
            rubbish = secrets.token_bytes(RUBBISH_BYTES)
            words = [("XADD", self._key, "*", "d", rubbish)] * 16
            try:
                replies = self._link.execute_all(words)
            except WireError:
                self.stop.wait(0.1)
                continue
            refused = sum(isinstance(reply, WireError) for reply in replies)
            self.refused += refused
            self.sent += (len(words) - refused) * RUBBISH_BYTES
            self.stop.wait(0.1 if refused else 0.0)

    def _look(self):
        newest, since = None, time.monotonic()
        with connect.client(self._config, None) as wire:
            while not self.stop.wait(0.1):
                pointer = wire.pointer()
                if pointer is None:
                    raise RuntimeError("the weights are gone")
                if pointer.order != newest:
                    newest, since = pointer.order, time.monotonic()
                self.longest = max(self.longest, time.monotonic() - since)


def server_disk(folder, links):
    """The disk of the server's append-only file is full for ten seconds."""
    fault = "the server's disk is full for 10 s"
    with _small_disk(links, folder / "redis" / "data"), trial(folder, links, fault, clients=2) as t:
        t.begin()
        ballast = _fill(folder / "redis" / "data")
        t.wait(10.0)
        freed = time.time()
        ballast.unlink()
        seconds = t.recovered(freed)
        t.row.within("recovered", seconds, 8.0)
        t.wait(3.0)
        t.end_whole()
    return t.row


def learner_disk(folder, links):
    """The disk of the checkpoints is full for ten seconds."""
    fault = "the checkpoints' disk is full for 10 s"
    with _small_disk(links, folder / "saves"), trial(folder, links, fault, clients=2) as t:
        t.begin()
        ballast = _fill(folder / "saves")
        t.until("a notice", lambda: t.watch.status.notice)
        before = t.watch.status.updates
        t.wait(10.0)
        t.row.must("learning stopped", t.watch.status.updates > before)
        ballast.unlink()
        freed = time.monotonic()
        t.until("no notice", lambda: not t.watch.status.notice)
        t.row.seconds = round(time.monotonic() - freed, 2)
        left = [path.name for path in t.stage.run_folder.glob("checkpoints/.*")]
        t.row.must(f"left over: {left}", not left)
        t.end_whole()
    return t.row


def _small_disk(links, folder):
    if links.kind != "netns":
        raise Impossible("a small disk can be mounted in a namespace only")
    return namespace.small_disk(folder, SMALL_MB)


def _fill(folder):
    """Write until there is no room; return the file that takes it."""
    ballast = folder / "ballast"
    with ballast.open("wb", buffering=0) as file:
        try:
            while True:
                file.write(bytes(2**12))
        except OSError:
            return ballast


def damaged_checkpoint(folder, links):
    """A bit of the newest checkpoint flips, and the learner is killed."""
    with trial(
        folder, links, "the newest checkpoint is damaged, the learner killed", clients=2
    ) as t:
        t.begin()
        t.until("two checkpoints", lambda: len(t.watch.whole) > 1)
        t.stage.learner.pause()
        newest = atomic_folders.numbered(t.stage.run_folder / "checkpoints")[-1]
        path = max(newest.iterdir(), key=lambda path: path.stat().st_size)
        data = bytearray(path.read_bytes())
        data[len(data) // 2] ^= 1
        path.write_bytes(data)
        began = time.time()
        t.stage.learner.kill_now()
        t.recovered(began)
        t.wait(3.0)
        t.watch.broken.pop(newest.name, None)
        verdict, progress = t.end()
        t.row.lost = f"{verdict.missing} env steps, since the checkpoint before"
        t.row.must("what is missing is not what was reported", verdict.missing == progress["lost"])
    return t.row


TRIALS = {
    "server-kills": server_kills,
    "busy-kills": busy_kills,
    "busy-redis-kills": busy_redis_kills,
    "wipe": wipe,
    "server-full": server_full,
    "server-disk": server_disk,
    "learner-disk": learner_disk,
    "damaged-checkpoint": damaged_checkpoint,
}
