"""Whoever is told of a run beside its record: event files, Weights & Biases, a webhook."""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from soulsai.config.schema import TelemetrySettings
from soulsai.prometheus import Family
from soulsai.telemetry_node.connectors import Connector, Point
from soulsai.telemetry_node.sinks.tensorboard import FOLDER, EventFile
from soulsai.telemetry_node.sinks.wandb import FOLDER as WANDB_FOLDER
from soulsai.telemetry_node.sinks.wandb import LAST, Beginning, WandB
from soulsai.telemetry_node.sinks.webhook import MOST, News, Webhook, address
from soulsai.types import Episode, RunSpec
from soulsai.web.journal import Note


class Beside:
    """Tells of one run; nothing here waits, and nothing that fails here reaches the record."""

    def __init__(self, settings: TelemetrySettings, spec: RunSpec, folder: Path) -> None:
        self.run = spec.run
        self._all: list[Connector[Any]] = []
        self._points: list[Connector[Point]] = []
        self._news: list[Connector[News]] = []
        if settings.tensorboard:
            self._points.append(Connector("tensorboard", EventFile(folder / FOLDER)))
        if settings.wandb:
            about = {"algorithm": spec.algorithm, "environment": spec.environment.id}
            place = str(folder / WANDB_FOLDER)
            mode = settings.wandb_mode
            beginning = Beginning(settings.wandb, spec.run, mode, place, about)
            self._points.append(Connector("wandb", WandB(beginning), grace=LAST))
        if settings.webhook:
            self._news.append(Connector("webhook", Webhook(address(settings.webhook)), MOST))
        self._all += [*self._points, *self._news]

    def took(self, episodes: Iterable[Episode], measured: Sequence[Mapping[str, float]]) -> None:
        """Tell of episodes that were recorded, and of what was measured of each."""
        if not self._points:
            return
        for episode, numbers in zip(episodes, measured, strict=True):
            kind = "greedy" if episode.greedy else "exploring"
            values = {"reward": episode.reward, "steps": float(episode.steps)}
            values |= episode.info
            values |= numbers
            curves = {f"{kind}/{name}": value for name, value in values.items()}
            self._tell(Point(episode.time, episode.env_steps, curves))

    def sampled(self, row: Mapping[str, float]) -> None:
        """Tell of the training."""
        told = ("time", "env_steps")
        curves = {f"training/{name}": value for name, value in row.items() if name not in told}
        self._tell(Point(row["time"], int(row["env_steps"]), curves))

    def noted(self, note: Note) -> None:
        """Tell of something that happened."""
        for connector in self._news:
            connector.offer(News(self.run, note.kind, note.text, note.time))

    def families(self) -> Iterator[Family]:
        """Yield how the connectors are doing, for Prometheus."""
        every = {connector.name: connector for connector in self._all}
        if every:
            waiting = {name: float(one.waiting) for name, one in every.items()}
            dropped = {name: float(one.dropped) for name, one in every.items()}
            written = {name: float(one.written) for name, one in every.items()}
            label = "connector"
            yield Family("connector_queue_items", "gauge", "Waiting for it.", waiting, label)
            yield Family("connector_dropped", "counter", "Too much for it.", dropped, label)
            yield Family("connector_written", "counter", "Given to it.", written, label)

    def close(self) -> None:
        """Let all have what is left, for some seconds at most."""
        for connector in self._all:
            connector.close()

    def _tell(self, point: Point) -> None:
        for connector in self._points:
            connector.offer(point)
