"""The extensions of docs/extending.md, installed as a package and used in a run."""

import json
import re
import subprocess
import sys
from pathlib import Path

import pytest

from tests.system.train_cases import soulsai

ROOT = Path(__file__).parents[2]
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
