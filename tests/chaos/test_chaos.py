"""Whole systems under fire; each run ends with the comparison of ledgers."""

import json
import subprocess
import sys
import time
from pathlib import Path

ROOT = Path(__file__).parents[2]


def slowness():
    """Return how much slower than the reference this machine is now, at what a restart needs."""
    began = time.monotonic()
    subprocess.run([sys.executable, "-c", "import torch"], check=True)
    return max(1.0, (time.monotonic() - began) / 1.3)


def test_twenty_faults_lose_nothing_and_count_nothing_twice(tmp_path):
    slow = slowness()
    done = subprocess.run(
        [sys.executable, "-m", "tests.chaos", "--faults", "20", "--minutes", "0.6", "--seed", "7",
         "--slow", f"{slow:.2f}", "--keep", str(tmp_path / "run")],
        cwd=ROOT, capture_output=True, text=True, timeout=280,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    result = json.loads(done.stdout.splitlines()[-1])
    assert result["faults"] == 20
    assert result["accepted"] >= result["acked"] > 1000
    assert result["windows"] >= 1
