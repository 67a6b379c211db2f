"""One run in the telemetry node: its record, statistics, figure and best model."""

import logging
import os
from collections import OrderedDict
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TypeVar

import msgspec
from msgspec import Struct

from soulsai.config.schema import TelemetrySettings
from soulsai.episode_metrics import Meter, for_run
from soulsai.errors import WireError
from soulsai.evaluations.record import (
    FOLDER,
    EvaluationLine,
    Evaluations,
    EvaluatorState,
    read_state,
)
from soulsai.telemetry_node import best, painter, record
from soulsai.telemetry_node.sinks import Sinks
from soulsai.telemetry_node.statistics import Best, Goal, Statistics
from soulsai.types import Episode, RunSpec
from soulsai.web.journal import parts
from soulsai.web.tables import Episodes

LARGEST = 1e100  # larger values are no measurement, and their squares overflow
FORGOTTEN = "forgotten.json"
PAGE = 256  # episodes of one client's epoch per integer: an episode costs one bit
MOST_PAGES = 2**15  # about 10 MB

T = TypeVar("T")
_log = logging.getLogger(__name__)


class EpisodeSet:
    """The known episodes of a run, by client, epoch and number.

    A training node that dies after it has sent an episode, and before a checkpoint covers it, is
    followed by one that sends it again. An episode without an epoch is never known. Beyond
    ``MOST_PAGES``, the client with most pages loses its oldest: numbers drawn at random, each of
    which takes a page, cost nobody else anything.
    """

    def __init__(self) -> None:
        self._clients: dict[str, OrderedDict[tuple[int, int], int]] = {}
        self._count = 0  # of all pages

    def __contains__(self, episode: Episode) -> bool:
        page, bit = self._place(episode)
        pages = self._clients.get(episode.client)
        return bool(episode.epoch and pages and pages.get(page, 0) & bit)

    def add(self, episode: Episode) -> bool:
        """Add an episode, and return whether it is new."""
        if not episode.epoch:
            return True
        page, bit = self._place(episode)
        pages = self._clients.setdefault(episode.client, OrderedDict())
        known = pages.get(page)
        pages[page] = (known or 0) | bit
        pages.move_to_end(page)
        self._count += known is None
        if self._count > MOST_PAGES:
            self._drop_oldest()
        return not (known or 0) & bit

    def _drop_oldest(self) -> None:
        client = max(self._clients, key=lambda name: len(self._clients[name]))
        self._clients[client].popitem(last=False)
        self._count -= 1
        if not self._clients[client]:
            del self._clients[client]

    def _place(self, episode: Episode) -> tuple[tuple[int, int], int]:
        page, place = divmod(episode.episode, PAGE)
        return (episode.epoch, page), 1 << place


class Forgotten(Struct, frozen=True):
    """``forgotten.json``: recorded episodes that do not count for the best."""

    position: str = record.FIRST  # all episodes up to this stream id
    clients: dict[str, str] = {}  # those of a client, up to this stream id

    def covers(self, id: str, client: str) -> bool:
        """Return whether an episode does not count for the best."""
        if self.position == record.FIRST and client not in self.clients:
            return False
        limit = max(self.position, self.clients.get(client, record.FIRST), key=record.order)
        return record.order(id) <= record.order(limit)


