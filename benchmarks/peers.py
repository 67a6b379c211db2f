"""``PYTHON benchmarks/peers.py NAME``: another package's work, timed in turns with ours.

Runs under a Python in which the peers are installed, apart from this project's: it imports nothing
of it. Each line of input is a count; each line of output the seconds that so many took.
"""

import sys
import time
from collections.abc import Callable

import numpy as np

ROWS, WIDTH, BATCH = 1_000_000, 8, 64  # of the prioritised replay

Run = Callable[[int], None]


def cpprb() -> Run:
    """Return a sample and an update of priorities from cpprb's full replay."""
    from cpprb import PrioritizedReplayBuffer

    columns = {
        "obs": {"shape": WIDTH},
        "next_obs": {"shape": WIDTH},
        "act": {"dtype": np.uint8},
        "rew": {},
        "done": {},
    }
    replay = PrioritizedReplayBuffer(ROWS, columns, alpha=0.6)
    rng = np.random.default_rng(0)
    seen = rng.normal(size=(ROWS, WIDTH)).astype(np.float32)
    flat = np.zeros(ROWS, np.float32)
    replay.add(obs=seen, next_obs=seen, act=flat.astype(np.uint8), rew=flat, done=flat)
    replay.update_priorities(np.arange(ROWS), rng.random(ROWS))

    def run(count: int) -> None:
        for _ in range(count):
            batch = replay.sample(BATCH, beta=0.4)
            replay.update_priorities(batch["indexes"], rng.random(BATCH))

    return run


PEERS: dict[str, Callable[[], Run]] = {"cpprb": cpprb}


def main() -> None:
    """Answer each count with the seconds it took; begin with one that is not timed."""
    run = PEERS[sys.argv[1]]()
    run(1)
    sys.stdout.write("ready\n")
    sys.stdout.flush()
    for line in sys.stdin:
        began = time.perf_counter()
        run(int(line))
        sys.stdout.write(f"{time.perf_counter() - began}\n")
        sys.stdout.flush()


if __name__ == "__main__":
    main()
