"""One run as telemetry follows it: its record, its numbers, its figure and its best."""

import logging
import os
from collections.abc import Mapping, Sequence
from pathlib import Path

import msgspec

from soulsai.config.schema import TelemetrySettings
from soulsai.episode_metrics import Meter, for_run
from soulsai.errors import WireError
from soulsai.telemetry_node import best, figure, record
from soulsai.telemetry_node.seen import SeenEpisodes
from soulsai.telemetry_node.sinks import Beside
from soulsai.telemetry_node.statistics import Goal, Statistics
from soulsai.types import Answer, Episode, RunSpec, SaveBest
from soulsai.web.tables import Episodes

LARGEST = 1e100  # a number beyond is no measurement, and its square no number

_log = logging.getLogger(__name__)


class FollowedRun:
    """Takes in episodes of one run, and keeps its folder under ``saves`` up to date.

    Everything it knows is rebuilt from that folder, so it may die at any moment.
    """

    def __init__(self, saves: Path, spec: RunSpec, settings: TelemetrySettings) -> None:
        self.name = spec.run
        self._measure = Meter(for_run(settings.metrics, spec.environment.id))
        self._shown = self._measure.measures[0].name if self._measure.measures else ""
        judged = bool(self._shown) and self._measure.measures[0].operator not in ("", "/")
        self._drawn_as = f"{self._shown}, share" if judged else self._shown
        goal = Goal(settings.best_metric, smaller=settings.best_smaller)
        self.statistics = Statistics(settings.window, goal, self._shown)
        self.episodes = Episodes()  # what the page shows; other threads read it
        self.claim = best.Claim()
        self.refused = 0  # episodes whose numbers make no sense
        self.repeated = 0  # that were told once more, and not counted again
        self._seen = SeenEpisodes()
        self._folder = _folder(saves, spec.run)
        self._title = f"{spec.run}\n{spec.algorithm} on {spec.environment.id}"
        self._settings = settings
        self._record = record.Record(self._folder, self._replay, 1e6 * settings.record_mb)
        self._drawn = 0  # episodes in the last figure
        self._painter = figure.Painter(self._folder / figure.NAME)
        self._read = self._record.position
        self._restore_best()
        self.beside = Beside(settings, spec, self._folder)
        self._written = self.claim.file()

    def __repr__(self) -> str:
        numbers = self.statistics
        return f"<Run {self.name} episodes={numbers.episodes} position={self._record.position}>"

    @property
    def position(self) -> str:
        """The id of the last episode read."""
        return self._read

    def take(self, episodes: Sequence[tuple[str, Episode]], *, gap: bool) -> None:
        """Record new episodes, then count them; an ``OSError`` of the disk leaves all as it was."""
        last = record.order(self.position)
        fresh = [(id, episode) for id, episode in episodes if record.order(id) > last]
        sound = [(id, episode) for id, episode in fresh if _sound(episode)]
        new = self._new(sound)
        measured = [self._measure(episode) for _, episode in new]
        self._record.append(new, measured, gap=gap)
        self.refused += len(fresh) - len(sound)
        self.repeated += len(sound) - len(new)
        for (_, episode), numbers in zip(new, measured, strict=True):
            self._take(episode, numbers)
        self.beside.took([episode for _, episode in new], measured)
        self._read = max(self._read, *(id for id, _ in fresh), key=record.order)

    def show(self) -> None:
        """Write ``best.json`` if it changed; begin a drawing if one is due and does not wait."""
        if self.claim.file() != self._written:
            self._write_best()
        new = self.statistics.episodes - self._drawn
        if new >= self._settings.figure_every and self._painter.ready():
            self._drawn = self.statistics.episodes
            self._painter.draw(self.snapshot())

    def due(self, now: float) -> SaveBest | None:
        """Return what to ask the training node for now, if anything."""
        return self.claim.due(now)

    def answered(self, answer: Answer | None, now: float) -> None:
        """Take note of what the training node said to that, ``None`` for nothing."""
        if answer is None:
            self.claim.unanswered(now)
        else:
            self.claim.answered(answer.done, answer.message, now)

    def snapshot(self) -> figure.Snapshot:
        """Return what a figure of now needs."""
        numbers = self.statistics
        counts = f"{numbers.episodes:,} episodes · {numbers.env_steps:,} env steps"
        return figure.Snapshot(
            title=f"{self._title} · {counts}",
            window=self._settings.window,
            goal=self._settings.best_metric,
            shown=self._drawn_as,
            exploring=numbers.exploring_history.rows(),
            greedy=numbers.greedy_history.rows(),
            best=numbers.best,
        )

    def close(self) -> None:
        """Draw the last figure and make the record durable."""
        self.show()
        self.beside.close()
        self._painter.close(self.snapshot() if self.statistics.episodes else None)
        self._record.close()

    def _new(self, episodes: Sequence[tuple[str, Episode]]) -> list[tuple[str, Episode]]:
        """Return those that are not in the record; of two that are the same, the first."""
        among = SeenEpisodes()
        return [
            (id, episode)
            for id, episode in episodes
            if not self._seen.holds(episode) and among.add(episode)
        ]

    def _replay(self, episode: Episode) -> None:
        self._take(episode, self._measure(episode))

    def _take(self, episode: Episode, measured: Mapping[str, float]) -> None:
        if not self._seen.add(episode):  # in a record of before repetitions were known
            return
        self.episodes.add(episode, measured)
        if self.statistics.add(episode, measured) and self.statistics.best:
            self.claim.offer(self.statistics.best)

    def _restore_best(self) -> None:
        try:
            data = (self._folder / best.NAME).read_bytes()
            self.claim.restore(msgspec.json.decode(data, type=best.BestFile))
        except FileNotFoundError:
            pass
        except msgspec.MsgspecError as error:
            _log.warning("best.json unreadable, asking again path=%s error=%s", self._folder, error)

    def _write_best(self) -> None:
        file = self.claim.file()
        if file is None:
            return
        path = self._folder / best.NAME
        unfinished = path.with_name(f".{path.name}.part")
        unfinished.write_bytes(msgspec.json.format(msgspec.json.encode(file), indent=2) + b"\n")
        os.replace(unfinished, path)
        self._written = file


def _folder(saves: Path, run: str) -> Path:
    if not run or Path(run).name != run or run in (".", ".."):
        raise WireError(f"the server names a run {run!r}, which cannot be a folder")
    return saves / run


def _sound(episode: Episode) -> bool:
    numbers = (episode.reward, episode.seconds, episode.epsilon, episode.time)
    return all(abs(number) < LARGEST for number in (*numbers, *episode.info.values()))
