"""What is best is saved with the weights that produced it, or not claimed to be."""

import json
import math
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import msgspec
import pytest

from soulsai.config.schema import Config, RunSettings, TelemetrySettings
from soulsai.telemetry_node import best
from soulsai.telemetry_node.node import TelemetryNode
from soulsai.types import Answer, Episode, Event, SaveBest
from soulsai.wire.training_role import TrainingRole
from tests.memory_server import MemoryServer
from tests.system.telemetry_cases import PROGRAM, answering, drain, episode, run_spec


@pytest.fixture
def server() -> MemoryServer:
    return MemoryServer()


@pytest.fixture
def training(server: MemoryServer) -> TrainingRole:
    wire = server.training()
    wire.open(run_spec("first"), PROGRAM, fresh=True)
    return wire


class Clock:
    """Seconds that pass only when told to."""

    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now


@contextmanager
def node_of(tmp_path: Path, server: MemoryServer, clock: Clock) -> Iterator[TelemetryNode]:
    config = Config(run=RunSettings(saves=str(tmp_path)), telemetry=TelemetrySettings(window=2))
    node = TelemetryNode(config, server.telemetry(), clock)
    try:
        yield node
    finally:
        node.close()


def claimed(tmp_path: Path) -> dict:
    return json.loads((tmp_path / "first" / best.NAME).read_text())


def saved(_: SaveBest) -> Answer:
    return Answer(True, "saved")


def gone(_: SaveBest) -> Answer:
    return Answer(False, "no longer held")


def test_the_version_that_produced_the_best_is_saved_once(server, training, tmp_path) -> None:
    watcher = server.telemetry()
    watcher.events(0.0)
    with node_of(tmp_path, server, Clock()) as node, answering(training, saved) as asked:
        training.record([episode(n, x, version=n) for n, x in enumerate((1.0, 9.0, 2.0, 1.0))])
        drain(node)
        node.ask(5.0)
        node.ask(5.0)
        assert asked == [SaveBest(generation=1, version=2, score=5.5)]
    file = claimed(tmp_path)
    assert (file["score"], file["version"], file["generation"]) == (5.5, 2, 1)
    assert (file["env_steps"], file["episodes"], file["saved"]) == (20, 3, True)
    assert file["time"] == 1e9 + 2
    assert Event("best", "average reward 5.5 with version 2") in watcher.events(1.0)


def test_refused_weights_are_not_claimed_and_the_next_best_is_tried(
    server, training, tmp_path
) -> None:
    clock = Clock()
    with node_of(tmp_path, server, clock) as node:
        with answering(training, gone) as asked:
            training.record([episode(n, 5.0, version=n) for n in range(2)])
            drain(node)
            node.ask(5.0)
            clock.now = 1000.0
            node.ask(5.0)
            assert len(asked) == 1
            assert (claimed(tmp_path)["saved"], claimed(tmp_path)["score"]) == (False, 5.0)
        with answering(training, saved) as asked:
            training.record([episode(2, 4.0), episode(3, 5.0), episode(4, 6.0, version=4)])
            drain(node)
            node.ask(5.0)
            assert asked == [SaveBest(1, 4, 5.5)]
    assert (claimed(tmp_path)["saved"], claimed(tmp_path)["score"]) == (True, 5.5)


def test_without_an_answer_intake_goes_on_and_it_is_asked_again(server, training, tmp_path) -> None:
    clock = Clock()
    with node_of(tmp_path, server, clock) as node:
        training.record([episode(n, 5.0) for n in range(2)])
        drain(node)
        node.ask(0.01)
        training.record([episode(n, 1.0) for n in range(2, 50)])
        drain(node)
        assert node.run is not None
        assert node.run.statistics.episodes == 50
        assert not claimed(tmp_path)["saved"]
        with answering(training, saved) as asked:
            node.ask(5.0)
            assert asked == []
            clock.now = 10.0
            node.ask(5.0)
            assert asked == [SaveBest(1, 1, 5.0)]
    assert claimed(tmp_path)["saved"]


