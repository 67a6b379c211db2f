"""The metrics of the nodes for Prometheus.

No label holds a name chosen by others, such as a client's: the number of series is bounded.
"""

import logging
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from socketserver import TCPServer
from typing import Any, Literal, Self
from wsgiref.simple_server import WSGIRequestHandler, WSGIServer, make_server

from msgspec import Struct
from prometheus_client import CollectorRegistry, Counter, Histogram, Info, exposition, make_wsgi_app
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from soulsai import __version__
from soulsai.types import Status

MOST_WORDS = 32  # per label: reasons of rejection, kinds of faults; others are summed
STATES = ("active", "waiting", "quarantine", "lost")
UPDATE_SECONDS = (0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1.0, 2.0, 5.0, 10.0, 30.0)
CHECKPOINT_SECONDS = (0.01, 0.03, 0.1, 0.3, 1.0, 3.0, 10.0, 30.0, 100.0)
AGES = (0.0, 1.0, 2.0, 4.0, 8.0, 16.0, 32.0, 64.0)

_log = logging.getLogger(__name__)


class Family(Struct, frozen=True):
    """A metric: one value, or one value per value of a label."""

    name: str
    kind: Literal["counter", "gauge"]
    help: str
    value: float | Mapping[str, float]  # by the label's value
    label: str = ""


class Families(Collector):
    """Reads values when they are scraped, not when they change."""

    def __init__(self, families: Callable[[], Iterable[Family]]) -> None:
        self._families = families

    def collect(self) -> Iterator[Metric]:
        """Yield the current metrics."""
        for family in self._families():
            kind = CounterMetricFamily if family.kind == "counter" else GaugeMetricFamily
            if isinstance(family.value, Mapping):
                metric = kind(f"soulsai_{family.name}", family.help, labels=[family.label])
                for label, value in family.value.items():
                    metric.add_metric([label], value)
            else:
                metric = kind(f"soulsai_{family.name}", family.help, value=family.value)
            yield metric


class TrainingMetrics:
    """Counters of the training node, and the values of its last status."""

    def __init__(self, *, algorithm: str = "", torch: str = "") -> None:
        self.registry = CollectorRegistry()
        make: dict[str, Any] = {"registry": self.registry, "namespace": "soulsai"}
        self.update_seconds = Histogram(
            "model_update_duration_seconds",
            "Duration of an update.",
            buckets=UPDATE_SECONDS,
            **make,
        )
        self.sample_age = Histogram(
            "sample_age_versions",
            "Versions behind, of experience at receipt.",
            buckets=AGES,
            **make,
        )
        self.checkpoint_seconds = Histogram(
            "checkpoint_duration_seconds", "Time to write one.", buckets=CHECKPOINT_SECONDS, **make
        )
        self.received = Counter("samples_received", "Messages of experience that came.", **make)
        self.published = Counter("weights_publish_bytes", "Bytes of weights published.", **make)
        self.starved = Counter(
            "learner_starved_seconds", "Time that the learner waited for experience.", **make
        )
        self.outcomes = Counter("episodes", "Episodes that ended.", ["outcome"], **make)
        self._backlog = 0
        self._status: Status | None = None
        self._lost_clients = 0
        self._updated = 0.0  # Unix seconds
        self.registry.register(Families(self._families))
        labels = {"version": __version__, "algorithm": algorithm, "torch": torch}
        Info("build", "Which software.", **make).info(labels)

    def report(self, status: Status, now: float, *, backlog: int) -> None:
        """Store the last status.

        Args:
            status: The status.
            now: Unix seconds.
            backlog: Number of messages that wait for admission.
        """
        self._backlog = backlog
        before = self._status
        if before is None or status.updates > before.updates:
            self._updated = now if status.updates else 0.0
        known = before.clients if before else ()
        was = {client.client for client in known if client.state == "lost"}
        self._lost_clients += sum(
            client.state == "lost" and client.client not in was for client in status.clients
        )
        self._status = status

    def _families(self) -> Iterator[Family]:
        status = self._status
        if status is not None:
            yield from training_families(status)
            yield Family(
                "model_last_update_timestamp_seconds", "gauge",
                "Unix time of the last update.", self._updated,
            )  # fmt: skip
        yield Family("clients_lost", "counter", "Clients that fell silent.", self._lost_clients)
        yield Family(
            "stream_backlog_messages", "gauge", "Messages that wait for admission.", self._backlog
        )


