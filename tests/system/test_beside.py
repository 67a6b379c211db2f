"""What a telemetry node tells others while it keeps the record, and that they cannot harm it."""

from pathlib import Path

import pytest
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from soulsai.config.schema import Config, RunSettings, TelemetrySettings, WebSettings
from soulsai.telemetry_node import record
from soulsai.telemetry_node.node import TelemetryNode, serve
from soulsai.types import Status
from tests.memory_server import MemoryServer
from tests.system.telemetry_cases import PROGRAM, beside, drain, episode, run_spec, until

pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning")


def config(folder: Path, **telemetry: object) -> Config:
    settings = {"window": 5, "figure_every": 10**9, "metrics": {"win": "reward > 3"}, **telemetry}
    return Config(
        run=RunSettings(saves=str(folder)),
        telemetry=TelemetrySettings(**settings),
        web=WebSettings(enabled=False),
    )


def test_tensorboard_shows_episodes_and_training_by_default(tmp_path: Path) -> None:
    server = MemoryServer()
    training = server.training()
    training.open(run_spec("first"), PROGRAM, fresh=True)
    training.record([episode(n, float(n), greedy=n % 2 == 0) for n in range(1, 11)])
    results = tmp_path / "first" / record.NAME
    samples = tmp_path / "first" / "training.jsonl"
    (tmp_path / "first").mkdir()
    (tmp_path / "first" / "config.json").write_text("{}")
    status = Status("first", 1, "learning", "dqn", "Toy-v0", env_steps=90, metrics={"loss": 0.5})
    with beside(lambda: training.report(status)):
        serve(
            config(tmp_path), server.telemetry(), connect=server.telemetry,
            stopped=lambda: results.exists() and samples.exists(),
        )  # fmt: skip
    reader = EventAccumulator(str(tmp_path / "first" / "tensorboard"))
    reader.Reload()
    assert set(reader.Tags()["scalars"]) >= {
        "exploring/reward", "greedy/reward", "greedy/steps", "exploring/win", "training/loss",
    }  # fmt: skip
    assert reader.Scalars("training/loss")[0].value == 0.5


def test_a_connector_without_a_place_costs_the_record_nothing(tmp_path: Path) -> None:
    (tmp_path / "first").mkdir()
    (tmp_path / "first" / "tensorboard").write_text("not a folder")
    server = MemoryServer()
    training = server.training()
    training.open(run_spec("first"), PROGRAM, fresh=True)
    node = TelemetryNode(config(tmp_path), server.telemetry())
    training.record([episode(n, float(n)) for n in range(1, 51)])
    drain(node)
    until(lambda: any(family.name == "connector_queue_items" for family in node.families()))
    node.close()
    lines = list(record.read(tmp_path / "first" / record.NAME))
    assert [line.episode for line in lines] == list(range(1, 51))
