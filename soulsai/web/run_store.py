"""All runs on disk, and the one that is followed now: whatever the page shows of them."""

import threading
from collections import OrderedDict
from collections.abc import Mapping
from datetime import datetime
from pathlib import Path
from typing import Any

import msgspec

from soulsai.episode_metrics import Measure, Meter, for_run
from soulsai.errors import ConfigError
from soulsai.types import Status
from soulsai.web.journal import Journal, RecordReader
from soulsai.web.schemas import RunRow, iso
from soulsai.web.source import Source
from soulsai.web.tables import Episodes

CONFIG, STATUS, BEST = "config.json", "status.json", "best.json"
LATEST = "latest"
KEPT = 8  # runs, beside the live one, whose episodes are kept in memory


class UnknownRun(LookupError):
    """There is no such run."""


class Folders:
    """Answers for every run below ``saves``; may be asked by any thread."""

    def __init__(self, saves: Path, source: Source) -> None:
        self._saves = saves
        self._source = source
        self._lock = threading.Lock()
        self._records: OrderedDict[str, RecordReader] = OrderedDict()
        self._journals: OrderedDict[str, Journal] = OrderedDict()
        self._rows: dict[str, tuple[object, RunRow]] = {}  # with what they were made of
        self._live_journal: tuple[str, Journal] | None = None

    @property
    def live(self) -> str:
        """The run that is followed now; empty if there is none."""
        live = self._source.live()
        return live.run if live else ""

    def names(self) -> list[str]:
        """Return all runs, newest first."""
        found = {path.parent.name for path in self._saves.glob(f"*/{CONFIG}")}
        return sorted(found | ({self.live} - {""}), reverse=True)

    def find(self, run: str) -> str:
        """Return the run of that name, or the newest; raise ``UnknownRun`` if there is none."""
        live = self.live
        if live and run in (live, LATEST):
            return live
        if run == LATEST:
            names = self.names()
            if not names:
                raise UnknownRun("there is no run yet")
            return names[0]
        if not self._is_run(run):
            raise UnknownRun(f"there is no run {run[:100]!r}")
        return run

    def path(self, run: str) -> Path:
        """Return the folder of a run that was found."""
        return self._saves / run

    def episodes(self, run: str) -> Episodes:
        """Return the episodes of a run that was found."""
        live = self._source.live()
        if live and live.run == run:
            return live.episodes
        with self._lock:
            reader = self._records.get(run)
            if reader is None:
                reader = RecordReader(self.path(run), lambda: Meter(self.measures(run)))
                self._records[run] = reader
            self._records.move_to_end(run)
            while len(self._records) > KEPT:
                self._records.popitem(last=False)
            return reader.read()

    def journal(self, run: str) -> Journal:
        """Return the samples and notes of a run that was found."""
        with self._lock:
            if self._live_journal and self._live_journal[0] == run:
                return self._live_journal[1]
            if run not in self._journals:
                self._journals[run] = Journal(self.path(run))
                while len(self._journals) > KEPT:
                    self._journals.popitem(last=False)
                return self._journals[run]
            self._journals.move_to_end(run)
            self._journals[run].refresh()
            return self._journals[run]

    def write_journal(self, run: str) -> Journal | None:
        """Return the journal to write, if the run's folder is there; one thread may do that."""
        with self._lock:
            if self._live_journal and self._live_journal[0] == run:
                return self._live_journal[1]
        if not self._is_run(run) and not (run == self.live and self.path(run).is_dir()):
            return None
        journal = Journal(self.path(run))
        with self._lock:
            self._live_journal = run, journal
            self._journals.pop(run, None)
        return journal

    def config(self, run: str) -> dict[str, Any]:
        """Return the settings of a run that was found, as they are on disk."""
        return _read(self.path(run) / CONFIG)

    def measures(self, run: str) -> tuple[Measure, ...]:
        """Return what is measured of each episode of a run that was found."""
        config = self.config(run)
        telemetry = config.get("telemetry")
        settings = telemetry.get("metrics") if isinstance(telemetry, dict) else None
        texts = settings if isinstance(settings, dict) else {}
        try:
            return for_run(
                {str(name): str(text) for name, text in texts.items()},
                _text(config, "environment", "id"),
            )
        except ConfigError:  # of another version of this software
            return ()

    def best(self, run: str) -> dict[str, Any]:
        """Return what ``best.json`` says of a run that was found, if anything."""
        return _read(self.path(run) / BEST)

    def status(self, run: str) -> Status | None:
        """Return the last status in the folder of a run that was found."""
        try:
            return msgspec.json.decode((self.path(run) / STATUS).read_bytes(), type=Status)
        except (OSError, msgspec.MsgspecError, UnicodeDecodeError):
            return None

    def row(self, run: str, now: Status | None) -> RunRow:
        """Return a run in a few words; ``now`` is its status if it is being trained."""
        stamps = tuple(_stamp(self.path(run) / name) for name in (CONFIG, STATUS, BEST))
        kept = self._rows.get(run)
        if kept and kept[0] == stamps and now is None and run != self.live:
            return kept[1]
        row = self._row(run, now)
        if not row.live:
            self._rows[run] = stamps, row
        return row

    def _row(self, run: str, now: Status | None) -> RunRow:
        config, status = self.config(run), now or self.status(run)
        live = run == self.live
        score = self.best(run).get("score")
        recorded = self.episodes(run).table.last if live else 0
        return RunRow(
            run=run,
            live=live,
            phase=status.phase if status else "",
            algorithm=status.algorithm if status else _text(config, "algorithm", "name"),
            environment=status.environment if status else _text(config, "environment", "id"),
            seed=_seed(config),
            started=self._started(run),
            env_steps=status.env_steps if status else 0,
            max_env_steps=status.max_env_steps if status else 0,
            updates=status.updates if status else 0,
            episodes=max(recorded, status.episodes if status else 0),
            seconds=status.seconds if status else 0.0,
            reward_mean=status.reward_mean if status else None,
            best=float(score) if isinstance(score, int | float) else None,
        )

    def _is_run(self, run: str) -> bool:
        """Whether this is the name of a run, and of nothing else."""
        if Path(run).name != run or run in ("", ".", ".."):
            return False
        try:
            return (self._saves / run / CONFIG).is_file()
        except (OSError, ValueError):  # too long, or no name at all
            return False

    def _started(self, run: str) -> str:
        """Return when a run began: its name says so, or else its settings' age."""
        try:
            return iso(datetime.strptime(run[:19], "%Y-%m-%d_%H-%M-%S").timestamp())
        except ValueError:
            pass
        try:
            return iso((self.path(run) / CONFIG).stat().st_mtime)
        except OSError:
            return ""


def _stamp(path: Path) -> tuple[int, int] | None:
    try:
        state = path.stat()
    except OSError:
        return None
    return state.st_mtime_ns, state.st_size


def _read(path: Path) -> dict[str, Any]:
    try:
        return msgspec.json.decode(path.read_bytes(), type=dict[str, Any])
    except (OSError, msgspec.MsgspecError, UnicodeDecodeError, RecursionError):
        return {}


def _text(config: Mapping[str, Any], section: str, key: str) -> str:
    entries = config.get(section)
    return str(entries.get(key, "")) if isinstance(entries, dict) else ""


def _seed(config: Mapping[str, Any]) -> int | None:
    run = config.get("run")
    seed = run.get("seed") if isinstance(run, dict) else None
    return seed if isinstance(seed, int) else None
