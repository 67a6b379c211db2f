"""The telemetry node: record episodes, draw figures, and request a save of the best weights."""

import logging
import math
import random
import time
from collections import deque
from collections.abc import Callable, Iterable, Mapping
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path

from soulsai.config.schema import Config
from soulsai.errors import AccessDenied, NoRun, SoulsAIError, Unreachable, WireError
from soulsai.evaluations.record import EvaluationLine
from soulsai.process import MemoryRelease
from soulsai.prometheus import Family
from soulsai.telemetry_node import record
from soulsai.telemetry_node.evaluator_watch import (
    EvaluatorWatch,
    best_text,
    evaluation_families,
    regression_text,
)
from soulsai.telemetry_node.run import FollowedRun
from soulsai.telemetry_node.sinks import check_sinks
from soulsai.types import Answer, Evaluate, Event, ReturnTo, SaveBest
from soulsai.web.commands import Enroller
from soulsai.web.journal import Note
from soulsai.web.run_store import Live
from soulsai.web.watching import WatcherThread
from soulsai.wire.protocols import TelemetryWire
from soulsai.wire.redis.roles import connect_telemetry
from soulsai.wire.secrets import server_for

TURN = 0.25  # seconds that one read waits; also the delay of a stop
LOOK = 1.0  # seconds between two checks of the published run while no episodes arrive
ASK = 2.0  # seconds to wait for an answer to SaveBest; episodes wait in the stream meanwhile
LAST_ASK = 1.0  # the same during a stop
DRAIN = 3.0  # longest time in seconds for the remaining episodes during a stop
REQUEST_REST = 10.0  # seconds between two requests for an evaluation by clients
FIRST_PAUSE, LONGEST_PAUSE = 0.1, 10.0

_log = logging.getLogger(__name__)


def serve(
    config: Config,
    wire: TelemetryWire,
    *,
    stopped: Callable[[], bool],
    connect: Callable[[], TelemetryWire] | None = None,
    enroller: Enroller | None = None,
) -> None:
    """Follow the published run, and every later run under its name, until stopped.

    Args:
        config: All settings.
        wire: The connection for episodes.
        stopped: Whether to end; called several times a second.
        connect: Opens more connections for the page; by default to the configured server.
        enroller: Enrolls clients from the page, if this node may do that.

    Raises:
        ConfigError: A configured sink is not installed.
    """
    check_sinks(config.telemetry)
    node = TelemetryNode(config, wire)
    pause = RetryPause(random.Random())
    try:
        page, ring = _page(config, node, connect, enroller)
        with page:
            while not stopped():
                try:
                    if node.turn(TURN):
                        ring()
                    node.ask(ASK)
                    pause.over()
                except (NoRun, Unreachable, OSError) as error:
                    pause.wait(error, stopped)
            node.finish()
    finally:
        node.close()


