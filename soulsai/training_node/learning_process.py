"""How a process that learns uses the processor, its memory and the garbage collector."""

import gc
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager

import torch

from soulsai.algorithms.compile.dense import keep_freed_memory

MOST_THREADS = 2
LEAST_GAIN = 1.4  # times as fast as one thread: a second core has other work, too


def fastest(seconds: Mapping[int, float]) -> int:
    """Return the number of threads to learn with.

    Args:
        seconds: Seconds of the same work by number of threads, with one and more.
    """
    best = min(seconds, key=lambda threads: (seconds[threads], threads))
    return best if seconds[1] >= LEAST_GAIN * seconds[best] else 1


def choose_threads(measure: Callable[[], float], free: int) -> int:
    """Set torch's threads to as many as pay, and return their number.

    Args:
        measure: Returns the seconds of a batch with the threads that are set.
        free: Cores that no other process of the run needs.
    """
    seconds = {1: 0.0}
    if free >= MOST_THREADS:
        for threads in range(1, MOST_THREADS + 1):
            torch.set_num_threads(threads)
            seconds[threads] = measure()
    chosen = fastest(seconds)
    torch.set_num_threads(chosen)
    return chosen


@contextmanager
def prepared(*, threads: int) -> Iterator[None]:
    """Prepare this thread and this process for updates, as long as the context lasts.

    Args:
        threads: Torch's threads.
    """
    torch.set_num_threads(threads)
    keep_freed_memory()
    # The moving averages of weights that no longer change end as denormal numbers, with which
    # a processor computes a hundred times slower; XLA takes them for zeros, too.
    torch.set_flush_denormal(True)
    try:
        yield
    finally:
        torch.set_flush_denormal(False)
        gc.unfreeze()


def freeze() -> None:
    """Let the garbage collector ignore all that exists now, until the context ends.

    It would look through the modules of torch again and again, a sixth of the time of updates.
    """
    gc.collect()
    gc.freeze()
