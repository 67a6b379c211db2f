"""S2, S6: nothing that anybody sends runs, and nothing small becomes large, whoever reads it."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

HERE = Path(__file__).parent
ROOT = HERE.parents[1]


def run(script, *words):
    """Run a script in a process of its own: an audit hook stays for ever."""
    done = subprocess.run(
        [sys.executable, str(HERE / script), *words],
        capture_output=True, text=True, timeout=120, env={**os.environ, "PYTHONPATH": str(ROOT)},
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    return [json.loads(line) for line in done.stdout.splitlines()]


def test_no_payload_runs_in_either_direction(tmp_path):
    found, after = run("watch_hostile.py", str(tmp_path / "pwned"))
    assert found["payloads"] > 25
    assert found["events"] == []
    assert not found["written"]
    assert after["written"], "the payload works, where somebody unpickles it"
    assert {"pickle.find_class", "open"} <= {event for event, _ in after["events"]}


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
def test_no_bomb_goes_off():
    (found,) = run("measure_hostile.py")
    assert len(found) > 25
    slow = {name: ms for name, (ms, _) in found.items() if ms >= 50}
    large = {name: mb for name, (_, mb) in found.items() if mb > 20}
    assert not slow
    assert not large
