"""Runs side by side: grouped by settings, over three axes, with what seeds have in common."""

import json

import numpy as np
import pytest

from soulsai.compare import curves
from soulsai.compare.comparison import CurveQuery, compare, settings
from soulsai.config.schema import Config, to_json
from soulsai.errors import CheckpointError, ConfigError
from soulsai.web.comparison import alike, differences


def run(folder, name, *, level=0.0, seed=1, lr=5e-4, episodes=30):
    """Write a run whose i-th episode earns ``level + i``; each fourth is greedy, and earns 9."""
    place = folder / name
    place.mkdir(parents=True)
    config = json.loads(to_json(Config()))
    config["run"]["seed"], config["dqn"]["lr"] = seed, lr
    config["sac"]["lr"] = lr  # of no interest: it does not learn here
    (place / "config.json").write_text(json.dumps(config))
    lines = [
        {
            "id": f"{i + 1}-0",
            "generation": 1,
            "version": i,
            "episode": i,
            "reward": 9.0 if i % 4 == 3 else level + i,
            "steps": 10,
            "seconds": 2.0,
            "terminated": True,
            "greedy": i % 4 == 3,
            "epsilon": 0.1,
            "client": "c",
            "env_steps": 10 * i,
            "time": 100.0 + 3 * i,
        }
        for i in range(episodes)
    ]
    (place / "results.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    return place


def query(**changes):
    usual = {
        "x": "env_steps",
        "middle": "iqm",
        "kind": "exploring",
        "metric": "reward",
        "window": 1,
    }
    return CurveQuery(**{**usual, **changes})


def test_each_axis_begins_where_the_run_begins(tmp_path):
    place = run(tmp_path, "a", episodes=3)
    for x, wanted in (
        ("env_steps", [0, 10, 20]),
        ("wall_time", [2, 5, 8]),
        ("episodes", [1, 2, 3]),
    ):
        curve = curves.read(place, x=x, kind="all", window=1)
        np.testing.assert_allclose(curve.x, wanted)
        np.testing.assert_allclose(curve.y, [0, 1, 2])


def test_greedy_episodes_are_apart(tmp_path):
    place = run(tmp_path, "a")
    assert set(curves.read(place, x="env_steps", kind="greedy", window=1).y) == {9.0}
    assert len(curves.read(place, x="env_steps", kind="exploring", window=1).y) == 23


def test_seeds_are_one_band_and_other_settings_another(tmp_path):
    folders = [
        run(tmp_path, "a1", seed=1),
        run(tmp_path, "b", seed=1, lr=1e-3, level=100.0),
        run(tmp_path, "a2", seed=2, level=2.0),
        run(tmp_path, "a3", seed=3, level=4.0),
    ]
    found = compare(folders, query(middle="median"), tmp_path / "out" / "figure.png")
    assert [len(group.runs) for group in found.groups] == [3, 1]
    assert found.differences == {"dqn.lr": [5e-4, 1e-3]}
    assert found.groups[1].name == "dqn.lr=0.001"
    seeds = found.groups[0]
    np.testing.assert_allclose(np.subtract(seeds.middle, np.array(seeds.x) / 10), 2.0, atol=1e-6)
    np.testing.assert_allclose(np.subtract(seeds.high, seeds.low), 2.0, atol=1e-6)
    assert (tmp_path / "out" / "figure.png").read_bytes().startswith(b"\x89PNG")


def test_one_run_alone_is_compared_with_nothing(tmp_path):
    found = compare([run(tmp_path, "a")], query(), tmp_path / "figure.png")
    assert found.differences == {}
    assert found.groups[0].name == "LunarLander-v3 dqn"


def test_nothing_to_draw_is_an_error(tmp_path):
    place = run(tmp_path, "a", episodes=0)
    with pytest.raises(ConfigError, match="exploring"):
        compare([place], query(), tmp_path / "figure.png")
    with pytest.raises(ConfigError, match="score"):
        compare([run(tmp_path, "b")], query(metric="score"), tmp_path / "figure.png")


def test_settings_of_another_version_are_compared_as_far_as_they_go(tmp_path):
    old, new = {"dqn.lr": 1, "dqn.gone": 3}, {"dqn.lr": 1, "algorithm.name": "dqn"}
    assert differences([{**old, "algorithm.name": "dqn"}, new]) == {"dqn.gone": [3, None]}
    assert alike({tmp_path / "a": old, tmp_path / "b": new, tmp_path / "c": old}) == [
        [tmp_path / "a", tmp_path / "c"],
        [tmp_path / "b"],
    ]
    (tmp_path / "config.json").write_text("{")
    with pytest.raises(CheckpointError, match=r"config\.json"):
        settings(tmp_path)
