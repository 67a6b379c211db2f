"""One command, end to end: what a run shows, leaves, and lets one do afterwards."""

import json

import msgspec
import pytest

from soulsai.launch.summary import Summary
from tests.system.train_cases import CARTPOLE, soulsai

STEPS = 1500
SEEDED = """
import gymnasium

class Seeded(gymnasium.Wrapper):
    '''CartPole, in which an episode earns the seed it began with.'''

    def __init__(self):
        super().__init__(gymnasium.make("CartPole-v1"))

    def reset(self, *, seed=None, options=None):
        self.earned = float(seed)
        return super().reset(seed=seed, options=options)

    def step(self, action):
        obs, _, terminated, truncated, info = super().step(action)
        reward, self.earned = self.earned, 0.0
        return obs, reward, terminated, truncated, info
"""


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """Return the folder of a finished run, and what the command said."""
    folder = tmp_path_factory.mktemp("train")
    done = soulsai("train", *CARTPOLE, "--max-env-steps", STEPS, "--json", cwd=folder)
    assert done.returncode == 0, done.stderr
    return folder, done


def summary_of(done):
    return msgspec.json.decode(done.stdout.splitlines()[-1], type=Summary)


def test_summary_is_the_last_line_and_a_file(trained):
    folder, done = trained
    summary = summary_of(done)
    assert len(done.stdout.splitlines()) == 1
    assert STEPS <= summary.env_steps < STEPS + 200
    assert summary.phase == "ended"
    assert summary.updates >= 0.5 * (STEPS - 300)
    assert summary.episodes > 10
    assert 0 < summary.bytes_per_transition < 60
    assert summary.best_reward >= summary.reward_mean > 0
    assert (summary.rejected, summary.duplicates, summary.lost) == ({}, 0, 0)
    assert json.loads((folder / summary.run / "summary.json").read_text()) == json.loads(
        done.stdout
    )


def test_progress_is_shown_in_plain_lines_where_there_is_no_terminal(trained):
    _, done = trained
    assert "CartPole-v1" in done.stderr.splitlines()[0]
    assert any(line.startswith("page ") for line in done.stderr.splitlines()), done.stderr
    assert "\x1b" not in done.stderr


def test_run_folder_holds_everything(trained):
    folder, done = trained
    run = folder / summary_of(done).run
    names = {path.name for path in run.iterdir()}
    assert names >= {
        *("config.json", "status.json", "summary.json", "results.jsonl", "telemetry.png"),
        *("checkpoints", "logs"),
    }
    assert {path.name for path in (run / "logs").iterdir()} == {
        *("training-node.log", "telemetry-node.log", "client-1.log", "client-2.log"),
    }
    assert len((run / "results.jsonl").read_text().splitlines()) == summary_of(done).episodes
    assert "server.json" not in names, "there is no server any more"
    assert [path.name for path in run.parent.iterdir()] == [run.name], "nothing is left beside it"


def test_settings_of_the_command_line_are_those_of_the_run(trained):
    folder, done = trained
    config = json.loads((folder / summary_of(done).run / "config.json").read_text())
    assert config["environment"]["id"] == "CartPole-v1"
    assert config["dqn"]["hidden"] == [16, 16]
    assert config["run"]["max_env_steps"] == STEPS
    assert isinstance(config["run"]["seed"], int)


def test_evaluate_plays_the_newest_checkpoint(trained):
    folder, _ = trained
    words = ("--episodes", 5, "--json")
    latest = soulsai("evaluate", "latest", *words, cwd=folder)
    result = json.loads(latest.stdout.splitlines()[-1])
    assert set(result) == {"mean", "iqm", "std", "episodes", "env_steps", "left_out", "faults"}
    assert result["episodes"] == 5
    assert result["mean"] * 5 == result["env_steps"]
    policy = sorted(folder.glob("saves/*/checkpoints/*/policy.onnx"))[-1]
    again = soulsai("evaluate", policy, *words, cwd=folder)
    assert again.stdout == latest.stdout


def test_episodes_are_evaluated_with_the_seeds_that_were_asked_for(trained):
    folder, _ = trained
    (folder / "seeded.py").write_text(SEEDED)
    words = ("--episodes", 3, "--seed", 50, "--env", "seeded.py:Seeded", "--json")
    done = soulsai("evaluate", "latest", *words, cwd=folder)
    assert json.loads(done.stdout.splitlines()[-1])["mean"] == (50 + 51 + 52) / 3


def test_runs_are_listed(trained):
    folder, done = trained
    listed = json.loads(soulsai("runs", "--json", cwd=folder).stdout)
    assert [entry["run"] for entry in listed] == [summary_of(done).run]
    assert listed[0]["status"]["env_steps"] == summary_of(done).env_steps
    assert "ended: dqn on CartPole-v1" in soulsai("runs", cwd=folder).stdout


def test_a_run_goes_on_with_its_own_settings(trained):
    folder, done = trained
    before = summary_of(done)
    more = STEPS + 500
    again = soulsai("train", "--resume", "latest", "--max-env-steps", more, "--json", cwd=folder)
    assert again.returncode == 0, again.stderr
    after = summary_of(again)
    assert after.run == before.run
    assert more <= after.env_steps < more + 200
    assert after.updates > before.updates
    assert after.episodes > before.episodes
    assert (after.duplicates, after.lost) == (0, 0)
    config = json.loads((folder / after.run / "config.json").read_text())
    assert config["environment"]["id"] == "CartPole-v1"


def test_a_vector_environment_is_played_learnt_from_and_evaluated(tmp_path):
    sets = ("environment.vector=true", "environment.count=8", "dqn.replay_ratio=0.1")
    words = [word for each in sets for word in ("--set", each)]
    done = soulsai("train", *CARTPOLE, *words, "--max-env-steps", STEPS, "--json", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    summary = summary_of(done)
    assert summary.env_steps >= STEPS
    assert summary.updates > 0
    assert summary.episodes > 10
    assert (summary.rejected, summary.duplicates, summary.lost) == ({}, 0, 0)
    lines = (tmp_path / summary.run / "results.jsonl").read_text().splitlines()
    episodes = [json.loads(line) for line in lines]
    assert {one["reward"] - one["steps"] for one in episodes if "reward" in one} == {0}
    done = soulsai("evaluate", "latest", "--episodes", 3, "--json", cwd=tmp_path)
    assert json.loads(done.stdout)["episodes"] == 3
