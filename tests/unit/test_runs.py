"""Which folder a user means, and what a run came to."""

import json
from datetime import datetime, timedelta, timezone

import msgspec
import pytest

from soulsai import runs
from soulsai.config.schema import (
    AlgorithmSettings,
    Config,
    EnvironmentSettings,
    RedisSettings,
    RunSettings,
    to_json,
)
from soulsai.errors import CheckpointError
from soulsai.launch.summary import best_reward, clock, save, summarise, table
from soulsai.training_node.saving import atomic_folders, run_folder
from soulsai.types import Status

STATUS = Status("a", 1, "ended", "dqn", "X-v0", env_steps=200, updates=100, seconds=50.0,
                bytes_received=7000, rejected={"run": 2}, reward_mean=1.5)  # fmt: skip


def make(saves, name, config=Config()):  # noqa: B008 - frozen
    folder = saves / name
    folder.mkdir(parents=True)
    (folder / "config.json").write_text(to_json(config))
    return folder


def test_runs_are_found_by_id_as_latest_and_as_a_folder(tmp_path):
    old, new = make(tmp_path, "2026-01-01_a"), make(tmp_path, "2026-01-02_a")
    (tmp_path / "not a run").mkdir()
    assert runs.every(tmp_path) == [old, new]
    assert runs.find(tmp_path, "latest") == new
    assert runs.find(tmp_path, "2026-01-01_a") == old
    assert runs.find(tmp_path / "elsewhere", str(old)) == old


def test_the_latest_run_is_the_one_begun_last_whatever_the_clock_says(tmp_path):
    old = make(tmp_path, "2030-01-01_of-an-earlier-release")
    settings = Config(run=RunSettings(saves=str(tmp_path)))
    summer = datetime(2026, 7, 1, 12, tzinfo=timezone(timedelta(hours=2)))
    first = run_folder.create(settings, summer)
    second = run_folder.create(settings, summer - timedelta(days=1))
    assert first.run.startswith("2026-07-01_10-00-00")
    assert runs.every(tmp_path) == [old, first.path, second.path]
    assert runs.find(tmp_path, "latest") == second.path


@pytest.mark.parametrize("name", ["latest", "nonsense", "..", ""])
def test_a_missing_run_is_one_clear_line(tmp_path, name):
    with pytest.raises(CheckpointError, match=r"there is no run"):
        runs.find(tmp_path, name)


def held(saves, run):
    with runs.held_policy(saves, run) as policy:
        return policy.file.read_bytes(), policy.origin


def test_the_policy_is_that_of_the_newest_undamaged_checkpoint(tmp_path):
    folder = make(tmp_path, "run")
    with pytest.raises(CheckpointError, match="no undamaged checkpoint"):
        held(tmp_path, "run")
    for content in (b"one", b"two", b"three"):
        atomic_folders.append(folder / "checkpoints", {"policy.onnx": [content]}, keep=9)
    newest = folder / "checkpoints" / "000003"
    assert held(tmp_path, "latest") == (b"three", newest / "policy.onnx")
    (newest / "policy.onnx").write_bytes(b"eerht")
    assert held(tmp_path, "latest") == (b"two", folder / "checkpoints" / "000002" / "policy.onnx")
    for named in (newest, newest / "policy.onnx"):
        assert held(tmp_path, str(named)) == (b"eerht", newest / "policy.onnx"), "named, so taken"
    (folder / "checkpoints" / "000001" / "manifest.json").unlink()
    (folder / "checkpoints" / "000002" / "policy.onnx").unlink()
    with pytest.raises(CheckpointError, match="no undamaged checkpoint"):
        held(tmp_path, "run")


def test_a_policy_stays_while_its_checkpoint_is_removed(tmp_path):
    checkpoints = make(tmp_path, "run") / "checkpoints"
    atomic_folders.append(checkpoints, {"policy.onnx": [b"one"]}, keep=1)
    with runs.held_policy(tmp_path, "latest") as policy:
        atomic_folders.append(checkpoints, {"policy.onnx": [b"two"]}, keep=1)
        assert not policy.origin.exists()
        assert policy.file.read_bytes() == b"one"
    assert not policy.file.parent.exists()


def test_where_the_newest_checkpoints_go_meanwhile_the_newer_ones_are_taken(tmp_path, monkeypatch):
    checkpoints = make(tmp_path, "run") / "checkpoints"
    copy_file = atomic_folders.copy_file
    atomic_folders.append(checkpoints, {"policy.onnx": [b"1"]}, keep=2)
    written = iter((b"2", b"3", b"4", b"5", b"6"))

    def after_another(folder, name, copy):
        """Copy after the training node has written one more checkpoint, and removed another."""
        for content in written:
            atomic_folders.append(checkpoints, {"policy.onnx": [content]}, keep=1)
            break
        return copy_file(folder, name, copy)

    monkeypatch.setattr(atomic_folders, "copy_file", after_another)
    assert held(tmp_path, "run") == (b"6", checkpoints / "000006" / "policy.onnx")


