"""Whatever happens to a container, training goes on, and each env step counts once."""

import json
import time

import pytest
from stack_cases import CORE, MONITORING, run, until

pytestmark = pytest.mark.stack

CUT_SECONDS, PAUSED_SECONDS = 30, 10
FLEET = 4


def learning(stack):
    return stack.until("learning", lambda now: now.phase == "learning" and now.checkpoint)


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
    learning(stack)
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
    learning(stack)
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
    learning(stack)
    container = stack.containers()[service][0]
    run("docker", "pause", container, cwd="/")
    time.sleep(PAUSED_SECONDS)
    run("docker", "unpause", container, cwd="/")
    stack.progress(f"progress after {service} was paused", FLEET)


def test_each_env_step_counted_once(stack):
    """The last of these tests: it stops the run, whose books are then compared."""
    learning(stack)
    telling = stack.status()
    stack.compose(CORE, "stop", "client")
    last = stack.until("all of it learnt", lambda now: _quiet(stack, now))
    stack.compose(CORE, "stop", "training_node")
    progress, marks = stack.marks()
    taken = sum(marks.values())
    print(
        f"admitted {progress['env_steps']}, taken {taken}, lost {progress['lost']}, "
        f"duplicates {progress['duplicates']}, rejected {progress['rejected']}, "
        f"clients {len(marks)}, updates {progress['updates']}"
    )
    assert progress["env_steps"] == last.env_steps > telling.env_steps / 2
    assert progress["env_steps"] + progress["lost"] == taken, "the books are not even"
    assert progress["lost"] == 0
    assert not progress["rejected"]
    lines = (stack.run_folder() / "results.jsonl").read_text().splitlines()
    episodes = [json.loads(line) for line in lines]
    told = [(episode["client"], episode["episode"]) for episode in episodes]
    assert len(told) == len(set(told)), "an episode was recorded twice"
    assert not any(episode.get("gap") for episode in episodes)
    for client, steps in marks.items():
        of_client = [episode for episode in episodes if episode["client"] == client]
        numbers = sorted(episode["episode"] for episode in of_client)
        assert numbers == list(range(len(numbers))), f"{client} has a hole"
        finished = sum(episode["steps"] for episode in of_client)
        assert finished <= steps <= finished + 500


def _quiet(stack, before):
    time.sleep(2)
    now = stack.status()
    return now if now is not None and now.env_steps == before.env_steps else None
