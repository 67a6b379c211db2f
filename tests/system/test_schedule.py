"""A curriculum: each client takes the arguments of a stage, and a resumed run goes on with them."""

import json
from pathlib import Path

import pytest

from soulsai import runs
from tests.system.train_cases import SMALL, complaint, soulsai

ENV = f"{Path(__file__).parents[1] / 'contract' / 'staged_env.py'}:Staged"
SCHEDULE = "[{env_step: 300, kwargs: {reward: 2.0}}, {env_step: 1500, kwargs: {reward: 3.0}}]"
WORDS = (
    *("train", "--env", ENV, *SMALL, "--clients", "2", "--set", "web.enabled=false"),
    *("--set", f"environment.schedule={SCHEDULE}", "--set", "environment.kwargs.reward=1.0"),
)


@pytest.mark.parametrize("isolate", ["false", "true"])
def test_stages_begin_at_their_env_steps_and_a_resumed_run_goes_on(isolate, tmp_path):
    words = (*WORDS, "--set", f"environment.isolate={isolate}")
    done = soulsai(*words, "--max-env-steps", "1400", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    first = episodes(tmp_path)
    assert {episode["kwargs"]["reward"] for episode in first} == {1.0, 2.0}
    done = soulsai("train", "--resume", "latest", "--max-env-steps", "3000", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    every = episodes(tmp_path)
    for episode in every:
        reward = episode["kwargs"]["reward"]
        assert episode["reward"] == reward * episode["steps"]
        # Admitted before it: an episode that had begun, and those on their way, are a little late.
        assert reward <= 1.0 or episode["env_steps"] >= {2.0: 300, 3.0: 1500}[reward]
    resumed = every[len(first) :]
    assert {episode["kwargs"]["reward"] for episode in resumed} == {2.0, 3.0}
    assert {episode["kwargs"]["reward"] for episode in every[-20:]} == {3.0}
    played = soulsai("evaluate", "latest", "--episodes", "2", "--env", ENV, "--json", cwd=tmp_path)
    assert json.loads(played.stdout)["mean"] == 15.0, "evaluations play the last stage"


@pytest.mark.parametrize("command", ["train", "check-env"])
def test_a_stage_that_cannot_be_made_ends_it_in_a_line(command, tmp_path):
    broken = "environment.schedule=[{env_step: 5, kwargs: {rewrad: 1.0}}]"
    words = ("train", "--env", ENV, "--clients", "1") if command == "train" else (command, ENV)
    done = soulsai(*words, "--set", broken, "--set", "web.enabled=false", cwd=tmp_path)
    assert "environment.schedule: from env step 5: " in complaint(done)
    assert "rewrad" in done.stderr
    assert done.returncode == 2
    assert not (tmp_path / "saves").exists() or not any((tmp_path / "saves").iterdir())


def episodes(folder):
    """Return the record of the newest run."""
    file = runs.find(folder / "saves", "latest") / "results.jsonl"
    return [json.loads(line) for line in file.read_text().splitlines()]
