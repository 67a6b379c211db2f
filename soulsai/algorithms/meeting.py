"""How ranks find each other where they may have met before.

``torchrun`` keeps one store over all lives of a group, and in it the addresses of the dead. So
whoever is alive agrees upon a word first, under which nobody has left anything.
"""

import secrets
import time
from collections.abc import Callable

from torch.distributed.distributed_c10d import Store

LOOK_SECONDS = 0.05
HELLO = "soulsai/hello/"


def agree(store: Store, rank: int, size: int, *, over: Callable[[], bool]) -> str:
    """Return a word that all ranks which are alive have agreed upon; nothing, if it is ``over``.

    The others say hello with a word of their own, and the first answers it; so it does not matter
    what it has also answered of the dead.
    """
    ours = secrets.token_hex(8)
    if rank:
        store.set(f"{HELLO}{rank}", ours)
    while not over():
        word = _hear(store, rank, ours) if rank else _answer(store, size, ours)
        if word:
            return word
        time.sleep(LOOK_SECONDS)
    return ""


def _answer(store: Store, size: int, ours: str) -> str:
    """Answer every hello with our word; return it once all have taken it."""
    others = range(1, size)
    for other in others:
        if store.check([f"{HELLO}{other}"]):
            store.set(store.get(f"{HELLO}{other}").decode(), ours)
    return ours if store.check([f"{ours}/{other}" for other in others]) else ""


def _hear(store: Store, rank: int, ours: str) -> str:
    """Return the answer to our hello, if there is one by now, and take it."""
    if not store.check([ours]):
        return ""
    word = store.get(ours).decode()
    store.set(f"{word}/{rank}", ours)
    return word
