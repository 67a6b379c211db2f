"""Commands one by one, against a server that runs elsewhere."""

import json
import shutil
import signal
import subprocess
import sys

import psutil
import pytest

from soulsai import connect
from soulsai.config import Config, load
from soulsai.errors import SoulsAIError
from soulsai.wire.redis.embedded_server import EmbeddedServer
from tests.system.train_cases import CARTPOLE, PATIENCE, ROOT, complaint, environ, soulsai, until

CLIENT_MB = 110


@pytest.fixture
def server():
    with EmbeddedServer() as server:
        yield server


class Node:
    """One node as a process of its own."""

    def __init__(self, folder, *words):
        self.log = folder / f"{words[0]}.log"
        with self.log.open("w") as log:
            self.process = psutil.Popen(
                [sys.executable, "-m", "soulsai", *words],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                cwd=folder,
                env=environ(),
            )

    def __enter__(self):
        return self

    def __exit__(self, *_):
        if self.process.poll() is None:
            self.process.kill()
            self.process.wait()

    def end(self, number):
        self.process.send_signal(number)
        return self.process.wait(PATIENCE)


def status_of(server):
    def ask():
        try:
            settings = load(
                None, {}, [f"redis.url={server.url}", f"redis.secrets={server.secrets}"]
            )
            with connect.operator(settings) as wire:
                return wire.status()
        except SoulsAIError:
            return None

    return ask


def test_three_roles_by_hand(tmp_path, server):
    place = ("--redis", server.url, "--secrets", str(server.secrets))
    ask = status_of(server)
    with (
        Node(tmp_path, "client", *place, "--name", "volunteer", "--step-delay", "0.001") as client,
        Node(tmp_path, "telemetry-node", *place) as telemetry,
        Node(
            tmp_path, "training-node", *place, "--set", "environment.id=CartPole-v1", *CARTPOLE[2:]
        ) as training,
    ):
        status = until("updates", lambda: (now := ask()) and now.updates > 50 and now)
        assert [seen.client for seen in status.clients] == ["volunteer"]
        assert client.process.memory_info().rss < CLIENT_MB * 2**20
        light = {"libtorch_cpu.so", "_path.so"}  # of torch and of matplotlib
        mapped = {path.path.rpartition("/")[2] for path in client.process.memory_maps()}
        assert not light & mapped

        shown = soulsai("status", *place, "--json", cwd=tmp_path)
        assert json.loads(shown.stdout)["run"] == status.run
        saved = soulsai("quicksave", *place, "--json", cwd=tmp_path)
        assert json.loads(saved.stdout)["done"] is True
        saves = tmp_path / "saves" / status.run / "manual_save"
        assert (saves / "policy.onnx").is_file()
        shutil.rmtree(saves)
        script = [sys.executable, str(ROOT / "script" / "quicksave.py"), *map(str, place)]
        subprocess.run(script, check=True, cwd=tmp_path, env=environ(), timeout=PATIENCE)
        assert (saves / "policy.onnx").is_file()

        assert client.end(signal.SIGINT) == 130, client.log.read_text()
        stopped = soulsai("stop", *place, cwd=tmp_path)
        assert stopped.returncode == 0, stopped.stderr
        assert training.process.wait(PATIENCE) == 0, training.log.read_text()
        assert telemetry.end(signal.SIGTERM) == 0, telemetry.log.read_text()
    results = tmp_path / "saves" / status.run / "results.jsonl"
    assert results.read_text()
    assert "no training node is alive" in complaint(soulsai("quicksave", *place, cwd=tmp_path))


def test_a_client_waits_for_a_run_and_leaves_when_asked(tmp_path, server):
    place = ("--redis", server.url, "--secrets", str(server.secrets))
    with Node(tmp_path, "client", *place) as client:
        until("it waits", lambda: "no training run is published" in client.log.read_text())
        assert client.end(signal.SIGTERM) == 0


def test_config_prints_what_results(tmp_path):
    (tmp_path / "config").mkdir()
    (tmp_path / "config" / "config.yaml").write_text("dqn:\n  lr: 0.5\n  gamma: 0.9\n")
    done = soulsai("config", "--set", "dqn.gamma=0.8", cwd=tmp_path, SOULSAI__RUN__CLIENTS="7")
    assert done.returncode == 0, done.stderr
    (tmp_path / "resolved.yaml").write_text(done.stdout)
    config = load(tmp_path / "resolved.yaml", {}, [])
    assert (config.dqn.lr, config.dqn.gamma, config.run.clients) == (0.5, 0.8, 7)
    (tmp_path / "defaults.yaml").write_text(soulsai("config", "--defaults", cwd=tmp_path).stdout)
    assert load(tmp_path / "defaults.yaml", {}, []) == Config()


def test_a_variable_that_nothing_reads_is_warned_of(tmp_path):
    done = soulsai("config", cwd=tmp_path, SOULSAI_DQN_LR="1e-2")
    assert done.returncode == 0
    assert done.stderr.splitlines() == [
        "soulsai: nothing reads SOULSAI_DQN_LR; a setting is given as "
        "SOULSAI__SECTION__KEY, with two underscores each"
    ]
