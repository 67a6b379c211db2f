"""The telemetry node against a server in memory: intake, outages, another run, its end."""

import random
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import msgspec
import numpy as np
import pytest

from soulsai.config.schema import Config, RunSettings, TelemetrySettings
from soulsai.errors import NoRun, SoulsAIError, Unreachable, WireError
from soulsai.telemetry_node import painter, record
from soulsai.telemetry_node.node import RetryPause, TelemetryNode, serve
from soulsai.wire.training_role import TrainingRole
from tests.memory_server import MemoryServer
from tests.system.telemetry_cases import PROGRAM, drain, episode, run_spec, until


@pytest.fixture
def server() -> MemoryServer:
    return MemoryServer()


@pytest.fixture
def training(server: MemoryServer) -> TrainingRole:
    wire = server.training()
    wire.open(run_spec("first"), PROGRAM, fresh=True)
    return wire


@pytest.fixture
def config(tmp_path: Path) -> Config:
    return Config(run=RunSettings(saves=str(tmp_path)), telemetry=TelemetrySettings(window=3))


@contextmanager
def node_of(config: Config, server: MemoryServer, **more) -> Iterator[TelemetryNode]:
    node = TelemetryNode(config, server.telemetry(), **more)
    try:
        yield node
    finally:
        node.close()


def recorded(tmp_path: Path, run: str = "first") -> list[record.RecordLine]:
    return list(record.read(tmp_path / run / record.NAME))


def test_every_episode_is_recorded_once_and_drawn(server, training, config, tmp_path) -> None:
    with node_of(config, server) as node:
        training.record([episode(number) for number in range(5)])
        drain(node)
        training.record([episode(number) for number in range(5, 2500)])
        drain(node)
        assert repr(node).startswith("<TelemetryNode <Run first episodes=2500")
    assert [line.episode for line in recorded(tmp_path)] == list(range(2500))
    assert (tmp_path / "first" / painter.NAME).read_bytes().startswith(b"\x89PNG")


def test_what_a_resumed_training_node_tells_again_is_not_counted_again(
    server, training, config, tmp_path
) -> None:
    told = [
        msgspec.structs.replace(episode(number, reward), epoch=7)
        for number, reward in enumerate([0.0, 9.0, 9.0])
    ]
    with node_of(config, server) as node:
        training.record([*told, told[1]])
        drain(node)
        training.record(told[1:])  # after a crash, from the last checkpoint on
        training.record([msgspec.structs.replace(told[0], epoch=8)])
        drain(node)
        assert node.run is not None
        assert node.run.repeated == 3
        assert node.run.statistics.best is not None
        assert node.run.statistics.best.score == 6.0
    assert [line.epoch for line in recorded(tmp_path)] == [7, 7, 7, 8]
    with node_of(config, server) as node:  # and what it has recorded, it knows again
        training.record(told)
        drain(node)
        assert node.run is not None
        assert (node.run.repeated, node.run.statistics.episodes) == (3, 4)


def test_a_restart_goes_on_where_the_record_ends(server, training, config, tmp_path) -> None:
    rng = random.Random(3)
    plays = [episode(n, rng.random(), version=n, greedy=n % 3 == 0) for n in range(300)]
    found = None
    for start in range(0, 300, 100):
        training.record(plays[start : start + 100])
        with node_of(config, server) as node:
            drain(node)
            assert node.run is not None
            found = node.run.statistics.best
    lines = recorded(tmp_path)
    assert [line.episode for line in lines] == list(range(300))
    assert not any(line.gap for line in lines)

    greedy = [play for play in plays if play.greedy]
    means = np.convolve([play.reward for play in greedy], np.ones(3) / 3, "valid")
    assert found is not None
    assert found.score == pytest.approx(means.max())
    assert found.version == greedy[means.argmax() + 2].version


def test_what_the_stream_lost_meanwhile_is_noted(server, training, config, tmp_path) -> None:
    with node_of(config, server) as node:
        training.record([episode(0)])
        drain(node)
    training.record([episode(number) for number in range(1, 10_200)])
    with node_of(config, server) as node:
        drain(node)
    lines = recorded(tmp_path)
    assert lines[0].episode == 0
    assert lines[1].episode > 1
    assert [line.gap for line in lines].count(True) == 1
    assert lines[1].gap
    assert lines[-1].episode == 10_199


def test_an_outage_loses_nothing(server, training, config, tmp_path) -> None:
    with node_of(config, server) as node:
        training.record([episode(0)])
        drain(node)
        server.down = True
        with pytest.raises(Unreachable):
            node.turn(0.0)
        server.down = False
        training.record([episode(1)])
        drain(node)
    assert [(line.episode, line.gap) for line in recorded(tmp_path)] == [(0, False), (1, False)]


def test_a_full_disk_loses_nothing(server, training, config, tmp_path, monkeypatch) -> None:
    with node_of(config, server) as node:
        training.record([episode(0)])
        drain(node)
        training.record([episode(1), episode(2)])

        def full(*_, **__) -> None:
            raise OSError(28, "No space left on device")

        with monkeypatch.context() as patched:
            patched.setattr(record.Record, "append", full)
            with pytest.raises(OSError, match="No space"):
                node.turn(0.0)
        drain(node)
        assert node.run is not None
        assert node.run.statistics.episodes == 3
    assert [line.episode for line in recorded(tmp_path)] == [0, 1, 2]


