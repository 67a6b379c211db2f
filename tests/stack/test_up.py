"""The stack comes up, learns, keeps, and is locked."""

import json
import socket
import stat

import pytest

from tests.stack.stack_cases import CORE, MONITORING, busy, run, until

pytestmark = pytest.mark.stack

UP_SECONDS = 60
NODE_BYTES, CLIENT_BYTES = 1_300_000_000, 350_000_000


def test_it_is_up_and_healthy_soon(stack):
    assert sum(stack.took.values()) <= UP_SECONDS * busy(), stack.took
    services = {**stack.containers(CORE), **stack.containers(MONITORING)}
    assert set(services) == {
        "redis", "training_node", "telemetry_node", "evaluator", "client",
        "prometheus", "redis_exporter", "grafana",
    }  # fmt: skip
    for container in stack.names():
        assert stack.inspect(container)["State"]["Health"]["Status"] == "healthy"
    took = ", ".join(f"{seconds:.1f} s" for seconds in stack.took.values())
    print(f"core and monitoring: {took}; {busy():.1f} busy")


def test_a_fleet_trains_and_the_host_has_what_came_of_it(stack):
    status = stack.until("learning", lambda now: now.phase == "learning" and now.checkpoint)
    assert status.environment == "CartPole-v1"
    assert sum(client.state != "lost" for client in status.clients) == 4
    assert len(stack.containers()["client"]) == 4
    until("the best model", lambda: (stack.run_folder() / "best_model/policy.onnx").is_file())
    until("a figure", lambda: (stack.run_folder() / "telemetry.png").is_file())
    assert list((stack.run_folder() / "checkpoints").glob("*/policy.onnx"))
    assert (stack.run_folder() / "results.jsonl").stat().st_size


def test_containers_can_do_nothing_but_their_work(stack):
    for container in stack.names():
        state = stack.inspect(container)
        limits = state["HostConfig"]
        assert limits["ReadonlyRootfs"], container
        assert limits["CapDrop"] == ["ALL"]
        assert "no-new-privileges:true" in limits["SecurityOpt"]
        assert limits["Memory"] > 0
        assert limits["PidsLimit"] > 0
        assert limits["LogConfig"]["Config"]["max-size"]
        seen = stack.execute(container, "cat /proc/1/status; touch /here 2>&1; id -u")
        words = dict(line.split(":\t", 1) for line in seen.splitlines() if ":\t" in line)
        assert int(words["CapEff"], 16) == int(words["CapPrm"], 16) == 0
        assert words["NoNewPrivs"] == "1"
        assert "Read-only file system" in seen
        assert int(seen.splitlines()[-1]) > 0


def test_only_the_server_of_clients_is_published(stack):
    published = {}
    for files in (CORE, MONITORING):
        for service, containers in stack.containers(files).items():
            for ports in stack.inspect(containers[0])["NetworkSettings"]["Ports"].values():
                for entry in ports or []:
                    published[service] = (entry["HostIp"], int(entry["HostPort"]))
    assert published == {"redis": ("127.0.0.1", stack.port)}


def test_redis_cannot_be_reached_from_the_network_of_the_monitors(stack):
    redis = stack.inspect(stack.containers()["redis"][0])["NetworkSettings"]["Networks"]
    assert set(redis) == {"train_server_net"}
    address = redis["train_server_net"]["IPAddress"]
    script = (
        "import socket\n"
        "def reach(host, port):\n"
        "    try: socket.create_connection((host, port), 3).close()\n"
        "    except OSError as error: return type(error).__name__\n"
        "    return 'reached'\n"
        f"print(reach('redis', 6379), reach('{address}', 6379), reach('telemetry_node', 8080))"
    )
    said = run(
        *("docker", "run", "--rm", "--network", "server", "--entrypoint", "python"),
        *("soulsai-client:local", "-c", script),
        cwd=stack.folder,
    ).split()
    assert said == ["gaierror", "TimeoutError", "reached"]


def test_redis_lets_in_nobody_without_a_password(stack):
    with socket.create_connection(("127.0.0.1", stack.port), 5) as link:
        link.sendall(b"PING\r\n")
        assert link.recv(100).startswith(b"-NOAUTH")


def test_files_on_the_host_are_for_their_owner_only(stack):
    for secret in (stack.folder / "config/secrets").iterdir():
        if secret.name not in ("manifest.pub",):
            assert stat.S_IMODE(secret.stat().st_mode) & 0o077 == 0, secret
    node = stack.containers()["training_node"][0]
    assert "denied" in stack.execute(node, "ls /app/config/secrets 2>&1 || true")


def test_images_are_small(stack):
    sizes = {
        name: json.loads(run("docker", "image", "inspect", f"soulsai-{name}:local", cwd="/"))[0][
            "Size"
        ]
        for name in ("node", "client")
    }
    print(sizes)
    assert sizes["node"] <= NODE_BYTES
    assert sizes["client"] <= CLIENT_BYTES
