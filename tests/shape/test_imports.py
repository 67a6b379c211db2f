"""The arrows of the architecture, and what a light process may not load."""

import subprocess
import sys

import pytest

HEAVY = (
    "torch",
    "matplotlib",
    "onnx",
    "onnxscript",
    "starlette",
    "pydantic",
    "soulsai.algorithms.base",
)


def test_arrows_point_down():
    # In a process of its own: it reconfigures logging for everybody.
    code = "import sys; from importlinter.cli import lint_imports; sys.exit(lint_imports())"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stdout


@pytest.mark.parametrize(
    "module",
    ["soulsai.client.session", "soulsai.cli.app", "soulsai.api", "soulsai.launch.supervisor"],
)
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
