"""What clients cost a server, at several rates: bandwidth, memory and processor; prints a table.

LunarLander with the defaults of DQN. ``python benchmarks/sizing.py [CLIENTS [HZ...]]``
"""

import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import ExitStack, closing, contextmanager

import psutil

from soulsai.config.schema import RedisSettings
from soulsai.types import Status
from soulsai.wire.redis.connection import RedisConnection
from soulsai.wire.redis.embedded_server import EmbeddedServer
from soulsai.wire.redis.roles import connect_operator
from soulsai.wire.secrets import server_for

WATCH = 20.0  # seconds
PATIENCE = 180.0


def main(clients: int = 4, rates: tuple[float, ...] = (2, 10, 60)) -> None:
    print(
        "| Hz | clients | up per client | per step | down per client | weights/s | Redis | ", end=""
    )
    print("training node | telemetry node | client | share of a core: both nodes | one client |")
    print("|---" * 12 + "|")
    for rate in rates:
        print(measure(clients, rate), flush=True)


def measure(clients: int, rate: float) -> str:
    """Return a line of the table."""
    with ExitStack() as stack:
        server = stack.enter_context(EmbeddedServer())
        folder = stack.enter_context(tempfile.TemporaryDirectory())
        redis = RedisSettings(url=server.url, secrets=str(server.secrets))
        common = ["--redis", redis.url, "--secrets", redis.secrets]
        saves = ["--set", f"run.saves={folder}", "--set", "run.max_env_steps=0"]
        early = ["--set", "dqn.learning_starts=100"]
        node = stack.enter_context(running("training-node", *common, *saves, *early))
        telemetry = stack.enter_context(
            running("telemetry-node", *common, *saves, "--set", "web.port=0")
        )
        players = [
            stack.enter_context(running("client", *common, "--step-delay", str(1 / rate)))
            for _ in range(clients)
        ]
        operator = stack.enter_context(
            closing(connect_operator(server_for("operator", redis), "soulsai"))
        )
        link = stack.enter_context(closing(RedisConnection(server_for("metrics", redis), "sizing")))
        deadline = time.monotonic() + PATIENCE
        while (now := operator.status()) is None or now.updates < 20 or len(now.clients) < clients:
            if time.monotonic() > deadline:
                raise TimeoutError(f"not learning after {PATIENCE:g} s: {now}")
            time.sleep(0.2)
        before, spent = now, [seconds(node, telemetry), seconds(*players)]
        sent, got = traffic(link)
        began = time.monotonic()
        time.sleep(WATCH)
        took = time.monotonic() - began
        after = operator.status() or before
        sent, got = (now - then for now, then in zip(traffic(link), (sent, got), strict=True))
        work = [(seconds(*who) - then) / took for who, then in
                zip(((node, telemetry), players), spent, strict=True)]  # fmt: skip
        cells = [
            f"{rate:g}", f"{clients}", f"{sent / took / clients / 1e3:.2f} kB/s",
            f"{sent / steps(before, after):.0f} B", f"{got / took / clients / 1e3:.0f} kB/s",
            f"{(after.version - before.version) / took:.2f}",
            f"{memory_of_redis(link):.0f} MB",
            *(f"{mb(process):.0f} MB" for process in (node, telemetry, players[0])),
            f"{100 * work[0]:.0f} %", f"{100 * work[1] / clients:.1f} %",
        ]  # fmt: skip
        return f"| {' | '.join(cells)} |"


def steps(before: Status, after: Status) -> int:
    return max(1, after.env_steps - before.env_steps)


def traffic(link: RedisConnection) -> tuple[int, int]:
    """Return what all clients have sent, and what they got, in bytes."""
    sent = got = 0
    for line in link.execute("CLIENT", "LIST").decode().splitlines():
        pairs = dict(word.split("=", 1) for word in line.split())
        if pairs["user"] == "client":
            sent += int(pairs["tot-net-in"])
            got += int(pairs["tot-net-out"])
    return sent, got


def memory_of_redis(link: RedisConnection) -> float:
    lines = dict(
        line.split(":", 1)
        for line in link.execute("INFO", "memory").decode().split()
        if ":" in line
    )
    return int(lines["used_memory"]) / 1e6


def mb(process: psutil.Popen) -> float:
    return float(process.memory_info().rss) / 1e6


def seconds(*processes: psutil.Popen) -> float:
    return float(sum(sum(process.cpu_times()[:2]) for process in processes))


@contextmanager
def running(*words: str) -> Iterator[psutil.Popen]:
    process = psutil.Popen([sys.executable, "-m", "soulsai", *words], stderr=subprocess.DEVNULL)
    try:
        yield process
    finally:
        process.terminate()
        process.wait()


if __name__ == "__main__":
    words = [float(word) for word in sys.argv[1:]]
    if len(words) > 1:
        main(int(words[0]), tuple(words[1:]))
    else:
        main()