def training_families(status: Status) -> Iterator[Family]:
    """Yield the metrics of a status."""
    clients = status.clients
    counts = {state: sum(client.state == state for client in clients) for state in STATES}
    counters = {
        "env_steps": ("Env steps admitted.", status.env_steps),
        "model_updates": ("Updates of the weights.", status.updates),
        "env_steps_lost": ("Env steps that never arrived.", status.lost),
        "env_steps_dropped": ("Env steps that clients or the learner dropped.", status.dropped),
        "environment_restarts": ("Restarts of clients' environments.", status.restarts),
        "samples_duplicate": ("Messages that came twice.", status.duplicates),
        "received_bytes": ("Bytes of experience that came.", status.bytes_received),
    }
    for name, (text, value) in counters.items():
        yield Family(name, "counter", text, value)
    reasons, faults = _few(status.rejected), _few(status.faults)
    yield Family("samples_rejected", "counter", "Messages not admitted.", reasons, "reason")
    yield Family("environment_faults", "counter", "Of clients' environments.", faults, "kind")
    queued = sum(client.queued for client in clients)
    gauges = {
        "model_version": ("Newest version of the weights.", float(status.version)),
        "env_steps_per_second": ("Env steps admitted, lately.", status.env_steps_per_second),
        "model_updates_per_second": ("Updates, lately.", status.updates_per_second),
        "replay_ratio": ("Updates per env step since learning began.", status.replay_ratio),
        "lag_versions": ("Mean versions behind, of recent experience.", status.lag),
        "client_queue_messages": ("Waiting in clients' outboxes.", float(queued)),
        "replay_transitions": ("Transitions in replay.", status.metrics.get("replay_size")),
        "episode_reward_mean": ("Mean reward of the last episodes.", status.reward_mean),
        "checkpoint_age_seconds": ("Time since the last checkpoint.", status.checkpoint_age),
        "training_paused": ("1 while training is paused.", float(status.phase == "paused")),
    }  # fmt: skip
    for name, (text, number) in gauges.items():
        if number is not None:
            yield Family(name, "gauge", text, number)
    yield Family("clients", "gauge", "Clients by state.", counts, "state")


def _few(counted: Mapping[str, int]) -> dict[str, float]:
    known = sorted(counted)[:MOST_WORDS]
    counts = {word: float(counted[word]) for word in known}
    rest = sum(counted.values()) - sum(counts.values())
    return counts | ({"other": counts.get("other", 0.0) + rest} if rest else {})


class TelemetryMetrics:
    """The metrics of the telemetry node; ``families`` returns the current values."""

    def __init__(self, families: Callable[[], Iterable[Family]]) -> None:
        self.registry = CollectorRegistry()
        self.registry.register(Families(families))
        Info("build", "Which software.", namespace="soulsai", registry=self.registry).info(
            {"version": __version__}
        )

    def text(self) -> bytes:
        """Return all metrics in Prometheus' text format."""
        return exposition.generate_latest(self.registry)


TEXT = exposition.CONTENT_TYPE_LATEST


class _NoHostLookup(WSGIServer):
    """A server that does not resolve its own name, which may take long."""

    def server_bind(self) -> None:
        TCPServer.server_bind(self)
        self.server_name, self.server_port = "metrics", self.server_address[1]
        self.setup_environ()


class _Silent(WSGIRequestHandler):
    """Does not log requests, and limits the time for each of them."""

    timeout = 5.0

    def log_message(self, format: str, *args: Any) -> None:
        pass


class Exporter:
    """Serves a registry under ``/metrics`` inside ``with``, in one thread that is joined.

    The server of ``prometheus_client`` has a daemon thread per request, without any limit of time.
    """

    def __init__(self, registry: CollectorRegistry, bind: str, port: int) -> None:
        """Prepare to serve.

        Args:
            registry: The metrics.
            bind: Address of the interface.
            port: Port; 0 to serve nothing.
        """
        self.address = ""
        self._registry = registry
        self._bind, self._port = bind, port
        self._server: WSGIServer | None = None
        self._thread: threading.Thread | None = None

    def __enter__(self) -> Self:
        if not self._port:
            return self
        try:
            app = make_wsgi_app(self._registry)
            server = make_server(self._bind, self._port, app, _NoHostLookup, _Silent)
        except OSError as error:
            _log.warning("metrics not served address=%s:%d error=%s", self._bind, self._port, error)
            return self
        server.timeout = 1.0
        self.address = f"http://{self._bind}:{server.server_port}/metrics"
        _log.info("metrics url=%s", self.address)
        self._server = server
        self._thread = threading.Thread(target=server.serve_forever, args=(0.2,), name="metrics")
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        if self._server is not None and self._thread is not None:
            self._server.shutdown()
            self._thread.join()
            self._server.server_close()


class Stopwatch:
    """Measures the seconds between two calls."""

    def __init__(self, clock: Callable[[], float] = time.perf_counter) -> None:
        self._clock = clock
        self._began = clock()

    def start(self) -> None:
        """Start again."""
        self._began = self._clock()

    def lap(self) -> float:
        """Return the seconds since the start, and start again."""
        began, self._began = self._began, self._clock()
        return self._began - began
