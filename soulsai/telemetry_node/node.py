"""The telemetry node: episodes in; record, figure and "this was the best" out."""

import logging
import math
import random
import time
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from soulsai.config.schema import Config
from soulsai.errors import AccessDenied, NoRun, SoulsAIError, Unreachable, WireError
from soulsai.prometheus import Family
from soulsai.telemetry_node import record
from soulsai.telemetry_node.run import FollowedRun
from soulsai.types import Answer, Event, SaveBest
from soulsai.web.commands import Enroller
from soulsai.web.journal import Note
from soulsai.web.source import Live, NoPage
from soulsai.web.watching import Watching
from soulsai.wire.protocols import TelemetryWire
from soulsai.wire.redis.roles import connect_telemetry
from soulsai.wire.secrets import server_for

if TYPE_CHECKING:
    from soulsai.web.app import PageServer

TURN = 0.25  # seconds that one read waits; how soon a stop is noticed
LOOK = 1.0  # seconds between two looks at which run is published, while nothing comes
ASK = 2.0  # seconds to wait for an answer to SaveBest; the stream holds what comes meanwhile
LAST_ASK = 1.0  # the same, when stopping
DRAIN = 3.0  # seconds, at most, to read what is left at the end
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
    """Follow the published run, and every later one under its name, until stopped.

    The page has wires of its own, which ``connect`` makes; by default to the configured server. It
    lets clients in with ``enroller``, if there is one.
    """
    node = TelemetryNode(config, wire)
    pause = RetryPause(random.Random())
    try:
        with _page(config, node, connect, enroller) as page:
            while not stopped():
                try:
                    if node.turn(TURN):
                        page.ring()
                    node.ask(ASK)
                    pause.over()
                except (NoRun, Unreachable, OSError) as error:
                    pause.wait(error, stopped)
            node.finish()
    finally:
        node.close()


class TelemetryNode:
    """Reads episodes on from where its record ends, and asks for the best to be saved."""

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
        self._check_gap = True

    def __repr__(self) -> str:
        return f"<TelemetryNode {self.run or 'without a run'}>"

    def live(self) -> Live | None:
        """Return the run that is followed now; any thread may ask."""
        run = self.run
        return Live(run.name, run.episodes) if run else None

    def families(self) -> Iterable[Family]:
        """Return what Prometheus may know beside what the page knows; any thread may ask."""
        run = self.run
        if run is None:
            return ()
        refused, repeated = float(run.refused), float(run.repeated)
        return (
            Family("telemetry_episodes_refused", "counter", "Not recorded.", refused),
            Family("telemetry_episodes_repeated", "counter", "Told once more.", repeated),
            *run.beside.families(),
        )

    def noted(self, name: str, note: Note) -> None:
        """Pass on what happened in a run; any thread may tell."""
        run = self.run
        if run is not None and run.name == name:
            run.beside.noted(note)

    def sampled(self, name: str, row: Mapping[str, float]) -> None:
        """Pass on how a run is trained; any thread may tell."""
        run = self.run
        if run is not None and run.name == name:
            run.beside.sampled(row)

    def turn(self, timeout: float) -> int:
        """Take in what came within ``timeout`` seconds, and show it.

        Returns how many episodes came. Raises ``NoRun``, ``Unreachable`` or, with a full disk,
        ``OSError``; the same call may succeed later, and nothing is lost.
        """
        run = self.run or self._open()
        gap = self._check_gap and self._has_gap(run)
        self._check_gap = True  # unless all goes well
        episodes = self._wire.episodes(run.position, timeout)
        if self._moved(run, bool(episodes)):
            return 0
        if episodes:
            run.take(episodes, gap=gap)
        self._check_gap = False
        run.show()
        return len(episodes)

    def ask(self, timeout: float, *, last: bool = False) -> None:
        """Ask for the best to be saved, if that is due, or not yet done at the ``last`` chance."""
        run, now = self.run, self._clock()
        request = run.due(math.inf if last else now) if run else None
        if run is None or request is None:
            return
        answer = self._command(request, timeout)
        run.answered(answer, self._clock())
        run.show()
        if answer and answer.done:
            text = f"average reward {request.score:.4g} with version {request.version}"
            self._wire.announce(Event("best", text))

    def finish(self) -> None:
        """Take in what the stream still holds, and ask a last time for the best."""
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
        """Whether another run is published by now; then what was just read may be of that one.

        Looked at after every read, because a run's episodes come only after it is published: what
        was read before the old name was seen is of the old run.
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
        """Whether the stream no longer reaches back to the last episode of the record."""
        if run.position == record.FIRST:
            return False
        held = self._wire.episodes(record.FIRST, 0.0)
        gap = bool(held) and record.order(held[0][0]) > record.order(run.position)
        if gap:
            _log.warning("episodes missing run=%s after=%s", run.name, run.position)
        return gap

    def _command(self, request: SaveBest, timeout: float) -> Answer | None:
        try:
            return self._wire.command(request, timeout)
        except (Unreachable, AccessDenied):
            raise
        except WireError as error:
            _log.warning("no answer to save_best version=%d: %s", request.version, error)
            return None


def _page(
    config: Config,
    node: TelemetryNode,
    connect: Callable[[], TelemetryWire] | None,
    enroller: Enroller | None,
) -> "PageServer | Watching | NoPage":
    """Return what shows the node to people; nothing, if there is no server to watch."""
    if connect is None and not config.redis.url:
        return NoPage()
    connect = connect or (lambda: _connected(config))
    if not config.web.enabled:
        return Watching(Path(config.run.saves), node, connect, [node])
    from soulsai.web.app import PageServer  # takes a second, so only whoever serves it pays

    return PageServer(config, node, connect, node.families, [node], enroller)


def _connected(config: Config) -> TelemetryWire:
    return connect_telemetry(server_for("telemetry_node", config.redis), config.run.name)


class RetryPause:
    """Waits longer after each failure, by a random part, so that nobody storms a server."""

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
        """Take note that it works again."""
        if self._longest:
            _log.info("goes on")
        self._longest = 0.0

    def wait(self, error: Exception, stopped: Callable[[], bool]) -> None:
        """Sleep, but not on once ``stopped``."""
        if not self._longest:
            _log.warning("waiting reason=%s", error)
        self._longest = min(max(2 * self._longest, FIRST_PAUSE), LONGEST_PAUSE)
        end = self._clock() + self._rng.uniform(FIRST_PAUSE / 2, self._longest)
        while not stopped() and (left := end - self._clock()) > 0:
            self._sleep(min(left, FIRST_PAUSE))
