"""Everything in ``examples/`` runs, for a short budget."""

import json

import pytest

from tests.system.train_cases import ROOT, SMALL, soulsai

EXAMPLES = ROOT / "examples"
SHORT = ("--max-env-steps", 600, *SMALL, "--json")

HURRY = ("--set=environment.kwargs.pace=0", "--set=environment.kwargs.reset_seconds=0")


@pytest.mark.parametrize(
    "words",
    [
        (EXAMPLES / "cartpole.yaml",),
        (EXAMPLES / "lunarlander.yaml",),
        ("--env", f"{EXAMPLES / 'custom_env.py'}:make"),
        (EXAMPLES / "soulsgym_iudex.yaml", "--clients", 2, *HURRY),
    ],
    ids=["cartpole.yaml", "lunarlander.yaml", "custom_env.py", "soulsgym_iudex.yaml"],
)
def test_example_trains(tmp_path, words):
    (tmp_path / "examples").symlink_to(EXAMPLES)
    done = soulsai("train", *words, *SHORT, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    summary = json.loads(done.stdout.splitlines()[-1])
    assert summary["env_steps"] >= 600
    assert summary["updates"] > 0
    assert summary["rejected"] == {}
    assert summary["lost"] == 0
    played = soulsai("evaluate", "latest", "--episodes", 2, "--json", cwd=tmp_path)
    assert played.returncode == 0, played.stderr
    assert json.loads(played.stdout.splitlines()[-1])["episodes"] == 2


def test_every_example_is_tried():
    assert {path.name for path in EXAMPLES.iterdir() if path.is_file()} == {
        "cartpole.yaml",
        "lunarlander.yaml",
        "cartpole_expert.py",
        "custom_env.py",
        "play_policy.py",
        "python_api.py",
        "soulsgym_iudex.yaml",
        "soulsgym_iudex.json",
    }


def test_custom_environment_looks_as_it_should(tmp_path):
    id = f"{EXAMPLES / 'custom_env.py'}:make"
    said = soulsai("check-env", id, cwd=tmp_path).stdout.splitlines()
    assert said[0].startswith(f"OK: {id} played 200 steps and ended")
    spec = json.loads(soulsai("check-env", id, "--json", cwd=tmp_path).stdout)["spec"]
    assert spec["obs"]["obs"]["shape"] == [1]
    assert spec["action"]["sizes"] == [2]


def test_a_described_environment_needs_not_be_made_by_the_server(tmp_path):
    written = soulsai("check-env", "CartPole-v1", "--save", "spec.json", cwd=tmp_path)
    assert written.returncode == 0, written.stderr
    spec = json.loads((tmp_path / "spec.json").read_text())
    assert spec["action"]["sizes"] == [2]


def test_the_description_of_the_game_is_that_of_its_stand_in(tmp_path):
    game = ("soulsai.testing:SoulsGymIudex-v0", *HURRY)
    written = soulsai("check-env", *game, "--save", "spec.json", cwd=tmp_path)
    assert written.returncode == 0, written.stderr
    described = json.loads((EXAMPLES / "soulsgym_iudex.json").read_text())
    assert json.loads((tmp_path / "spec.json").read_text()) == described
