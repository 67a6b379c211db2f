"""PPO with default settings survives ``kill -9`` of its training node, early and late."""

import json

from tests.system.train_cases import TERMINATE, Training, until

PPO = (
    *("--algorithm", "ppo", "--env", "CartPole-v1", "--max-env-steps", "0"),
    *("--set", "ppo.hidden=16,16", "--set", "checkpoint.minutes=0.02"),
)


def kill(training):
    victim = training.child("training-node")
    victim.kill()
    until("another training node", lambda: training.child("training-node").pid != victim.pid)


def folders(training):
    return [path.parent for path in training.saves.glob("*/config.json")]


def test_the_run_goes_on_from_its_last_checkpoint(tmp_path):
    with Training(tmp_path, *PPO) as training:
        first = training.until("a run", lambda status: status.checkpoint)
        assert first.checkpoint == "000000", "there is one before anything is learnt"
        status = training.until("a later one", lambda s: s.checkpoint > "000001" and s.updates > 5)
        kill(training)
        after = training.until(
            "progress", lambda s: s.generation > status.generation and s.updates > status.updates
        )
        assert after.run == first.run
        assert after.env_steps > status.env_steps
        code, summary = training.end(TERMINATE)
        assert (code, summary["phase"]) == (143, "stopping")
        assert len(folders(training)) == 1


def test_a_node_that_dies_before_its_first_checkpoint_goes_on_with_the_same_run(tmp_path):
    with Training(tmp_path, *PPO) as training:
        (folder,) = until("a folder", lambda: folders(training))
        kill(training)
        status = training.until("progress", lambda s: s.updates > 2)
        assert status.run == folder.name
        assert folders(training) == [folder]
        code, summary = training.end(TERMINATE)
        assert (code, summary["phase"]) == (143, "stopping")
        assert json.loads((folder / "status.json").read_text())["run"] == folder.name
