"""The extensions of docs/extending.md, installed as a package and used in a run."""

import json
import re
import subprocess
import sys
from pathlib import Path

import gymnasium
import pytest

from soulsai import load_policy
from tests.system.train_cases import SMALL, complaint, soulsai

ROOT = Path(__file__).parents[2]
NETWORK = """
from torch import nn

class Net(nn.Module):
    def __init__(self, leaves, outputs):
        super().__init__()
        self.first = nn.Linear(4, WIDTH)
        self.last = nn.Linear(WIDTH, outputs)

    def forward(self, obs):
        return self.last(self.first(obs["obs"]).relu())
"""
EXAMPLE = ROOT / "examples" / "extending"


@pytest.fixture(scope="module")
def installed(tmp_path_factory):
    """A folder with the example as pip installs it."""
    folder = tmp_path_factory.mktemp("installed")
    source = tmp_path_factory.mktemp("source")
    for path in EXAMPLE.iterdir():
        if path.is_file():
            (source / path.name).write_bytes(path.read_bytes())
    words = ("--quiet", "--no-index", "--no-deps", "--no-build-isolation", "--target", str(folder))
    subprocess.run(
        [sys.executable, "-m", "pip", "install", *words, str(source)], check=True, timeout=120
    )
    return folder


def test_every_extension_works_in_one_run(installed, tmp_path):
    settings = (
        "algorithm.name=linear_q",
        "algorithm.options.lr=0.02",
        "environment.id=soulsai_example:make",
        "telemetry.metrics.burnt=info.burnt",
        "telemetry.sinks={lines: {name: points.txt}}",
        "run.max_env_steps=600",
        "web.enabled=false",
    )
    words = [word for setting in settings for word in ("--set", setting)]
    done = soulsai("train", *words, "--json", cwd=tmp_path, before=str(installed))
    assert done.returncode == 0, done.stderr
    summary = json.loads(done.stdout.splitlines()[-1])
    assert summary["env_steps"] >= 600
    assert summary["updates"] > 100
    run = next((tmp_path / "saves").glob("*_*"))
    episodes = [json.loads(line) for line in (run / "results.jsonl").read_text().splitlines()]
    assert all(episode["burnt"] >= 0 for episode in episodes)
    assert "exploring/reward" in (run / "points.txt").read_text()


@pytest.mark.parametrize(
    ("setting", "line"),
    [
        ("algorithm.options.rate=1", "algorithm.options: .*rate"),
        ("telemetry.sinks={nowhere: {}}", "telemetry.sinks.nowhere: not installed"),
    ],
)
def test_a_mistake_in_an_extensions_settings_is_one_line(installed, tmp_path, setting, line):
    words = ("--set", "algorithm.name=linear_q", "--env", "CartPole-v1", "--set", setting)
    done = soulsai(
        "train", *words, "--set", "run.max_env_steps=100000", cwd=tmp_path, before=str(installed)
    )
    assert done.returncode != 0
    assert re.search(line, done.stderr), done.stderr


@pytest.mark.parametrize(
    "words",
    [
        ("--env", "CartPole-v1", *SMALL, "--set", "dqn.network=soulsai_example:Gated"),
        ("--env", "Taxi-v4", "--algorithm", "ppo", "--set", "ppo.memory=8",
         "--set", "ppo.batch_steps=200", "--set", "checkpoint.every=1",
         "--set", "environment.max_episode_steps=50",
         "--set", "ppo.feature_extractor=soulsai_example:Kinds"),
    ],
    ids=["network", "feature extractor"],
)  # fmt: skip
def test_a_network_is_trained_resumed_and_then_no_longer_needed(installed, tmp_path, words):
    quiet = ("--set", "web.enabled=false", "--json")
    first = soulsai(
        "train", *words, *quiet, "--max-env-steps", 600, cwd=tmp_path, before=str(installed)
    )
    assert first.returncode == 0, first.stderr
    again = ("train", "--resume", "latest", "--max-env-steps", 900, *quiet)
    second = soulsai(*again, cwd=tmp_path, before=str(installed))
    assert second.returncode == 0, second.stderr
    summary = json.loads(second.stdout.splitlines()[-1])
    assert summary["env_steps"] >= 900
    assert summary["rejected"] == {}
    played = soulsai("evaluate", "latest", "--episodes", 2, "--json", cwd=tmp_path)
    assert played.returncode == 0, played.stderr
    policy = load_policy("latest", saves=tmp_path / "saves")
    env = gymnasium.make(words[1])
    obs, info = env.reset(seed=1)
    assert env.action_space.contains(policy.act(obs, info))
    without = soulsai(*again[:-3], "--max-env-steps", 999, cwd=tmp_path)
    assert "there is no module 'soulsai_example'; install its package" in complaint(without)


def test_the_docs_show_the_network_of_the_example():
    page = (ROOT / "docs" / "extending.md").read_text()
    (shown,) = re.findall(r"```python\n(class Gated.*?)```", page, re.DOTALL)
    assert shown in (EXAMPLE / "soulsai_example.py").read_text()


def test_a_changed_network_is_named_by_its_weight(tmp_path):
    (tmp_path / "mine.py").write_text(NETWORK.replace("WIDTH", "8"))
    words = ("--env", "CartPole-v1", *SMALL, "--set", "dqn.network=mine.py:Net", "--json")
    done = soulsai("train", *words, "--max-env-steps", 500, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    (tmp_path / "mine.py").write_text(NETWORK.replace("WIDTH", "9"))
    done = soulsai("train", "--resume", "latest", "--max-env-steps", 900, cwd=tmp_path)
    said = r"'values.network.module.first.weight' has the shape \(8, 4\) .*, \(9, 4\) now"
    assert re.search(said, complaint(done))


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("mine.py:Nat", "dqn.network: mine.py has no 'Nat'; it defines Net"),
        ("mine.py:Net", "dqn.network: mine.py:Net returns float32 [4, 1] for 4 observations; "),
    ],
)
@pytest.mark.parametrize("command", ["train", "check-env"])
def test_a_wrong_network_is_one_line(tmp_path, command, name, said):
    (tmp_path / "mine.py").write_text(NETWORK.replace("outputs)\n", "1)\n").replace("WIDTH", "8"))
    where = ("--env", "CartPole-v1") if command == "train" else ("CartPole-v1",)
    done = soulsai(command, *where, "--set", f"dqn.network={name}", cwd=tmp_path)
    assert said in (complaint(done) if command == "train" else done.stdout)
    assert not list((tmp_path / "saves").glob("*")), "nothing was begun"
