"""The Python API: the example, end to end, and what its names give and refuse."""

import subprocess
import sys

import msgspec
import numpy as np
import pytest

import soulsai
from soulsai.errors import CheckpointError, ConfigError
from soulsai.types import Status
from tests.system.train_cases import PATIENCE, ROOT, environ

SMALL = ["dqn.hidden=[16]", "dqn.quantiles=1", "dqn.learning_starts=300", "web.enabled=false"]


@pytest.fixture(scope="module")
def example(tmp_path_factory):
    """Return the folder in which the example ran, and what it printed."""
    folder = tmp_path_factory.mktemp("api")
    done = subprocess.run(
        [sys.executable, ROOT / "examples" / "python_api.py", "1200", *SMALL],
        capture_output=True,
        text=True,
        cwd=folder,
        env=environ(),
        timeout=PATIENCE,
    )
    assert done.returncode == 0, done.stderr
    return folder, done.stdout.splitlines()


def test_the_example_trains_reads_and_plays(example):
    folder, lines = example
    (run,) = (folder / "saves").iterdir()
    assert lines[0].split() == ["env_steps", "reward", "steps"]
    status = msgspec.json.decode((run / "status.json").read_bytes(), type=Status)
    results = soulsai.read_results(run)
    assert len(results) == status.episodes
    assert results["env_steps"].is_monotonic_increasing
    assert lines[5].split()[1:] == [str(int(results.iloc[-1]["env_steps"])), *lines[5].split()[2:]]
    evaluation = soulsai.evaluate("latest", episodes=10, saves=folder / "saves")
    assert float(lines[6]) == evaluation.mean == np.mean(evaluation.rewards)
    assert lines[7].startswith("one episode: ")


def test_what_is_not_there_is_named(tmp_path):
    with pytest.raises(CheckpointError, match="no run"):
        soulsai.load_policy("latest", saves=tmp_path)
    with pytest.raises(ConfigError, match=r"dqn\.lrr.*did you mean"):
        soulsai.load_config(sets=["dqn.lrr=1"])
    with pytest.raises(AttributeError, match="no attribute 'trainn'"):
        _ = soulsai.trainn
    assert {"train", "load_policy"} <= set(dir(soulsai))


def test_a_policy_says_which_leaf_it_misses(example):
    folder, _ = example
    policy = soulsai.load_policy("latest", saves=folder / "saves")
    assert policy.act(np.zeros(4)) in (0, 1)
    with pytest.raises(soulsai.errors.EnvironmentFault, match=r"leaf 'obs' .* shape \(4,\)"):
        policy.act(np.zeros(5))


def test_a_policy_loads_without_torch_and_the_servers_packages(example):
    folder, _ = example
    code = (
        "import sys, soulsai; p = soulsai.load_policy('latest'); p.act([0, 0, 0, 0]); "
        "print(*({'torch', 'starlette', 'redis', 'matplotlib'} & set(sys.modules)))"
    )
    done = subprocess.run(
        [sys.executable, "-c", code],
        capture_output=True,
        text=True,
        cwd=folder,
        env=environ(),
        timeout=PATIENCE,
        check=True,
    )
    assert done.stdout.split() == []
