"""What Prometheus is shown: right numbers, names that promtool likes, and not more than so many."""

import socket
import subprocess
import urllib.request

import msgspec
import pytest
from prometheus_client import generate_latest
from prometheus_client.parser import text_string_to_metric_families

from soulsai.prometheus import (
    MOST_WORDS,
    Exporter,
    Family,
    Stopwatch,
    TelemetryMetrics,
    TrainingMetrics,
)
from soulsai.types import ClientStatus, Status
from tests.programs import installed


def client(name: str, state: str, queued: int = 0) -> ClientStatus:
    return ClientStatus(name, state, 10.0, 5, 0, 0, 0, queued, 0, 0.1)


STATUS = Status(
    run="a", generation=1, phase="learning", algorithm="dqn", environment="Toy-v0",
    env_steps=300, updates=280, version=9, reward_mean=12.5, rejected={"stale": 3, "spec": 1},
    restarts=6, faults={"hang": 4, "crash": 2},
    checkpoint_age=4.0, metrics={"replay_size": 300.0, "loss": 1.0},
    clients=(client("<a>", "active", 2), client("b", "active", 3), client("c", "lost")),
)  # fmt: skip


def told(metrics: TrainingMetrics) -> dict[str, float]:
    text = generate_latest(metrics.registry).decode()
    return {
        " ".join(
            [sample.name, *(f"{k}={v}" for k, v in sorted(sample.labels.items()))]
        ): sample.value
        for family in text_string_to_metric_families(text)
        for sample in family.samples
    }


def full() -> TrainingMetrics:
    metrics = TrainingMetrics(algorithm="dqn", torch="2")
    metrics.report(STATUS, 1e9, backlog=7)
    for state in ("terminated", "truncated"):
        metrics.outcomes.labels(state).inc()
    for histogram in (metrics.update_seconds, metrics.sample_age, metrics.checkpoint_seconds):
        histogram.observe(1.0)
    return metrics


def test_a_status_becomes_numbers() -> None:
    numbers = told(full())
    assert numbers["soulsai_env_steps_total"] == 300
    assert numbers["soulsai_model_updates_total"] == 280
    assert numbers["soulsai_samples_rejected_total reason=stale"] == 3
    assert numbers["soulsai_environment_restarts_total"] == 6
    assert numbers["soulsai_environment_faults_total kind=hang"] == 4
    assert numbers["soulsai_clients state=active"] == 2
    assert numbers["soulsai_clients state=waiting"] == 0
    assert numbers["soulsai_clients_lost_total"] == 1
    assert numbers["soulsai_client_queue_messages"] == 5
    assert numbers["soulsai_replay_transitions"] == 300
    assert numbers["soulsai_stream_backlog_messages"] == 7
    assert numbers["soulsai_model_last_update_timestamp_seconds"] == 1e9
    assert numbers["soulsai_episode_reward_mean"] == 12.5


def test_a_client_is_lost_once_and_an_update_is_dated() -> None:
    metrics = full()
    metrics.report(STATUS, 1e9 + 5, backlog=0)
    assert told(metrics)["soulsai_clients_lost_total"] == 1
    assert told(metrics)["soulsai_model_last_update_timestamp_seconds"] == 1e9
    both = msgspec.structs.replace(
        STATUS, updates=281, clients=(client("b", "lost"), client("c", "lost"))
    )
    metrics.report(both, 1e9 + 9, backlog=0)
    assert told(metrics)["soulsai_clients_lost_total"] == 2
    assert told(metrics)["soulsai_model_last_update_timestamp_seconds"] == 1e9 + 9


def test_what_is_not_known_is_not_told() -> None:
    metrics = TrainingMetrics()
    metrics.report(Status("a", 1, "waiting", "dqn", "Toy-v0"), 1e9, backlog=0)
    names = {name.split()[0] for name in told(metrics)}
    assert "soulsai_checkpoint_age_seconds" not in names
    assert "soulsai_episode_reward_mean" not in names


def test_names_of_others_make_no_series() -> None:
    clients = tuple(client(f"volunteer-{n}", "active") for n in range(500))
    reasons = {f"reason-{n:03d}": 1 for n in range(500)}
    metrics = TrainingMetrics()
    few = len(told(full()))
    faults = {"other": 3, **{f"kind-{n:03d}": 1 for n in range(500)}}
    status = msgspec.structs.replace(STATUS, clients=clients, rejected=reasons, faults=faults)
    metrics.report(status, 1e9, backlog=0)
    numbers = told(metrics)
    assert len(numbers) <= few + 2 * (MOST_WORDS + 1)
    assert numbers["soulsai_environment_faults_total kind=other"] == 503 - MOST_WORDS
    assert numbers["soulsai_samples_rejected_total reason=other"] == 500 - MOST_WORDS
    assert not [name for name in numbers if "volunteer" in name]


@pytest.mark.tools
@pytest.mark.parametrize("which", ["training", "telemetry"])
def test_promtool_has_nothing_to_say(which: str) -> None:
    if which == "training":
        text = generate_latest(full().registry)
    else:
        numbers = [
            Family("telemetry_episodes", "counter", "Episodes.", 5),
            Family("connector_dropped", "counter", "Dropped.", {"tensorboard": 1}, "connector"),
        ]
        text = TelemetryMetrics(lambda: numbers).text()
    done = subprocess.run(
        [installed("promtool"), "check", "metrics"],
        input=text,
        capture_output=True,
        timeout=60,
        check=False,
    )
    assert (done.returncode, done.stdout, done.stderr) == (0, b"", b"")


def test_an_exporter_serves_from_entering_to_leaving() -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        unused_port = listener.getsockname()[1]
    with Exporter(full().registry, "127.0.0.1", unused_port) as exporter:
        with urllib.request.urlopen(exporter.address, timeout=10) as answer:
            assert b"soulsai_env_steps_total 300.0" in answer.read()
        with Exporter(full().registry, "127.0.0.1", unused_port) as other:
            assert other.address == ""  # somebody has the port: that costs the numbers, no training
    with pytest.raises(OSError, match="refused"):
        urllib.request.urlopen(exporter.address, timeout=10)


def test_without_a_port_nothing_is_served() -> None:
    with Exporter(full().registry, "127.0.0.1", 0) as exporter:
        assert exporter.address == ""


def test_a_stopwatch_measures_laps() -> None:
    times = iter([1.0, 2.0, 5.0, 5.5])
    watch = Stopwatch(lambda: next(times))
    watch.start()
    assert watch.lap() == 3.0
    assert watch.lap() == 0.5
