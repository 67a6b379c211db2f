"""All runs on disk, and the run in progress, as the page shows them."""

import threading
from collections import OrderedDict
from collections.abc import Mapping
from datetime import datetime
from pathlib import Path
from typing import Any, Protocol

import msgspec
from msgspec import Struct

from soulsai.episode_metrics import Measure, Meter, for_run
from soulsai.errors import ConfigError
from soulsai.evaluations.record import Evaluations
from soulsai.types import Status
from soulsai.web.contributors import ContributionReader, Playtime, together
from soulsai.web.journal import Journal, RecordReader
from soulsai.web.schemas import RunRow, iso
from soulsai.web.tables import Episodes

CONFIG, STATUS, BEST = "config.json", "status.json", "best.json"
VERSIONS = "versions.json"  # of the software that trains the run
NUMBER = "number"  # the file with the place of a run among all; it never changes
LATEST = "latest"
MOST_RUNS = 1000  # whose contributors are added up
KEPT = 8  # runs, beside the one in progress, with episodes in memory


class UnknownRun(LookupError):
    """No run has this name."""


class Live(Struct, frozen=True, eq=False):
    """The run in progress; its episodes grow while others read them."""

    run: str
    episodes: Episodes


class Source(Protocol):
    """A thread-safe view of a telemetry node."""

    def live(self) -> Live | None:
        """Return the run in progress, if any."""
        ...


class NoSource:
    """A source without a run, for a page that shows runs on disk only."""

    def live(self) -> Live | None:
        """Return ``None``."""
        return None


class RunStore:
    """Read every run below ``saves``; thread-safe."""

    def __init__(self, saves: Path, source: Source) -> None:
        self._saves = saves
        self._source = source
        self._lock = threading.Lock()
        self._records: OrderedDict[str, RecordReader] = OrderedDict()
        self._journals: OrderedDict[str, Journal] = OrderedDict()
        self._evaluations: OrderedDict[str, Evaluations] = OrderedDict()
        self._contributions: dict[str, ContributionReader] = {}
        self._numbers: dict[str, int] = {}
        self._rows: dict[str, tuple[object, RunRow]] = {}  # with the stamps of their files
        self._live_journal: tuple[str, Journal] | None = None

    @property
    def live(self) -> str:
        """The name of the run in progress, or empty."""
        live = self._source.live()
        return live.run if live else ""

    def names(self) -> list[str]:
        """Return the names of all runs, newest first: by number, as clocks may be set back."""
        found = {path.parent.name for path in self._saves.glob(f"*/{CONFIG}")}
        return sorted(found | ({self.live} - {""}), key=self._order, reverse=True)

    def find(self, run: str) -> str:
        """Return the name of the run, or of the newest for ``latest``; raise ``UnknownRun``."""
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
        """Return the folder of a run that ``find`` returned."""
        return self._saves / run

    def episodes(self, run: str) -> Episodes:
        """Return the episodes of a run that ``find`` returned."""
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
        """Return the samples and notes of a run that ``find`` returned."""
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

    def evaluations(self, run: str) -> Evaluations:
        """Return the evaluations of a run that ``find`` returned."""
        with self._lock:
            found = self._evaluations.setdefault(run, Evaluations(self.path(run)))
            self._evaluations.move_to_end(run)
            while len(self._evaluations) > KEPT:
                self._evaluations.popitem(last=False)
            found.refresh()
            return found

    def contributions(self, run: str) -> dict[str, Playtime]:
        """Return what each client has contributed to a run that ``find`` returned."""
        with self._lock:
            reader = self._contributions.get(run)
            if reader is None:
                reader = self._contributions[run] = ContributionReader(self.path(run))
            return reader.read()

    def all_contributions(self) -> dict[str, Playtime]:
        """Return what each client has contributed to the newest ``MOST_RUNS`` runs."""
        return together(self.contributions(run) for run in self.names()[:MOST_RUNS])

    def write_journal(self, run: str) -> Journal | None:
        """Return the journal for writing if the run's folder exists; one thread may write."""
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
        """Return the settings on disk of a run that ``find`` returned."""
        return read_json(self.path(run) / CONFIG)

    def measures(self, run: str) -> tuple[Measure, ...]:
        """Return the measures of each episode of a run that ``find`` returned."""
        config = self.config(run)
        settings = _section(_section(config, "telemetry"), "metrics")
        try:
            return for_run(
                {str(name): str(text) for name, text in settings.items()},
                str(_section(config, "environment").get("id", "")),
            )
        except ConfigError:  # settings of another version of this software
            return ()

    def best(self, run: str) -> dict[str, Any]:
        """Return the content of ``best.json`` of a run that ``find`` returned."""
        return read_json(self.path(run) / BEST)

    def status(self, run: str) -> Status | None:
        """Return the last status on disk of a run that ``find`` returned."""
        try:
            return msgspec.json.decode((self.path(run) / STATUS).read_bytes(), type=Status)
        except (OSError, msgspec.MsgspecError, UnicodeDecodeError):
            return None

    def row(self, run: str, now: Status | None) -> RunRow:
        """Return the summary of a run; ``now`` is its status while a training node reports it."""
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
        seed = _section(config, "run").get("seed")
        recorded = self.episodes(run).table.last if live else 0
        status = status or Status(
            run,
            generation=0,
            phase="starting",
            algorithm=str(_section(config, "algorithm").get("name", "")),
            environment=str(_section(config, "environment").get("id", "")),
        )
        return RunRow(
            run=run,
            live=live,
            phase=status.phase if status.generation else "",
            algorithm=status.algorithm,
            environment=status.environment,
            seed=seed if isinstance(seed, int) else None,
            started=self._started(run),
            env_steps=status.env_steps,
            max_env_steps=status.max_env_steps,
            updates=status.updates,
            episodes=max(recorded, status.episodes),
            seconds=status.seconds,
            reward_mean=status.reward_mean,
            best=float(score) if isinstance(score, int | float) else None,
        )

    def _order(self, run: str) -> tuple[int, str]:
        """Return the sort key of a run; those of versions without numbers are the oldest."""
        if not self._numbers.get(run):
            try:
                self._numbers[run] = int((self.path(run) / NUMBER).read_bytes())
            except (OSError, ValueError):
                return 0, run
        return self._numbers[run], run

    def _is_run(self, run: str) -> bool:
        if Path(run).name != run or run in ("", ".", ".."):
            return False
        try:
            return (self._saves / run / CONFIG).is_file()
        except (OSError, ValueError):  # the text is too long or holds a null character
            return False

    def _started(self, run: str) -> str:
        """Return the start of a run by its name, or by the age of its settings."""
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


def read_json(path: Path) -> dict[str, Any]:
    """Return the object in a JSON file, or an empty one if the file cannot be read."""
    try:
        return msgspec.json.decode(path.read_bytes(), type=dict[str, Any])
    except (OSError, msgspec.MsgspecError, UnicodeDecodeError, RecursionError):
        return {}


def _section(config: Mapping[str, Any], name: str) -> dict[str, Any]:
    entries = config.get(name)
    return entries if isinstance(entries, dict) else {}
