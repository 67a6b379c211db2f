"""A policy of a stranger reads no file under the oldest and the newest permitted ONNX Runtime."""

import os
import re
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
(FLOOR,) = (
    match[1] for text in PROJECT["dependencies"] if (match := re.match(r"onnxruntime>=(\S+)", text))
)
SUITES = ("tests/unit/wire/test_graph_check.py", "tests/unit/client/test_trial_load.py")
VERSION = "import onnxruntime; print(onnxruntime.__version__)"


@pytest.mark.long
@pytest.mark.timeout(900)
@pytest.mark.parametrize("wanted", [f"onnxruntime=={FLOOR}.*", f"onnxruntime>={FLOOR}"])
def test_policies_of_strangers_are_judged_alike(wanted, tmp_path):
    install = ["-m", "pip", "install", "--quiet", "--no-deps", "--target", str(tmp_path), wanted]
    subprocess.run([sys.executable, *install], check=True, timeout=600)
    environ = {**os.environ, "PYTHONPATH": f"{tmp_path}{os.pathsep}{ROOT}"}
    used = subprocess.run(
        [sys.executable, "-c", VERSION], env=environ, capture_output=True, text=True, check=True
    ).stdout.strip()
    assert used.startswith(f"{FLOOR}.") == ("==" in wanted), used
    words = [
        "-q",
        "-p",
        "no:cacheprovider",
        "-p",
        "no:xdist",
        "-o",
        "addopts=--import-mode=importlib",
    ]
    done = subprocess.run(
        [sys.executable, "-m", "pytest", *words, *SUITES],
        cwd=ROOT, env=environ, capture_output=True, text=True, timeout=600,
    )  # fmt: skip
    assert done.returncode == 0, f"{used}: {done.stdout[-2000:]}"
