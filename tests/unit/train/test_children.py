"""Who is started, with which words and which settings."""

import json
import stat

import pytest

from soulsai.config.schema import ClientSettings, Config, RunSettings
from soulsai.train.children import Crew, seed


@pytest.fixture
def crew(tmp_path, monkeypatch):
    monkeypatch.setenv("SOULSAI__RUN__SEED", "99")
    private, logs = tmp_path / "private", tmp_path / ".starting-x"
    private.mkdir()
    logs.mkdir()
    config = Config(run=RunSettings(seed=5, clients=3), client=ClientSettings())
    return Crew(config, private, logs, names="client", start=0, resume=lambda: "a_run")


def test_everybody_gets_the_same_private_settings(crew):
    files = {child.words(0)[1] for child in crew}
    assert len(files) == 1
    file = crew.training.log.parents[1] / "private" / "config.json"
    assert files == {str(file)}
    assert stat.S_IMODE(file.stat().st_mode) == 0o600
    assert json.loads(file.read_text())["run"]["seed"] == 5


def test_settings_in_variables_do_not_count_twice(crew):
    assert not any(name.startswith("SOULSAI__") for name in crew.training.environ)
    assert "SOULSAI_PARENT" in crew.training.environ


def test_training_node_goes_on_with_the_run(crew):
    assert crew.training.words(1)[2:] == ["--resume", "a_run"]


def test_clients_have_names_and_the_environment_that_the_user_chose(crew):
    words = [child.words(0) for child in crew.clients]
    assert [child.name for child in crew.clients] == ["client-1", "client-2", "client-3"]
    assert all("LunarLander-v3" in each for each in words)
    assert len({each[each.index("--seed") + 1] for each in words}) == 3


def test_seeds_repeat_but_never_coincide():
    seeds = {
        seed(run, start, number, life)
        for run in range(4)
        for start in (0, 7)
        for number in range(1, 9)
        for life in range(4)
    }
    assert len(seeds) == 4 * 2 * 8 * 4
    assert seed(1, 0, 1, 0) == seed(1, 0, 1, 0)


def test_logs_move_into_the_run_once(crew, tmp_path):
    run = tmp_path / "run"
    run.mkdir()
    crew.training.log.write_text("said\n")
    crew.move_logs(run)
    assert crew.training.tail() == ["said"]
    assert crew.training.log == run / "logs" / "training-node.log"
    crew.move_logs(tmp_path / "other")
    assert crew.training.tail() == ["said"]
