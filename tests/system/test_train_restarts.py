"""A run in which everything dies once, and goes on; operated meanwhile from outside."""

import json

from tests.system.train_cases import CARTPOLE, TERMINATE, Training, soulsai, until


def test_everything_that_dies_is_started_again(tmp_path):
    with Training(tmp_path, *CARTPOLE, "--max-env-steps", "0") as training:
        training.until("a checkpoint", lambda status: status.checkpoint)
        for word in ("client-1", "telemetry-node", "training-node", "valkey-server"):
            before = training.status() or training.until("a status", bool)
            victim = training.child(word)
            victim.kill()
            until(
                f"another {word}",
                lambda old=victim, word=word: training.child(word).pid != old.pid,
            )
            training.until(
                f"progress without the old {word}",
                lambda status, old=before: (
                    status.updates > old.updates + 100
                    and sum(client.state != "lost" for client in status.clients) == 2
                ),
            )
        status = training.status()
        assert status.run == training.run_folder().name, "it is the same run"
        operate(training)
        processes = training.children()
        code, summary = training.end(TERMINATE)
        assert code == 143
        assert summary["run"] == str(training.run_folder().relative_to(tmp_path))
        assert summary["phase"] == "stopping"
        assert summary["env_steps"] >= status.env_steps
        assert "training-node was killed by SIGKILL, and starts again in" in training.errors()
        assert "the server died" in training.errors()
        assert not any(process.is_running() for process in processes)


def operate(training):
    """Ask after the run, and save it, as its user would from another terminal."""
    status = json.loads(soulsai("status", "--json", cwd=training.folder).stdout)
    assert status["run"] == training.run_folder().name
    assert "CartPole-v1" in soulsai("status", cwd=training.folder).stdout
    checked = soulsai("doctor", "--json", cwd=training.folder)
    assert checked.returncode == 0, checked.stdout
    answer = json.loads(checked.stdout.splitlines()[-1])
    assert answer["side"] == "server", "it finds the run of this folder"
    assert [one for one in answer["findings"] if one["state"] != "ok"] == []
    saved = soulsai("quicksave", "--no-replay", cwd=training.folder)
    assert saved.returncode == 0, saved.stderr
    assert (training.run_folder() / "manual_save" / "policy.onnx").is_file()