@pytest.mark.parametrize(("answer", "again"), [(saved, False), (gone, False), (None, True)])
def test_a_restart_remembers_what_was_answered(server, training, tmp_path, answer, again) -> None:
    training.record([episode(n, 5.0) for n in range(2)])
    with node_of(tmp_path, server, Clock()) as node:
        drain(node)
        if answer:
            with answering(training, answer):
                node.ask(5.0)
    with node_of(tmp_path, server, Clock()) as node, answering(training, saved) as asked:
        drain(node)
        node.ask(5.0)
        assert bool(asked) == again
    assert claimed(tmp_path)["saved"] == (answer is not gone)


def test_a_damaged_best_file_is_written_anew(server, training, tmp_path, caplog) -> None:
    training.record([episode(n, 5.0) for n in range(2)])
    with node_of(tmp_path, server, Clock()) as node:
        drain(node)
    (tmp_path / "first" / best.NAME).write_text('{"score": "x"')
    with node_of(tmp_path, server, Clock()) as node, answering(training, saved):
        drain(node)
        node.ask(5.0)
    assert claimed(tmp_path)["saved"]
    assert "best.json" in caplog.text


def test_the_last_chance_does_not_rest(server, training, tmp_path) -> None:
    with node_of(tmp_path, server, Clock()) as node, answering(training, saved) as asked:
        training.record([episode(n, 5.0) for n in range(2)])
        drain(node)
        node.ask(5.0)
        training.record([episode(2, 100.0, version=9)])
        node.finish()
        assert asked[1:] == [SaveBest(1, 9, 52.5)]
        assert node.run is not None
        assert node.run.tracker.due(math.inf) is None


def test_a_purge_that_was_missed_covers_what_was_not_read_yet(server, training, tmp_path) -> None:
    def played(number: int, reward: float, client: str) -> Episode:
        return msgspec.structs.replace(
            episode(number, reward, version=number), client=client, epoch=1
        )

    training.record([played(n, 5.0 + n, "honest") for n in range(3)])
    training.record([played(n, 1000.0, "absurd") for n in range(3, 6)])
    since = training.time() + 1.0
    with node_of(tmp_path, server, Clock()) as node, answering(training, gone):
        node.purged("absurd", since)  # by the first status, before all episodes are read
        drain(node)
        node.ask(5.0)
        assert claimed(tmp_path)["score"] == 6.5
        forgotten = (tmp_path / "first" / "forgotten.json").read_bytes()
        node.purged("absurd", since)
        node.turn(0.0)
        assert (tmp_path / "first" / "forgotten.json").read_bytes() == forgotten


def test_a_purged_client_and_a_forgotten_best_count_no_more(server, training, tmp_path) -> None:
    def played(number: int, reward: float, client: str) -> Episode:
        return msgspec.structs.replace(
            episode(number, reward, version=number), client=client, epoch=1
        )

    training.record([played(n, 5.0 + n, "honest") for n in range(3)])
    training.record([played(n, 1000.0, "absurd") for n in range(3, 6)])
    with node_of(tmp_path, server, Clock()) as node, answering(training, gone):
        drain(node)
        node.ask(5.0)
        assert claimed(tmp_path)["score"] == 1000.0
        node.purged("absurd")
        node.turn(0.0)
        assert (claimed(tmp_path)["score"], claimed(tmp_path)["version"]) == (6.5, 2)
        training.record([played(6, 1000.0, "absurd"), played(7, 1000.0, "absurd")])
        drain(node)
        assert claimed(tmp_path)["score"] == 1000.0, "after a pardon, it counts again"
        node.forget_best()
        node.turn(0.0)
        assert not (tmp_path / "first" / best.NAME).exists()
    training.record([played(n, 1.0, "honest") for n in range(8, 10)])
    with node_of(tmp_path, server, Clock()) as node:  # and after a restart
        drain(node)
        assert claimed(tmp_path)["score"] == 1.0
