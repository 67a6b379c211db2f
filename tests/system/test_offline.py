"""From a data set alone to a run that goes on with clients."""

import json

from tests.system.train_cases import SMALL, complaint, soulsai

QUIET = ("--set", "web.enabled=false")


def test_learning_from_data_alone_gives_a_run_to_start_from(tmp_path):
    words = ("train", "--env", "CartPole-v1", *SMALL, *QUIET, "--clients", "1")
    done = soulsai(
        *(*words, "--max-env-steps", "600", "--set", "training.keep_experience=kept"), cwd=tmp_path
    )
    assert done.returncode == 0, done.stderr
    assert soulsai("export", "latest", "--out", "cart-v0", cwd=tmp_path).returncode == 0
    offline = ("train", "--env", "CartPole-v1", *SMALL, "--offline", "--set", "offline.updates=300")
    done = soulsai(*offline, "--data", "cart-v0", "--json", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    result = json.loads(done.stdout)
    assert result["updates"] == 300
    assert result["metrics"]["conservative_penalty"] > 0
    run = result["folder"].rpartition("/")[2]
    played = soulsai("evaluate", run, "--episodes", "2", "--json", cwd=tmp_path)
    assert json.loads(played.stdout)["episodes"] == 2
    done = soulsai(*words, "--max-env-steps", "400", "--start-from", run, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert "no policy" not in done.stderr
    told = complaint(soulsai(*offline, cwd=tmp_path))
    assert "--data: name the data sets" in told
    told = complaint(soulsai(*offline, "--data", "nothing", cwd=tmp_path))
    assert "nothing: is not there" in told
    ppo = ("--algorithm", "ppo", "--data", "cart-v0")
    told = complaint(soulsai(*offline, *ppo, cwd=tmp_path))
    assert "ppo cannot learn from data alone" in told
    wider = ("--max-env-steps", "400", "--start-from", run, "--set", "dqn.hidden=24,24")
    told = complaint(soulsai(*words, *wider, cwd=tmp_path))
    assert "start.policy" in told
    assert "start.partial: true takes the rest" in told