class TelemetryNode:
    """Read episodes from the end of the record on, and request a save of the best weights."""

    def __init__(
        self,
        config: Config,
        wire: TelemetryWire,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.run: FollowedRun | None = None
        self._config = config
        self._wire = wire
        self._clock = clock
        self._looked = 0.0
        self._evaluator_watch = EvaluatorWatch()
        self._requested = ""  # the model that clients were asked to play
        self._request_due = -math.inf
        self._check_gap = True
        self._memory = MemoryRelease()
        # Clients to purge, since Unix seconds; an empty name: forget the best
        self._requests: deque[tuple[str, float]] = deque(maxlen=4096)

    def __repr__(self) -> str:
        return f"<TelemetryNode {self.run or 'without a run'}>"

    def live(self) -> Live | None:
        """Return the followed run; thread-safe."""
        run = self.run
        return Live(run.name, run.episodes) if run else None

    def families(self) -> Iterable[Family]:
        """Return the node's Prometheus metrics beside the page's; thread-safe."""
        run = self.run
        if run is None:
            return ()
        refused, repeated = float(run.refused), float(run.repeated)
        return (
            Family("telemetry_episodes_refused", "counter", "Not recorded.", refused),
            Family("telemetry_episodes_repeated", "counter", "Received again.", repeated),
            *evaluation_families(run.evaluations, run.evaluator(), time.time()),
            *run.sinks.families(),
        )

    def noted(self, name: str, note: Note) -> None:
        """Pass a note of a run to the sinks; thread-safe."""
        run = self.run
        if run is not None and run.name == name:
            run.sinks.note(note)

    def sampled(self, name: str, row: Mapping[str, float]) -> None:
        """Pass a training sample of a run to the sinks; thread-safe."""
        run = self.run
        if run is not None and run.name == name:
            run.sinks.sample(row)

    def purged(self, client: str, since: float = 0.0) -> None:
        """Find the best anew without a client's episodes, in the next turn; thread-safe.

        Args:
            client: Its name.
            since: The time of the purge in Unix seconds, if it may be known already.
        """
        self._requests.append((client, since))

    def forget_best(self) -> str:
        """Forget the best average in the next turn, and return a confirmation; thread-safe."""
        self._requests.append(("", 0.0))
        return "the best average is found anew among the episodes from now on"

    def turn(self, timeout: float) -> int:
        """Record the episodes of the next ``timeout`` seconds and return their number.

        Raises:
            NoRun: No run is published.
            Unreachable: The server is away.
            OSError: The disk is full. After each of these, the same call may succeed later, and
                no episode is lost.
        """
        run = self.run or self._open()
        gap = self._check_gap and self._has_gap(run)
        self._check_gap = True  # unless the read succeeds
        episodes = self._wire.episodes(run.position, timeout)
        if self._moved(run, bool(episodes)):
            return 0
        if episodes:
            run.take(episodes, gap=gap)
        self._check_gap = False
        while self._requests:
            client, since = self._requests.popleft()
            if client:
                run.purge(client, since)
            else:
                run.forget_best()
        self._follow_evaluator(run)
        run.show()
        self._memory.look(self._clock())
        return len(episodes)

    def _follow_evaluator(self, run: FollowedRun) -> None:
        """Announce what the evaluator has found, and return to the best model where it is told."""
        for event in self._evaluator_watch.news(run.evaluator(), time.time()):
            self._wire.announce(event)
        self._ask_clients(run)
        for line in run.evaluated():
            best = run.evaluations.best
            if not line.regressed or best is None:
                continue
            self._wire.announce(Event("regression", regression_text(line, best)))
            if self._config.training.rollback_on_regression:
                self._return_to(best, line)

    def _ask_clients(self, run: FollowedRun) -> None:
        """Let clients play the version that the evaluator cannot; ask until there is an answer."""
        state, now = run.evaluator(), self._clock()
        if state is None or not state.request or state.request == self._requested:
            return
        if now < self._request_due:
            return
        self._request_due = now + REQUEST_REST
        answer = self._command(Evaluate(state.generation, state.version, state.episodes), ASK)
        if answer is not None:
            self._requested = state.request  # also one that is refused: that does not change
            self._wire.announce(Event("evaluator", answer.message))

    def _return_to(self, best: EvaluationLine, line: EvaluationLine) -> None:
        if not best.is_checkpoint:
            text = f"no return to {best.model}: it is no checkpoint"
        else:
            reason = regression_text(line, best)
            answer = self._command(ReturnTo(best.model, reason), ASK)
            text = answer.message if answer else f"no answer to the return to {best.model}"
        self._wire.announce(Event("regression", text))

    def ask(self, timeout: float, *, last: bool = False) -> None:
        """Request a save of the best weights if one is due.

        Args:
            timeout: Seconds to wait for the answer.
            last: Whether to request at once any save that is still missing.
        """
        run, now = self.run, self._clock()
        request = run.tracker.due(math.inf if last else now) if run else None
        if run is None or request is None:
            return
        answer = self._command(request, timeout)
        if answer is None:
            run.tracker.unanswered(self._clock())
        else:
            run.tracker.answered(answer.done, answer.message, self._clock())
        run.show()
        if answer and answer.done and run.tracker.best:
            self._wire.announce(Event("best", best_text(run.tracker.best)))

    def finish(self) -> None:
        """Record the rest of the stream, and request the best a last time."""
        end = self._clock() + DRAIN
        try:
            while self.turn(0.0) and self._clock() < end:
                pass
            self.ask(LAST_ASK, last=True)
        except (NoRun, Unreachable, OSError) as error:
            _log.warning("stopping without the last episodes reason=%s", error)

    def close(self) -> None:
        """Draw the last figure and close the record."""
        if self.run:
            self.run.close()
            self.run = None

    def _open(self) -> FollowedRun:
        spec = self._wire.spec()
        saves = Path(self._config.run.saves)
        try:
            self.run = FollowedRun(saves, spec, self._config.telemetry)
        except OSError as error:
            raise SoulsAIError(f"{saves / spec.run}: cannot be written: {error.strerror}") from None
        self._looked = self._clock()
        self._check_gap = True
        _log.info("following run=%s from=%s", self.run.name, self.run.position)
        return self.run

    def _moved(self, run: FollowedRun, must_look: bool) -> bool:
        """Return whether another run is published; the last read may then belong to that run.

        The check follows each read: a run's episodes come only after its publication, so episodes
        that were read before the old name was confirmed belong to the old run.
        """
        if not must_look and self._clock() < self._looked + LOOK:
            return False
        self._looked = self._clock()
        if self._wire.spec().run == run.name:
            return False
        _log.info("another run is published; leaving run=%s", run.name)
        self.close()
        return True

    def _has_gap(self, run: FollowedRun) -> bool:
        """Return whether the stream no longer reaches back to the last recorded episode."""
        if run.position == record.FIRST:
            return False
        held = self._wire.episodes(record.FIRST, 0.0)
        gap = bool(held) and record.order(held[0][0]) > record.order(run.position)
        if gap:
            _log.warning("episodes missing run=%s after=%s", run.name, run.position)
        return gap

    def _command(self, request: SaveBest | ReturnTo | Evaluate, timeout: float) -> Answer | None:
        try:
            return self._wire.command(request, timeout)
        except (Unreachable, AccessDenied):
            raise
        except WireError as error:
            _log.warning("no answer to %s: %s", type(request).__name__, error)
            return None


def _page(
    config: Config,
    node: TelemetryNode,
    connect: Callable[[], TelemetryWire] | None,
    enroller: Enroller | None,
) -> tuple[AbstractContextManager[object], Callable[[], None]]:
    """Return the page, only its watcher, or nothing; and a function that wakes the readers."""
    if connect is None and not config.redis.url:
        return nullcontext(), _nothing
    redis, name = config.redis, config.run.name
    connect = connect or (lambda: connect_telemetry(server_for("telemetry_node", redis), name))
    if not config.web.enabled:
        return WatcherThread(Path(config.run.saves), node, connect, [node]), _nothing
    from soulsai.web.app import PageServer  # the import takes a second

    page = PageServer(config, node, connect, node.families, [node], enroller, node.forget_best)
    return page, page.ring


def _nothing() -> None: ...


class RetryPause:
    """Wait longer after each failure, by a random part, to spread the load on a server."""

    def __init__(
        self,
        rng: random.Random,
        clock: Callable[[], float] = time.monotonic,
        sleep: Callable[[float], None] = time.sleep,
    ) -> None:
        self._rng = rng
        self._clock = clock
        self._sleep = sleep
        self._longest = 0.0

    def over(self) -> None:
        """Reset after a success."""
        if self._longest:
            _log.info("recording again")
        self._longest = 0.0

    def wait(self, error: Exception, stopped: Callable[[], bool]) -> None:
        """Sleep until the pause is over or ``stopped()`` is true; log the first error."""
        if not self._longest:
            level = logging.INFO if isinstance(error, NoRun) else logging.WARNING
            _log.log(level, "waiting reason=%s", error)
        self._longest = min(max(2 * self._longest, FIRST_PAUSE), LONGEST_PAUSE)
        end = self._clock() + self._rng.uniform(FIRST_PAUSE / 2, self._longest)
        while not stopped() and (left := end - self._clock()) > 0:
            self._sleep(min(left, FIRST_PAUSE))
