"""A person takes over in a fleet: nobody is shut out for it, and the steps are learnt from."""

import json
from pathlib import Path

import pytest

from soulsai import runs
from tests.system.train_cases import SMALL, soulsai

FILE = Path(__file__).with_name("steered_env.py")


@pytest.mark.parametrize("isolate", ["false", "true"])
def test_steps_that_a_person_chose_are_marked_counted_and_learnt_from(isolate, tmp_path):
    done = soulsai(
        *("train", "--env", f"{FILE}:make", *SMALL, "--max-env-steps", "900", "--clients", "2"),
        *("--set", "demonstrations.interventions=true", "--set", "trust.action_check=quarantine"),
        *("--set", "web.enabled=false", "--set", f"environment.isolate={isolate}"),
        *("--set", "training.keep_experience=kept"),
        cwd=tmp_path,
    )
    assert done.returncode == 0, done.stderr
    folder = runs.find(tmp_path / "saves", "latest")
    status = runs.status(folder)
    assert status.rejected == {}
    assert status.lost == 0
    assert {client.finding + client.held for client in status.clients} == {""}
    assert status.metrics["demonstrations"] == pytest.approx(0.1 * status.env_steps, abs=10)
    assert 0.0 < status.metrics["demonstration_share"] <= 0.5
    episodes = [json.loads(line) for line in (folder / "results.jsonl").read_text().splitlines()]
    assert any(episode["info"].get("intervened") for episode in episodes)
    (kept,) = (tmp_path / "kept").iterdir()
    from soulsai.datasets import kept_experience

    marks = [
        fragment.intervened.sum()
        for path in kept_experience.files(kept)
        for fragment in kept_experience.decode(path.read_bytes())
        if fragment.intervened is not None
    ]
    assert sum(marks) == pytest.approx(0.1 * status.env_steps, abs=10)
