"""Whole systems under fire; each run ends with the comparison of ledgers."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from .stage import ALGORITHMS

ROOT = Path(__file__).parents[2]


@pytest.mark.chaos
@pytest.mark.parametrize("algorithm", sorted(ALGORITHMS))
def test_twenty_faults_lose_nothing_and_count_nothing_twice(tmp_path, algorithm):
    done = subprocess.run(
        [sys.executable, "-m", "tests.chaos", "--faults", "20", "--minutes", "0.6", "--seed", "7",
         "--algorithm", algorithm, "--keep", str(tmp_path / "run")],
        cwd=ROOT, capture_output=True, text=True, timeout=280,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    result = json.loads(done.stdout.splitlines()[-1])
    assert result["faults"] == 20
    assert result["accepted"] >= result["acked"] > 1000
    assert result["windows"] >= 1
