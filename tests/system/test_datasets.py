"""Experience goes out of a run and in again, by the commands that users type."""

import json

import minari
import numpy as np
import pytest

from soulsai import runs
from soulsai.datasets import kept_experience
from tests.system.train_cases import SMALL, complaint, soulsai


@pytest.fixture(scope="module")
def played(tmp_path_factory):
    """A folder with a run that has kept its experience."""
    folder = tmp_path_factory.mktemp("played")
    words = ("train", "--env", "CartPole-v1", *SMALL, "--max-env-steps", "900", "--clients", "1")
    done = soulsai(
        *(*words, "--set", "training.keep_experience=kept", "--set", "web.enabled=false"),
        cwd=folder,
    )
    assert done.returncode == 0, done.stderr
    return folder


def test_a_run_s_experience_goes_out_and_in_again_bit_for_bit(played, monkeypatch):
    out = json.loads(soulsai("export", "latest", "--out", "cart-v0", "--json", cwd=played).stdout)
    (kept,) = (played / "kept").iterdir()
    fragments = [
        fragment
        for path in kept_experience.files(kept)
        for fragment in kept_experience.decode(path.read_bytes())
    ]
    admitted = runs.status(runs.find(played / "saves", "latest")).env_steps
    assert sum(map(len, fragments)) == admitted >= 900
    assert 0 < out["env_steps"] <= admitted
    monkeypatch.setenv("MINARI_DATASETS_PATH", str(played))
    loaded = list(minari.load_dataset("cart-v0").iterate_episodes())
    assert sum(map(len, loaded)) == out["env_steps"]
    first = next(f for f in fragments if (f.episode, f.start) == (fragments[0].episode, 0))
    np.testing.assert_array_equal(loaded[0].observations[: len(first)], first.obs["obs"][:-1])
    words = ("import", "cart-v0", "--run", "latest", "--out", "back.parquet", "--json")
    back = json.loads(soulsai(*words, cwd=played).stdout)
    assert (back["episodes"], back["env_steps"]) == (out["episodes"], out["env_steps"])
    assert back["mean"] == pytest.approx(out["mean"])


def test_a_policy_is_recorded(played):
    words = ("record", "--policy", "latest", "--episodes", "2", "--out", "rec-v0", "--json")
    done = soulsai(*words, cwd=played)
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["episodes"] == 2
    assert "rec-v0 is there already" in complaint(soulsai(*words, cwd=played))


def test_mistakes_are_one_line(played):
    words = ("import", "cart-v0", "--env", "Pendulum-v1", "--out", "x.parquet")
    soulsai("export", "latest", "--out", "cart-v0", cwd=played)
    told = complaint(soulsai(*words, cwd=played))
    assert "cart-v0: does not fit: observation leaf 'obs' is Box" in told
    assert "action is Discrete(2), where the run has Box" in told
    other = soulsai("train", "--env", "CartPole-v1", *SMALL, "--max-env-steps", "1", cwd=played)
    assert other.returncode == 0
    told = complaint(soulsai("export", "latest", "--out", "y-v0", cwd=played))
    assert "has kept no experience; set training.keep_experience" in told
