"""A real Prometheus scrapes both nodes, and evaluates the rules that are shipped."""

import json
import re
import signal
import socket
import subprocess
import urllib.error
import urllib.request
from pathlib import Path

import pytest

from deploy.monitoring.grafana.dashboards import nodes_dashboard
from soulsai.wire.redis.embedded_server import EmbeddedServer
from tests.programs import installed
from tests.system.test_cli import Node
from tests.system.train_cases import CARTPOLE, until

ROOT = Path(__file__).parents[2]
RULES = ROOT / "deploy" / "monitoring" / "prometheus" / "rules" / "soulsai.yml"
CASES = ROOT / "tests" / "monitoring" / "rules_test.yml"
CONFIG = """
global: {scrape_interval: 1s, evaluation_interval: 1s}
rule_files: ["%s"]
scrape_configs:
  - {job_name: training_node, static_configs: [{targets: ["127.0.0.1:%d"]}]}
  - {job_name: telemetry_node, static_configs: [{targets: ["127.0.0.1:%d"]}]}
"""


def free_ports(count):
    """Return ports that nobody has now."""
    taken = [socket.create_server(("127.0.0.1", 0)) for _ in range(count)]
    ports = [each.getsockname()[1] for each in taken]
    for each in taken:
        each.close()
    return ports


def ask(url):
    try:
        with urllib.request.urlopen(url, timeout=10) as answer:
            return json.load(answer)["data"]
    except (urllib.error.URLError, OSError):
        return None


pytestmark = pytest.mark.tools


@pytest.mark.parametrize("words", [("check", "rules", RULES), ("test", "rules", CASES)])
def test_promtool_accepts_the_rules(words):
    done = subprocess.run(
        [installed("promtool"), *words], capture_output=True, text=True, timeout=60
    )
    assert done.returncode == 0, done.stdout + done.stderr


def test_prometheus_scrapes_both_nodes_and_tells_of_a_dead_one(tmp_path):
    training_port, page_port, port = free_ports(3)
    config = tmp_path / "prometheus.yml"
    config.write_text(CONFIG % (RULES, training_port, page_port))
    base = f"http://127.0.0.1:{port}/api/v1"

    def value(query):
        found = ask(f"{base}/query?query={urllib.request.quote(query)}")
        return float(found["result"][0]["value"][1]) if found and found["result"] else None

    with EmbeddedServer() as server:
        place = ("--redis", server.url, "--secrets", str(server.secrets))
        ports = ("--set", f"metrics.port={training_port}", "--set", f"web.port={page_port}")
        log = (tmp_path / "prometheus.log").open("w")
        prometheus = subprocess.Popen(
            [
                *(installed("prometheus"), f"--config.file={config}"),
                *(f"--storage.tsdb.path={tmp_path / 'db'}", "--log.level=warn"),
                f"--web.listen-address=127.0.0.1:{port}",
            ],
            stdout=log, stderr=log,
        )  # fmt: skip
        words = ("--set", "environment.id=CartPole-v1", *CARTPOLE[2:], *ports)
        try:
            with (
                Node(tmp_path, "client", *place, "--name", "one", "--step-delay", "0.001"),
                Node(tmp_path, "telemetry-node", *place, *ports) as telemetry,
                Node(tmp_path, "training-node", *place, *words) as training,
            ):
                until("updates", lambda: (value("soulsai_model_updates_total") or 0) > 20)
                until("episodes", lambda: (value("soulsai_telemetry_episodes_total") or 0) > 3)
                until("both up", lambda: value('sum(up{job=~".+_node"})') == 2)
                assert value('sum(soulsai_clients{state=~"active|waiting"})') == 1
                until("a rate", lambda: value("soulsai:update_duration_seconds:median5m"))
                known = set(ask(f"{base}/label/__name__/values"))
                assert shown() - known <= RARE

                telemetry.process.kill()
                telemetry.process.wait()
                alert = until("an alert", lambda: alerts(base))[0]
                assert alert["labels"]["alertname"] == "SoulsaiNodeDown"
                assert alert["labels"]["job"] == "telemetry_node"
                assert alert["state"] == "pending"
                assert training.end(signal.SIGTERM) == 0, training.log.read_text()
        finally:
            prometheus.terminate()
            prometheus.wait(30)
            log.close()


RARE = {
    "soulsai_samples_rejected_total",  # nothing was rejected,
    "soulsai_environment_faults_total",  # nothing broke,
    # and nothing was evaluated
    *(f"soulsai_evaluation_{name}" for name in ("mean", "low", "high", "episodes")),
}


def shown():
    """Return the names that the dashboard asks for."""
    expressions = [
        target["expr"]
        for panel in nodes_dashboard()["panels"]
        for target in panel["targets"]
        if "expr" in target
    ]
    return {name for expr in expressions for name in re.findall(r"soulsai_\w+", expr)}


def alerts(base):
    found = ask(f"{base}/alerts")
    wanted = ("SoulsaiNodeDown",)
    return [
        one for one in (found or {"alerts": []})["alerts"]
        if one["labels"]["alertname"] in wanted and one["labels"]["job"] == "telemetry_node"
    ]  # fmt: skip
