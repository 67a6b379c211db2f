"""Copies of a run's numbers and news: TensorBoard, Weights & Biases, a webhook."""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from importlib.metadata import entry_points
from pathlib import Path
from typing import Any

from soulsai.config.schema import TelemetrySettings
from soulsai.errors import ConfigError
from soulsai.evaluations.record import EvaluationLine
from soulsai.prometheus import Family
from soulsai.telemetry_node.connectors import Connector, Point, Sink
from soulsai.telemetry_node.sinks.tensorboard import FOLDER, EventFile
from soulsai.telemetry_node.sinks.wandb import FOLDER as WANDB_FOLDER
from soulsai.telemetry_node.sinks.wandb import LAST, Beginning, WandB
from soulsai.telemetry_node.sinks.webhook import MOST, News, Webhook, address
from soulsai.types import Episode, RunSpec
from soulsai.web.journal import Note

GROUP = "soulsai.sinks"  # the entry points by which other packages add their sinks
MOST_NAMES = 64  # of infos


class InfoNames:
    """The names of infos that get curves: those of verified episodes, up to ``MOST_NAMES``.

    Anybody can claim episodes with other names in each.
    """

    def __init__(self) -> None:
        self._known: set[str] = set()

    def numbers(self, episode: Episode) -> dict[str, float]:
        """Return the numbers of an episode's info that get curves."""
        if episode.verified:
            new = [name for name in episode.info if name not in self._known]
            self._known.update(new[: MOST_NAMES - len(self._known)])
        return {name: x for name, x in episode.info.items() if name in self._known}


class Sinks:
    """All sinks of one run; no call blocks, and no failure reaches the record."""

    def __init__(self, settings: TelemetrySettings, spec: RunSpec, folder: Path) -> None:
        self.run = spec.run
        self._info = InfoNames()
        self._points: list[Connector[Point]] = []
        self._news: list[Connector[News]] = []
        if settings.tensorboard:
            self._points.append(Connector("tensorboard", EventFile(folder / FOLDER)))
        if settings.wandb:
            about = {"algorithm": spec.algorithm, "environment": spec.environment.id}
            place = str(folder / WANDB_FOLDER)
            beginning = Beginning(settings.wandb, spec.run, settings.wandb_mode, place, about)
            self._points.append(Connector("wandb", WandB(beginning), grace=LAST))
        for name, options in settings.sinks.items():
            self._points.append(Connector(name, _installed(name, folder, options)))
        if settings.webhook:
            self._news.append(Connector("webhook", Webhook(address(settings.webhook)), MOST))
        self._all: list[Connector[Any]] = [*self._points, *self._news]

    def episodes(
        self, episodes: Iterable[Episode], measured: Sequence[Mapping[str, float]]
    ) -> None:
        """Offer the numbers of recorded episodes, with the measures of each."""
        if not self._points:
            return
        for episode, numbers in zip(episodes, measured, strict=True):
            own = {"reward": episode.reward, "steps": float(episode.steps), **numbers}
            info = self._info.numbers(episode)
            values = {f"info_{name}" if name in own else name: x for name, x in info.items()} | own
            curves = {f"{episode.kind}/{name}": value for name, value in values.items()}
            self._offer(Point(episode.time, episode.env_steps, curves))

    def sample(self, row: Mapping[str, float]) -> None:
        """Offer one sample of the training, with the keys ``time`` and ``env_steps``."""
        axes = ("time", "env_steps")
        curves = {f"training/{name}": value for name, value in row.items() if name not in axes}
        self._offer(Point(row["time"], int(row["env_steps"]), curves))

    def evaluation(self, line: EvaluationLine) -> None:
        """Offer the numbers of an evaluation."""
        values = {
            "mean": line.mean, "low": line.low, "high": line.high, "iqm": line.iqm,
            "episodes": float(line.episodes), **line.metrics,
        }  # fmt: skip
        curves = {f"evaluation/{name}": value for name, value in values.items()}
        self._offer(Point(line.time, line.env_steps, curves))

    def video(self, line: EvaluationLine, video: Path) -> None:
        """Offer a recorded episode of a model that was evaluated."""
        self._offer(Point(line.time, line.env_steps, {}, str(video)))

    def note(self, note: Note) -> None:
        """Offer one note of the journal."""
        for connector in self._news:
            connector.offer(News(self.run, note.kind, note.text, note.time))

    def families(self) -> Iterator[Family]:
        """Yield the Prometheus metrics of the connectors."""
        if not self._all:
            return
        waiting = {one.name: float(one.waiting) for one in self._all}
        dropped = {one.name: float(one.dropped) for one in self._all}
        written = {one.name: float(one.written) for one in self._all}
        label = "connector"
        yield Family("connector_queue_items", "gauge", "Items that wait.", waiting, label)
        yield Family("connector_dropped", "counter", "Items of full queues.", dropped, label)
        yield Family("connector_written", "counter", "Items that arrived.", written, label)

    def close(self) -> None:
        """Give every sink some seconds for its remaining items."""
        for connector in self._all:
            connector.close()

    def _offer(self, point: Point) -> None:
        for connector in self._points:
            connector.offer(point)


def check_sinks(settings: TelemetrySettings) -> None:
    """Raise ``ConfigError`` if a sink of another package is not installed."""
    found = entry_points(group=GROUP).names
    for name in settings.sinks:
        if name not in found:
            there = ", ".join(sorted(found)) or "none"
            raise ConfigError(f"telemetry.sinks.{name}: not installed; installed are: {there}")


def _installed(name: str, folder: Path, options: Mapping[str, Any]) -> Sink[Point]:
    """Make the sink of another package for the run in ``folder``."""
    (entry,) = entry_points(group=GROUP, name=name)
    try:
        sink: Sink[Point] = entry.load()(folder, **options)
    except (TypeError, ValueError) as error:
        raise ConfigError(f"telemetry.sinks.{name}: {error}") from error
    return sink
