"""The steps that the original description names, word for word."""

import json
import os
import subprocess
import sys
import urllib.request

import pytest

from soulsai import connect
from soulsai.config.schema import ClientSettings, Config, RedisSettings
from tests.stack.stack_cases import CORE, NETWORKS, ROOT, Stack, free_port, run

pytestmark = pytest.mark.stack


def failed(*words, cwd):
    """Return what a command writes as it fails."""
    done = subprocess.run(words, cwd=cwd, capture_output=True, text=True, timeout=300)
    assert done.returncode != 0, done.stdout
    return done.stderr.splitlines()


def copied(stack, folder):
    """Return another checkout, on the engine where the stack runs."""
    other = object.__new__(Stack)
    other.environ = stack.environ
    other.fresh(folder)
    return other.folder


def test_the_network_that_was_made_by_hand_is_the_one_in_use(stack):
    network = json.loads(run("docker", "network", "inspect", "train_server_net", cwd="/"))[0]
    assert network["Id"] == stack.by_hand
    assert network["Labels"] == {}
    inside = {entry["Name"] for entry in network["Containers"].values()}
    services = stack.containers()
    assert {services[name][0] for name in ("redis", "training_node", "telemetry_node")} <= inside


def test_a_network_that_was_not_made_by_hand_is_made_by_the_setup(stack):
    network = json.loads(run("docker", "network", "inspect", "server", cwd="/"))[0]
    assert network["Id"] != stack.by_hand
    assert len(network["Containers"]) >= 4  # both nodes, Prometheus, Grafana


def test_clients_come_in_with_the_password_in_config(stack):
    secrets = stack.folder / "config"
    settings = RedisSettings(url=f"redis://127.0.0.1:{stack.port}", secrets=str(secrets))
    config = Config(redis=settings, client=ClientSettings(name="by-its-password"))
    with connect.client(config, None) as wire:
        assert wire.spec().environment.id == "CartPole-v1"
    assert stack.password in (secrets / "secrets/redis.secret").read_text()


@pytest.mark.parametrize("files", ["docker-compose.yaml", "deploy/monitoring/compose.yaml"])
def test_compose_says_what_to_run_before_the_setup_has_run(stack, tmp_path, files):
    folder = copied(stack, tmp_path / "new")
    said = failed("docker", "compose", "-f", files, "up", cwd=folder)
    assert len(said) == 1, said
    assert said[0].endswith("run deploy/setup.sh first")


def test_two_passwords_that_differ_are_an_error_that_names_both(stack, tmp_path):
    folder = copied(stack, tmp_path / "differ")
    (folder / "config/secrets").mkdir()
    (folder / "config/redis.secret").write_text("requirepass one\n")
    (folder / "config/secrets/redis.secret").write_text("requirepass another\n")
    said = failed("deploy/setup.sh", cwd=folder)
    assert said[-1].startswith(
        "soulsai: /config/secrets/redis.secret and /config/redis.secret hold"
    )
    assert not (folder / "config/secrets/users.acl").exists()
    (folder / "config/redis.secret").write_text("another")
    run("deploy/setup.sh", cwd=folder, **stack.environ)
    assert (folder / "config/secrets/users.acl").exists()


def test_the_setup_changes_nothing_when_it_runs_again(stack):
    before = {file: file.read_bytes() for file in (stack.folder / "config").rglob("*.*")}
    stack.setup()
    assert {file: file.read_bytes() for file in (stack.folder / "config").rglob("*.*")} == before
    for network in NETWORKS:
        assert run("docker", "network", "ls", "-q", "-f", f"name=^{network}$", cwd="/").split()
    assert stack.containers(CORE)


def test_one_machine_is_enough_with_addresses_of_localhost(stack):
    port = free_port()
    override = stack.folder / "deploy/localhost.yaml"
    override.write_text(override.read_text().replace("127.0.0.1:8080", f"127.0.0.1:{port}"))
    here = (*CORE, "-f", "deploy/localhost.yaml")
    client = None
    try:
        stack.up(here, "--no-deps", "telemetry_node")
        with urllib.request.urlopen(f"http://localhost:{port}/healthz", timeout=30) as answer:
            assert json.load(answer)["status"] == "ok"
        client = subprocess.Popen(
            [
                *(sys.executable, "-m", "soulsai", "client", "--name", "on-the-host"),
                *("--redis", f"redis://localhost:{stack.port}"),
                *("--secrets", stack.folder / "config/secrets"),
            ],
            env={**os.environ, "PYTHONPATH": str(ROOT)},
        )
        stack.until(
            "a client outside of the containers",
            lambda now: any(one.client == "on-the-host" and one.admitted for one in now.clients),
        )
    finally:
        if client is not None:
            client.terminate()
            client.wait(30)
        stack.up(CORE, "--no-deps", "telemetry_node")