class FollowedRun:
    """Record the episodes of one run and keep its folder under ``saves`` up to date.

    All state is rebuilt from that folder, so the process may die at any moment.
    """

    def __init__(self, saves: Path, spec: RunSpec, settings: TelemetrySettings) -> None:
        """Open the run's folder and replay its record.

        Args:
            saves: The folder of all runs.
            spec: The published run.
            settings: The section ``telemetry`` of the settings.

        Raises:
            WireError: The run's name is no folder name.
            SoulsAIError: Another process writes the record.
        """
        if not spec.run or Path(spec.run).name != spec.run or spec.run in (".", ".."):
            raise WireError(f"the server names a run {spec.run!r}, which cannot be a folder")
        self.name = spec.run
        self._meter = Meter(for_run(settings.metrics, spec.environment.id))
        self._shown = self._meter.measures[0].name if self._meter.measures else ""
        judged = bool(self._shown) and self._meter.measures[0].operator not in ("", "/")
        self._shown_label = f"{self._shown}, share" if judged else self._shown
        self._goal = Goal(settings.best_metric, smaller=settings.best_smaller)
        self.statistics = Statistics(settings.window, self._goal, self._shown)
        self.episodes = Episodes()  # read by the page's threads
        self.tracker = best.BestTracker()
        self.refused = 0  # episodes with impossible numbers
        self.repeated = 0  # episodes that arrived again and are not counted twice
        self._known = EpisodeSet()
        self._folder = saves / spec.run
        self._forgotten = _read_json(self._folder / FORGOTTEN, Forgotten) or Forgotten()
        self._title = f"{spec.run}\n{spec.algorithm} on {spec.environment.id}"
        self._settings = settings
        self.evaluations = Evaluations(self._folder)  # none yet, while the record is read
        self._record = record.Record(self._folder, self._replay, 1e6 * settings.record_mb)
        self.evaluations.refresh()
        self._offer_evaluated()
        self._drawn = 0  # episodes in the last figure
        self._painter = painter.Painter(self._folder / painter.NAME)
        self.position = self._record.position  # id of the last episode that was read
        self._restore_best()
        self.sinks = Sinks(settings, spec, self._folder)
        state = self.evaluator()
        self._videos = set(state.finished if state else ())  # models whose videos were offered
        self._written = self.tracker.file()

    def __repr__(self) -> str:
        numbers = self.statistics
        return f"<Run {self.name} episodes={numbers.episodes} position={self._record.position}>"

    def take(self, episodes: Sequence[tuple[str, Episode]], *, gap: bool) -> None:
        """Record new episodes, then count them; after an ``OSError`` nothing has changed.

        Args:
            episodes: Stream id and episode, in the order of the stream.
            gap: Whether the stream has lost episodes before the first one.
        """
        last = record.order(self.position)
        fresh = [(id, episode) for id, episode in episodes if record.order(id) > last]
        sound = [(id, episode) for id, episode in fresh if _sound(episode)]
        batch = EpisodeSet()
        new = [
            (id, episode)
            for id, episode in sound
            if episode not in self._known and batch.add(episode)
        ]
        measured = [self._meter(episode) for _, episode in new]
        self._record.append(new, measured, gap=gap)
        self.refused += len(fresh) - len(sound)
        self.repeated += len(sound) - len(new)
        for (id, episode), numbers in zip(new, measured, strict=True):
            self._count(id, episode, numbers)
        self.sinks.episodes([episode for _, episode in new], measured)
        self.position = max([self.position, *(id for id, _ in fresh)], key=record.order)

    def evaluated(self) -> list[EvaluationLine]:
        """Return the evaluations since the last call; the best of them is the best model."""
        lines = self.evaluations.refresh()
        if lines:
            self._offer_evaluated()
            for line in lines:
                self.sinks.evaluation(line)
        self._offer_videos()
        return lines

    def _offer_videos(self) -> None:
        """Offer the first recorded episode of each model that the evaluator is done with, once."""
        state = self.evaluator()
        finished = set(state.finished if state else ())
        new, self._videos = finished - self._videos, finished
        for model in sorted(new):
            line = self.evaluations.models.get(model)
            videos = sorted((self._folder / FOLDER / model).glob("*.webm"))
            if line is not None and line.is_best and videos:
                self.sinks.video(line, videos[0])

    def evaluator(self) -> EvaluatorState | None:
        """Return the last word of the evaluator, if there is one."""
        return read_state(self._folder)

    def show(self) -> None:
        """Write ``best.json`` if it changed, and start a drawing if one is due."""
        if self.tracker.file() != self._written:
            self._write_best()
        new = self.statistics.episodes - self._drawn
        if new >= self._settings.figure_every and self._painter.ready():
            self._drawn = self.statistics.episodes
            self._painter.draw(self.snapshot())

    def snapshot(self) -> painter.Snapshot:
        """Return the data of a figure."""
        numbers = self.statistics
        counts = f"{numbers.episodes:,} episodes · {numbers.env_steps:,} env steps"
        return painter.Snapshot(
            title=f"{self._title} · {counts}",
            window=self._settings.window,
            goal=self._settings.best_metric,
            shown=self._shown_label,
            curves={kind: history.rows() for kind, history in numbers.histories.items()},
            best=numbers.best,
        )

    def close(self) -> None:
        """Draw the last figure and make the record durable."""
        self.show()
        self.sinks.close()
        self._painter.close(self.snapshot() if self.statistics.episodes else None)
        self._record.close()

    def purge(self, client: str, since: float = 0.0) -> None:
        """Find the best anew without the recorded episodes of a client.

        Args:
            client: Its name.
            since: The time of the purge in Unix seconds; nothing is done if it is known already.
        """
        at = f"{int(1000 * since)}-0"  # positions are times of the server's clock
        known = self._forgotten.clients.get(client)
        if since and known is not None and record.order(known) >= record.order(at):
            return
        clients = self._forgotten.clients | {client: max(self.position, at, key=record.order)}
        self._forget(msgspec.structs.replace(self._forgotten, clients=clients))

    def forget_best(self) -> None:
        """Find the best anew among the episodes from now on."""
        self._forget(Forgotten(position=self.position))

    def _forget(self, forgotten: Forgotten) -> None:
        _write_json(self._folder / FORGOTTEN, forgotten)
        _log.info("best is judged anew run=%s", self.name)
        self._forgotten = forgotten
        self._meter = Meter(self._meter.measures)
        self.statistics = Statistics(self._settings.window, self._goal, self._shown)
        self.tracker = best.BestTracker()
        known = EpisodeSet()
        for path in parts(self._folder):
            for line in record.read(path):
                if known.add(line):
                    self._rank(line.id, line, self._meter(line))
        self._offer_evaluated()
        if self.tracker.file() is None:
            (self._folder / best.NAME).unlink(missing_ok=True)

    def _replay(self, line: record.RecordLine) -> None:
        self._count(line.id, line, self._meter(line))

    def _count(self, id: str, episode: Episode, measured: Mapping[str, float]) -> None:
        if not self._known.add(episode):  # records of older versions hold repetitions
            return
        self.episodes.add(episode, measured)
        self._rank(id, episode, measured)

    def _rank(self, id: str, episode: Episode, measured: Mapping[str, float]) -> None:
        alone = episode.kind != "intervened"
        ranked = episode.verified and alone and not self._forgotten.covers(id, episode.client)
        is_best = self.statistics.add(episode, measured, ranked=ranked)
        if is_best and self.statistics.best and not self._is_evaluated:
            self.tracker.offer(self.statistics.best)

    @property
    def _is_evaluated(self) -> bool:
        """Whether evaluations choose the best model, instead of a moving average."""
        best = self.evaluations.best
        forgotten = record.order(self._forgotten.position)[0] / 1000
        return self.evaluations.rules and best is not None and best.time > forgotten

    def _offer_evaluated(self) -> None:
        line = self.evaluations.best
        if line is None or not self._is_evaluated:
            return
        known = self.tracker.best
        if known is None or (known.checkpoint, known.score) != (line.model, line.mean):
            self.tracker.offer(as_best(line))

    def _restore_best(self) -> None:
        file = _read_json(self._folder / best.NAME, best.BestFile)
        if file is not None:
            self.tracker.restore(file)

    def _write_best(self) -> None:
        file = self.tracker.file()
        if file is not None:
            _write_json(self._folder / best.NAME, file)
        self._written = file


def as_best(line: EvaluationLine) -> Best:
    """Return an evaluation as the best of a run."""
    return Best(
        score=line.mean,
        generation=line.generation,
        version=line.version,
        env_steps=line.env_steps,
        episodes=line.episodes,
        greedy=True,
        time=line.time,
        low=line.low,
        high=line.high,
        evaluated=line.episodes,
        checkpoint=line.model,
    )


def _read_json(path: Path, type: type[T]) -> T | None:
    try:
        return msgspec.json.decode(path.read_bytes(), type=type)
    except FileNotFoundError:
        return None
    except msgspec.MsgspecError as error:
        _log.warning("%s unreadable and ignored error=%s", path, error)
        return None


def _write_json(path: Path, value: Struct) -> None:
    unfinished = path.with_name(f".{path.name}.part")
    unfinished.write_bytes(msgspec.json.format(msgspec.json.encode(value), indent=2) + b"\n")
    os.replace(unfinished, path)


def _sound(episode: Episode) -> bool:
    numbers = (episode.reward, episode.seconds, episode.epsilon, episode.time)
    return all(abs(number) < LARGEST for number in (*numbers, *episode.info.values()))
