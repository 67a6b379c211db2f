"""A run with an evaluator: what it finds, and that its death costs the run nothing."""

import json
import re
from pathlib import Path

import av
import msgspec
import pytest

from soulsai.evaluations.record import Evaluations, read_state
from tests.system.train_cases import CARTPOLE, PATIENCE, TERMINATE, Training, soulsai, until

pytestmark = pytest.mark.timeout(900)  # a whole run, and an evaluator that gives way to all
ROOT = Path(__file__).parents[2]
EVALUATED = (
    *CARTPOLE,
    *("--set", "evaluate.every=1"),
    *("--set", "evaluate.episodes=6"),
    *("--set", "evaluate.video_episodes=1"),
)


@pytest.fixture(scope="module")
def evaluated(tmp_path_factory):
    """Return the folder of a finished run that was evaluated."""
    folder = tmp_path_factory.mktemp("evaluated")
    # Long enough for a checkpoint before the last one, for which the end waits: until two models
    # have been compared, the moving average decides.
    words = ("train", *EVALUATED, "--max-env-steps", 8000, "--json")
    done = soulsai(*words, cwd=folder, timeout=4 * PATIENCE)
    assert done.returncode == 0, done.stderr
    return folder / json.loads(done.stdout.splitlines()[-1])["run"]


def test_the_last_checkpoint_is_played_and_the_best_is_one_that_was(evaluated):
    evaluations = Evaluations(evaluated)
    lines = evaluations.refresh()
    newest = max(int(path.name) for path in (evaluated / "checkpoints").iterdir())
    assert f"{newest:06d}" in evaluations.models
    assert lines[0].verdict == "first"
    assert all(line.returns and line.mean > 0 for line in lines)
    assert {line.seeds[0] for line in lines} == {2_000_000}
    best = json.loads((evaluated / "best.json").read_bytes())
    assert (best["checkpoint"], best["saved"]) == (evaluations.best.model, True)
    assert best["low"] <= best["score"] <= best["high"]
    about = json.loads((evaluated / "best_model" / "about.json").read_bytes())
    assert about["checkpoint"] == evaluations.best.model
    assert read_state(evaluated).ended


def test_the_best_can_be_seen(evaluated):
    evaluations = Evaluations(evaluated)
    evaluations.refresh()
    folder = evaluated / "evaluations" / evaluations.best.model
    with av.open(str(folder / "episode-2000000.webm")) as video:
        frames = sum(1 for _ in video.decode(video=0))
    trace = msgspec.json.decode((folder / "episode-2000000.json").read_bytes())
    assert trace["frames"] == frames == len(trace["rewards"]) + 1
    assert sum(trace["rewards"]) == evaluations.best.returns[0], "the same episode, with pictures"


def test_every_file_of_a_run_is_explained(evaluated):
    page = (ROOT / "docs" / "quickstart.md").read_text()
    table = page.partition("## What a run leaves")[2].partition("\n## ")[0]
    explained = set(re.findall(r"`([\w.]+)", table))
    left = {path.name for path in evaluated.iterdir()}
    assert left >= {"config.json", "evaluations"}
    assert left - explained == set()


def test_an_evaluator_that_is_killed_comes_back_and_the_run_goes_on(tmp_path):
    with Training(tmp_path, *EVALUATED, "--max-env-steps", "0") as training:
        victim = training.child("soulsai evaluator")
        folder = training.run_folder()
        until("a sign of life", lambda: read_state(folder))
        victim.kill()
        until(
            "another evaluator",
            lambda: training.child("soulsai evaluator").pid != victim.pid,
        )
        before = training.status() or training.until("a status", bool)
        training.until("progress", lambda status: status.updates > before.updates + 100)
        until("an evaluation", lambda: Evaluations(folder).refresh(), timeout=3 * PATIENCE)
        code, _ = training.end(TERMINATE)
        assert code == 143
        assert "evaluator was killed by SIGKILL, and starts again in" in training.errors()
        assert (folder / "logs" / "evaluator.log").is_file()


GAME = """
import os
import gymnasium

def make():
    if os.nice(0) == 19:  # as the evaluator is
        raise RuntimeError("this game runs on a player's PC only")
    return gymnasium.make("CartPole-v1", max_episode_steps=30)
"""


def test_clients_play_what_the_server_cannot_make(tmp_path):
    (tmp_path / "game.py").write_text(GAME)
    words = ("--env", "game.py:make", *EVALUATED[2:], "--max-env-steps", "0")
    with Training(tmp_path, *words) as training:
        training.until("learning", lambda status: status.updates > 10)
        folder = training.run_folder()
        lines = until(
            "an evaluation by clients", lambda: Evaluations(folder).refresh(), timeout=3 * PATIENCE
        )
        code, _ = training.end(TERMINATE)
    assert code == 143
    assert {line.by for line in lines} == {"clients"}
    assert lines[0].episodes == 6
    assert lines[0].seeds == ()
    played = [json.loads(line) for line in (folder / "results.jsonl").read_text().splitlines()]
    asked = [one for one in played if one["greedy"] and one["version"] == lines[0].version]
    assert len(asked) >= 6
    events = (folder / "events.jsonl").read_text()
    assert "cannot play here, so clients are asked" in events
    assert "asked clients for 3 greedy episodes of version" in events