@pytest.mark.parametrize(
    ("phase", "id", "algorithm", "checkpointed", "found"),
    [
        ("learning", "X-v0", "dqn", True, True),
        ("stopping", "X-v0", "dqn", True, True),  # by a signal
        ("ended", "X-v0", "dqn", True, False),
        ("learning", "X-v0", "dqn", False, True),  # it begins at zero once more
        ("learning", "Y-v0", "dqn", True, False),
        ("learning", "X-v0", "ppo", True, False),
    ],
)
def test_a_run_is_gone_on_with_until_it_is_finished(
    tmp_path, phase, id, algorithm, checkpointed, found
):
    settings = Config(
        run=RunSettings(saves=str(tmp_path)), environment=EnvironmentSettings(id="X-v0")
    )
    assert runs.unfinished(settings) == ""
    then = Config(
        environment=EnvironmentSettings(id=id), algorithm=AlgorithmSettings(name=algorithm)
    )
    folder = make(tmp_path, "run", then)
    if checkpointed:
        atomic_folders.append(folder / "checkpoints", {"policy.onnx": [b"one"]}, keep=9)
    left = msgspec.structs.replace(STATUS, phase=phase, environment=id, algorithm=algorithm)
    (folder / "status.json").write_bytes(msgspec.json.encode(left))
    assert runs.unfinished(settings) == ("run" if found else "")
    later = make(tmp_path, "zzz-later-and-finished", then)
    done = msgspec.structs.replace(left, phase="ended")
    (later / "status.json").write_bytes(msgspec.json.encode(done))
    assert runs.unfinished(settings) == ("run" if found else "")


def test_a_resumed_run_keeps_its_settings_but_not_its_server(tmp_path):
    then = Config(
        run=RunSettings(saves="old", seed=5, clients=3),
        redis=RedisSettings(url="unix:///gone", secrets="gone"),
    )
    folder = make(tmp_path, "run", then)
    now = Config(run=RunSettings(saves=str(tmp_path)), redis=RedisSettings(url="redis://here"))
    merged = runs.settings(folder, now, {"SOULSAI__DQN__LR": "0.5"}, ["run.clients=4"])
    merged = runs.kept_in(folder, merged)
    assert merged.run == msgspec.structs.replace(then.run, saves=str(tmp_path), clients=4)
    assert merged.redis == now.redis
    assert merged.dqn.lr == 0.5


def test_the_private_server_of_the_newest_run_is_found(tmp_path):
    old, new = make(tmp_path, "2026-01-01_a"), make(tmp_path, "2026-01-02_a")
    assert runs.running(tmp_path) is None
    first, second = tmp_path / "old.sock", tmp_path / "new.sock"
    first.touch()
    second.touch()
    runs.announce(old, runs.PrivateServer(f"unix://{first}", "secrets"))
    assert runs.running(tmp_path) == runs.PrivateServer(f"unix://{first}", "secrets")
    runs.announce(new, runs.PrivateServer(f"unix://{second}", "secrets"))
    assert runs.running(tmp_path).url == f"unix://{second}"
    assert (new / "server.json").stat().st_mode & 0o777 == 0o600
    runs.withdraw(new)
    runs.withdraw(new)
    assert runs.running(tmp_path).url == f"unix://{first}"
    learning = msgspec.structs.replace(STATUS, phase="learning", max_env_steps=1000)
    assert "learning: dqn on X-v0, 200 of 1,000 env steps" in runs.describe(old, learning)
    first.unlink()  # as when the run is killed
    assert runs.running(tmp_path) is None
    assert "interrupted: dqn on X-v0, 200 of 1,000 env steps" in runs.describe(old, learning)


def test_an_unreadable_status_is_none(tmp_path):
    folder = make(tmp_path, "run")
    assert runs.status(folder) is None
    assert runs.describe(folder, None).endswith("never learnt, no checkpoint yet")
    (folder / runs.SERVER).touch()
    assert runs.describe(folder, None).endswith("running, no checkpoint yet")
    (folder / "status.json").write_bytes(b"{")
    assert runs.status(folder) is None
    (folder / "status.json").write_bytes(msgspec.json.encode(STATUS))
    assert runs.status(folder) == STATUS
    assert "ended: dqn on X-v0, 200 env steps" in runs.describe(folder, STATUS)


def test_summary_divides_by_the_time_trained(tmp_path):
    summary = summarise(tmp_path, STATUS, 60.0)
    assert summary.env_steps_per_second == 4.0
    assert summary.updates_per_second == 2.0
    assert summary.bytes_per_transition == 35.0
    assert summary.wall_seconds == 60.0
    rows = dict(table(summary))
    assert rows["time"] == "0:01:00 from the command to the end"
    assert rows["trained"] == "0:00:50 in all starts; rates are means over it"
    save(tmp_path, summary)
    assert json.loads((tmp_path / "summary.json").read_text())["rejected"] == {"run": 2}
    assert ("rejected", "2 run") in table(summary)


def test_summary_of_a_run_in_which_nothing_happened(tmp_path):
    summary = summarise(tmp_path, Status("a", 1, "waiting", "dqn", "X-v0"), 1.0)
    assert summary.bytes_per_transition is None
    assert summary.best_reward is None
    assert dict(table(summary))["best reward"].startswith("none yet")


def test_best_reward_survives_a_torn_record(tmp_path):
    record = tmp_path / "results.jsonl"
    record.write_text('{"reward": 1.0}\n{"reward": 3.0}\n{"other": 9}\nnull\n{"reward": 99')
    assert best_reward(record) == 3.0


def test_seconds_as_a_clock():
    assert clock(3725.9) == "1:02:05"


def test_what_a_run_played_is_known_from_its_folder_only(tmp_path):
    config = Config(environment=EnvironmentSettings(id="mine.py:make"))
    folder = make(tmp_path, "2026-01-01_a", config)
    assert runs.environment(tmp_path, "latest") == "mine.py:make"
    policy = folder / "policy.onnx"
    policy.write_bytes(b"")
    assert runs.environment(tmp_path, str(policy)) == ""
