"""The arrows of the architecture, and what a light process may not load."""

import subprocess
import sys

import pytest
from importlinter.cli import lint_imports

HEAVY = ("torch", "matplotlib", "onnx", "onnxscript", "fastapi", "pydantic", "soulsai.algorithms")


def test_arrows_point_down():
    assert lint_imports(no_cache=True) == 0


@pytest.mark.parametrize("module", ["soulsai.client.session", "soulsai.cli", "soulsai.supervisor"])
def test_light_modules_load_nothing_heavy(module):
    code = f"import sys, {module}; print(*(set({HEAVY}) & set(sys.modules)))"
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=True
    )
    assert done.stdout.split() == []


def test_telemetry_node_needs_no_torch():
    code = "import sys, soulsai.telemetry_node.node; print('torch' in sys.modules)"
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=True
    )
    assert done.stdout.strip() == "False"