def test_numbers_that_make_no_sense_are_left_out(server, training, config, tmp_path) -> None:
    with node_of(config, server) as node:
        training.record([episode(n, x) for n, x in enumerate((1.0, float("nan"), 1e308, 2.0))])
        training.record([episode(4, float("inf"))])
        drain(node)
        assert node.turn(0.0) == 0
        assert node.run is not None
        assert node.run.refused == 3
    assert [line.reward for line in recorded(tmp_path)] == [1.0, 2.0]


def test_another_run_gets_its_own_folder(server, training, config, tmp_path) -> None:
    with node_of(config, server) as node:
        training.record([episode(0)])
        drain(node)
        server.training().open(run_spec("second"), PROGRAM, fresh=True)
        training.record([episode(7), episode(8)])
        drain(node)
        drain(node)
        assert node.run is not None
        assert node.run.name == "second"
    assert [line.episode for line in recorded(tmp_path)] == [0]
    assert [line.episode for line in recorded(tmp_path, "second")] == [7, 8]
    assert (tmp_path / "first" / painter.NAME).exists()


def test_while_idle_it_notices_another_run_within_a_second(server, training, config) -> None:
    now = [0.0]
    with node_of(config, server, clock=lambda: now[0]) as node:
        node.turn(0.0)
        server.training().open(run_spec("second"), PROGRAM, fresh=True)
        node.turn(0.0)
        assert node.run is not None
        now[0] = 1.0
        node.turn(0.0)
        node.turn(0.0)
        assert node.run is not None
        assert node.run.name == "second"


@pytest.mark.parametrize("name", ["", ".", "..", "../x", "a/b", "/etc"])
def test_a_run_cannot_be_named_out_of_the_saves_folder(server, config, name: str) -> None:
    server.training().open(run_spec(name), PROGRAM, fresh=True)
    with node_of(config, server) as node, pytest.raises(WireError, match="not a RunSpec"):
        node.turn(0.0)


def test_a_folder_that_cannot_be_written_is_one_line(server, training, tmp_path) -> None:
    (tmp_path / "saves").write_text("a file")
    config = Config(run=RunSettings(saves=str(tmp_path / "saves")))
    with node_of(config, server) as node, pytest.raises(SoulsAIError, match="cannot be written"):
        node.turn(0.0)


def test_it_waits_for_a_run_and_for_the_server(server, config, tmp_path) -> None:
    stop = threading.Event()
    node = threading.Thread(
        target=serve, args=(config, server.telemetry()), kwargs={"stopped": stop.is_set}
    )
    server.down = True
    node.start()
    try:
        server.down = False
        training = server.training()
        training.open(run_spec("first"), PROGRAM, fresh=True)
        training.record([episode(n) for n in range(10)])
        path = tmp_path / "first" / record.NAME
        until(lambda: path.exists() and path.read_bytes().count(b"\n") == 10)
        training.record([episode(n) for n in range(10, 5000)])
    finally:
        stop.set()
        node.join()
    assert [line.episode for line in recorded(tmp_path)] == list(range(5000))
    assert (tmp_path / "first" / painter.NAME).exists()


def test_a_stop_without_server_is_prompt(server, training, config) -> None:
    stop = threading.Event()
    node = threading.Thread(
        target=serve, args=(config, server.telemetry()), kwargs={"stopped": stop.is_set}
    )
    node.start()
    server.down = True
    began = time.monotonic()
    stop.set()
    node.join()
    assert time.monotonic() - began < 4.0


def test_pauses_grow_at_random_and_end_with_the_stop() -> None:
    now, slept = [0.0], []

    def sleep(seconds: float) -> None:
        now[0] += seconds

    pause = RetryPause(random.Random(1), clock=lambda: now[0], sleep=sleep)
    for _ in range(40):
        began = now[0]
        pause.wait(NoRun("none yet"), lambda: False)
        slept.append(now[0] - began)
    assert slept[0] <= 0.1 + 1e-9
    assert max(slept) <= 10.0 + 1e-9
    assert max(slept[10:]) > 5.0
    assert len(set(slept)) == len(slept)
    began = now[0]
    pause.wait(NoRun("none yet"), lambda: True)
    assert now[0] == began
    pause.over()
    pause.wait(NoRun("none yet"), lambda: False)
    assert now[0] - began <= 0.1 + 1e-9


def test_an_episode_costs_little(server, config, tmp_path) -> None:
    node = TelemetryNode(config, server.telemetry())
    server.training().open(run_spec("first"), PROGRAM, fresh=True)
    node.turn(0.0)
    assert node.run is not None
    plays = [(f"{1000 + n}-0", episode(n, float(n % 97))) for n in range(50_000)]
    began = time.thread_time()
    for start in range(0, len(plays), 100):
        node.run.take(plays[start : start + 100], gap=False)
    assert (time.thread_time() - began) / len(plays) < 50e-6
    node.close()
