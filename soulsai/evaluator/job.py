"""One job of the evaluator, in a process of its own: the environment may hang or crash there.

It reads an order from its standard input and writes a line each second while it works.
"""

import faulthandler
import logging
import os
import sys
import time
from contextlib import suppress
from pathlib import Path

import msgspec

from soulsai.errors import CheckpointError, ConfigError, EnvironmentFault, SoulsAIError
from soulsai.evaluator.orders import JobOrder, PlayOrder, RecordOrder, Reply
from soulsai.process import die_with_parent, yield_cores

BEAT_SECONDS = 1.0


class _Replies:
    """The standard output as it was before the environment got hold of it."""

    def __init__(self) -> None:
        self._file = os.fdopen(os.dup(1), "wb", buffering=0)
        os.dup2(2, 1)  # an environment may print
        self._due = 0.0

    def send(self, reply: Reply) -> None:
        """Write a reply."""
        self._file.write(msgspec.json.encode(reply) + b"\n")

    def beat(self) -> bool:
        """Write a sign of life, at most once a second; return false: go on."""
        if time.monotonic() >= self._due:
            self._due = time.monotonic() + BEAT_SECONDS
            self.send(Reply())
        return False


def main() -> int:
    """Carry out the order on the standard input, and return the exit code."""
    yield_cores()  # a new session may have priorities of its own
    die_with_parent(at_once=True)
    replies = _Replies()
    faulthandler.enable()
    logging.basicConfig(level=logging.WARNING, format="%(asctime)s %(levelname).1s %(message)s")
    if "DISPLAY" not in os.environ and "WAYLAND_DISPLAY" not in os.environ:
        os.environ.setdefault("SDL_VIDEODRIVER", "dummy")  # pygame looks for a screen otherwise
    order = msgspec.json.decode(sys.stdin.buffer.read(), type=JobOrder)
    sys.path.append(str(Path.cwd()))  # for an environment of a module here, as for clients
    try:
        replies.send(_done(order, replies))
    except (SoulsAIError, OSError) as error:
        unplayable = isinstance(error, ConfigError | EnvironmentFault)
        replies.send(Reply(done=True, fault=_line(error), unplayable=unplayable))
    sys.stderr.flush()
    os._exit(0)  # the interpreter's own end would wait for the threads of a game


def _done(order: JobOrder, replies: _Replies) -> Reply:
    replies.beat()
    if isinstance(order, RecordOrder):
        from soulsai.client.recording import record

        recorded = record(
            Path(order.policy), order.environment, order.own, order.seeds, Path(order.folder),
            limits=order.video, first_index=order.first_index, beat=replies.beat,
        )  # fmt: skip
        return Reply(done=True, files=recorded.files, notice=recorded.notice)
    return _played(order, replies)


def _played(order: PlayOrder, replies: _Replies) -> Reply:
    from soulsai.client.evaluate import evaluate

    result = evaluate(
        Path(order.policy),
        episodes=order.episodes,
        seed=order.seed,
        environment=order.environment,
        own=order.own,
        first_index=order.first_index,
        limits=order.limits,
        trial=False,  # the run's own policy
        stopped=replies.beat,
    )
    return Reply(done=True, episodes=result.played, left_out=result.left_out)


def _line(error: Exception) -> str:
    if isinstance(error, OSError) and not isinstance(error, CheckpointError):
        return f"{error.filename or 'disk'}: {error.strerror or error}"
    return " ".join(str(error).split())[:500]


if __name__ == "__main__":
    with suppress(BrokenPipeError):  # the evaluator has gone
        sys.exit(main())
