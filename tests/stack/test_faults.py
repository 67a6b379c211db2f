"""Whatever happens to a container, training goes on."""

import time

import pytest

from tests.stack.stack_cases import CORE, MONITORING, run, until

pytestmark = pytest.mark.stack

CUT_SECONDS, PAUSED_SECONDS = 30, 10
FLEET = 4


@pytest.mark.parametrize(
    ("files", "service"),
    [
        (CORE, "redis"),
        (CORE, "training_node"),
        (CORE, "telemetry_node"),
        (CORE, "client"),
        (MONITORING, "prometheus"),
        (MONITORING, "redis_exporter"),
        (MONITORING, "grafana"),
    ],
)
def test_what_is_killed_comes_back(stack, files, service):
    stack.learning()
    container = stack.containers(files)[service][0]
    before = stack.inspect(container)
    stack.kill(container)
    until(
        f"{service} again",
        lambda: (
            (now := stack.inspect(container))["RestartCount"] > before["RestartCount"]
            and now["State"]["Health"]["Status"] == "healthy"
        ),
    )
    after = stack.progress(f"progress after {service} was killed", FLEET)
    assert after.run == stack.run_folder().name, "it is the same run"
    assert len(list((stack.folder / "saves").glob("*/config.json"))) == 1


@pytest.mark.parametrize("service", ["training_node", "telemetry_node", "client", "redis"])
def test_what_is_cut_off_comes_back(stack, service):
    stack.learning()
    container = stack.containers()[service][0]
    run("docker", "network", "disconnect", "train_server_net", container, cwd="/")
    time.sleep(CUT_SECONDS)
    run(
        *("docker", "network", "connect", "--alias", service, "train_server_net", container),
        cwd="/",
    )
    after = stack.progress(f"progress after {service} was cut off", FLEET)
    assert stack.inspect(container)["State"]["Status"] == "running"
    assert after.run == stack.run_folder().name


@pytest.mark.parametrize("service", ["redis", "training_node", "telemetry_node", "client"])
def test_what_is_paused_goes_on(stack, service):
    stack.learning()
    container = stack.containers()[service][0]
    run("docker", "pause", container, cwd="/")
    try:
        time.sleep(PAUSED_SECONDS)
    finally:
        run("docker", "unpause", container, cwd="/")
    stack.progress(f"progress after {service} was paused", FLEET)


def test_a_changed_secret_opens_and_the_old_one_does_not(stack):
    stack.learning()
    secret = stack.folder / "config/secrets/redis.secret"
    before = secret.read_text()
    (stack.folder / "config/redis.secret").unlink()  # of the operator's own choice
    secret.unlink()
    stack.compose(CORE, "run", "--rm", "secrets")
    assert secret.read_text() != before
    stack.compose(CORE, "up", "-d", "--no-deps", "--force-recreate", "--wait", "redis")
    refused = stack.status()
    stack.up(CORE, "--scale", f"client={FLEET}", "--no-deps", "--force-recreate", "client")
    after = stack.progress("progress with another secret", FLEET)
    assert refused is None or after.env_steps > refused.env_steps
