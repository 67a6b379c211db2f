"""The example of the boss fight wins, on four clients at ten times the game's pace."""

import json
import shutil
from pathlib import Path

import pytest

from soulsai import runs
from tests.system.train_cases import soulsai

ROOT = Path(__file__).parents[2]
STEPS, LAST = 300_000, 100_000
BAR = 0.6


@pytest.mark.learning
@pytest.mark.timeout(3600)
def test_the_stand_in_boss_is_beaten_by_the_example(tmp_path, capsys):
    shutil.copytree(ROOT / "examples", tmp_path / "examples")
    done = soulsai(
        *("train", "examples/soulsgym_iudex.yaml", "--max-env-steps", STEPS, "--seed", 11),
        *("--set", "environment.kwargs.game_speed=10"),
        *("--set", "environment.kwargs.reset_seconds=0.2"),
        cwd=tmp_path, timeout=3600,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    record = runs.every(tmp_path / "saves")[-1] / "results.jsonl"
    episodes = [json.loads(line) for line in record.read_text().splitlines()]
    late = [e for e in episodes if e["greedy"] and e["env_steps"] > STEPS - LAST]
    wins = [e["info"]["win"] for e in late]
    with capsys.disabled():
        print(f"\n{sum(wins):.0f} wins in the last {len(wins)} greedy episodes")
    assert len(wins) >= 10
    assert sum(wins) / len(wins) >= BAR
