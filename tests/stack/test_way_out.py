"""The end, after all that the other tests have done: the books are even, and a backup goes on."""

import json
import time

import pytest

from tests.stack.stack_cases import CORE, run

pytestmark = pytest.mark.stack

FLEET = 4


def test_each_env_step_counted_once(stack):
    """It stops the run, whose books are then compared."""
    stack.learning()
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


def test_another_machine_goes_on_from_a_backup(stack):
    """The last of these tests: what is here is taken down, and unpacked elsewhere."""
    progress, _ = stack.marks()
    stack.down()
    backup = stack.folder.parent / "backup.tgz"
    run(
        *("tar", "-czf", backup, "--exclude", "data/prometheus", ".env", "config", "saves", "data"),
        cwd=stack.folder,
    )
    run_id = stack.run_folder().name
    stack.fresh(stack.folder.parent / "elsewhere")
    run("tar", "-xzf", backup, cwd=stack.folder)
    stack.setup()
    stack.up(CORE, "--scale", f"client={FLEET}")
    after = stack.progress("progress elsewhere", FLEET)
    assert after.run == run_id
    assert after.env_steps > progress["env_steps"]
