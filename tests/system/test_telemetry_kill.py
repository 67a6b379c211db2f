"""A telemetry node killed at any moment, over a real server: nothing lost, nothing doubled."""

import json
import os
import random
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from soulsai.config.schema import Config, RedisSettings, RunSettings, TelemetrySettings, to_json
from soulsai.telemetry_node import best, record
from soulsai.types import Answer
from soulsai.wire.redis.embedded_server import EmbeddedServer
from soulsai.wire.redis.roles import connect_training
from soulsai.wire.secrets import server_for
from tests.system.telemetry_cases import PROGRAM, answering, episode, run_spec, until

ROOT = Path(__file__).parents[2]

NODE = """
import signal, sys, threading
from pathlib import Path
from soulsai.config.layers import load
from soulsai.telemetry_node.node import serve
from soulsai.wire.redis.roles import connect_telemetry
from soulsai.wire.secrets import server_for

stop = threading.Event()
signal.signal(signal.SIGTERM, lambda *_: stop.set())
config = load(Path(sys.argv[1]), {}, [])
wire = connect_telemetry(server_for("telemetry_node", config.redis), config.run.name)
serve(config, wire, stopped=stop.is_set)
"""


@pytest.fixture
def config(tmp_path: Path) -> Iterator[Config]:
    with EmbeddedServer() as server:
        yield Config(
            run=RunSettings(saves=str(tmp_path / "saves")),
            redis=RedisSettings(url=server.url, secrets=str(server.secrets)),
            telemetry=TelemetrySettings(window=5),
        )


def start(settings: Path) -> subprocess.Popen[bytes]:
    environ = os.environ | {"PYTHONPATH": str(ROOT)}
    return subprocess.Popen([sys.executable, "-c", NODE, str(settings)], env=environ)


def test_killed_and_started_again_it_has_every_episode_once(config: Config, tmp_path: Path) -> None:
    settings = tmp_path / "config.json"
    settings.write_text(to_json(config))
    results = tmp_path / "saves" / "first" / record.NAME
    training = connect_training(server_for("training_node", config.redis), config.run.name)
    training.open(run_spec("first"), PROGRAM, fresh=True)
    rng = random.Random(5)
    count, kills = 0, 0
    with answering(training, lambda _: Answer(True, "saved")) as asked:
        node = start(settings)
        try:
            while kills < 3:
                lines = results.read_bytes().count(b"\n") if results.exists() else 0
                if count - lines < 2000:  # the stream keeps ten thousand
                    training.record([episode(count + n, rng.random()) for n in range(7)])
                    count += 7
                if lines > 300 * (kills + 1):
                    node.kill()
                    node.wait()
                    kills += 1
                    node = start(settings)
            until(lambda: results.read_bytes().count(b"\n") == count)
            node.send_signal(signal.SIGTERM)
            assert node.wait(60) == 0  # it draws its last figure
        finally:
            node.kill()
            node.wait()
    training.close()
    lines = list(record.read(results))
    assert [line.episode for line in lines] == list(range(count))
    assert not any(line.gap for line in lines)

    rewards = [line.reward for line in lines]
    highest = max(sum(rewards[n - 5 : n]) / 5 for n in range(5, count + 1))
    file = json.loads((results.parent / best.NAME).read_text())
    assert file["score"] == pytest.approx(highest)
    assert file["saved"]
    assert max(each.score for each in asked) == file["score"]
    assert (results.parent / "telemetry.png").exists()
