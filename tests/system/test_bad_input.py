"""What a user can get wrong ends with one line that says what, where and what to do."""

import os
import socket
import subprocess
from contextlib import suppress

import pytest

from soulsai.wire.redis.embedded_server import EmbeddedServer
from soulsai.wire.secrets import write_secret
from tests.programs import installed
from tests.system.train_cases import SMALL, Training, complaint, soulsai

ROLES = ("training-node", "telemetry-node", "client")


@pytest.fixture(scope="module")
def server():
    with EmbeddedServer() as server:
        yield server


@pytest.fixture
def closed_port():
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        port = listener.getsockname()[1]
    return f"redis://127.0.0.1:{port}"


@pytest.mark.parametrize(
    ("words", "code", "said"),
    [
        (["train", "--set", "dqn.lrr=1"], 2, "dqn.lrr: no such setting; did you mean dqn.lr?"),
        (["train", "--set", "dqn.lr=fast"], 2, "dqn.lr: wanted"),
        (["train", "--set", "dqn.lr"], 2, "wanted section.key=value"),
        (["train", "--seed", "x"], 2, "--seed"),
        (["train", "--clients", "-1"], 2, "--clients"),
        (["train", "--fast"], 2, "No such option '--fast'"),
        (["train", "nowhere.yaml"], 2, "nowhere.yaml: there is no such file or folder"),
        (["train", "--algorithm", "dqm"], 2, "algorithm.name"),
        (["train", "--resume", "latest"], 1, "no run"),
        (["train", "--resume", "2020-01-01"], 1, "there is no run '2020-01-01'"),
        (["trian"], 2, "Did you mean 'train'"),
        (["training-node"], 2, "redis.url: no server; name it with --redis"),
        (["client"], 2, "redis.url: no server; name it with --redis"),
        (["client"], 2, "or give your invite: --invite FILE"),
        (["client", "--redis", "http://x"], 2, "redis.url"),
        (["status"], 1, "no run is going on in saves"),
        (["quicksave"], 1, "no run is going on in saves"),
        (["evaluate", "latest"], 1, "no run"),
        (["evaluate", "latest"], 1, "begin one with `soulsai train`, or name the folder"),
        (["check-env", "Nope-v1"], 1, "Nope-v1: cannot be made"),
        (["check-env", "nowhere.py:make"], 1, "nowhere.py: no such file"),
    ],
)
def test_one_line_says_what_is_wrong(tmp_path, words, code, said):
    done = soulsai(*words, cwd=tmp_path)
    assert said in complaint(done)
    assert done.returncode == code
    assert list(tmp_path.iterdir()) == [], "nothing was begun"


@pytest.mark.parametrize("words", [["--help"], [], ["train", "--help"], ["--version"]])
def test_help_is_no_error(tmp_path, words):
    done = soulsai(*words, cwd=tmp_path)
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout


def test_a_file_of_settings_names_file_and_line(tmp_path):
    (tmp_path / "mine.yaml").write_text("dqn:\n  lr: fast\n")
    done = soulsai("train", "mine.yaml", cwd=tmp_path)
    assert "mine.yaml" in complaint(done)
    assert "line 2" in complaint(done)
    assert done.returncode == 2


def test_unknown_environment(tmp_path):
    done = soulsai("train", "--env", "LunarLandr-v3", "--json", cwd=tmp_path)
    said = complaint(done)
    assert "environment.id" in said
    assert "LunarLandr" in said
    assert done.stdout == ""
    assert list(tmp_path.iterdir()) == [], "nothing is left of it"


@pytest.mark.parametrize("where", ["reset", "step"])
def test_an_environment_that_raises(tmp_path, where):
    (tmp_path / "rude.py").write_text(
        "from soulsai.testing import RudeEnv\ndef make(fault):\n    return RudeEnv(fault)\n"
    )
    words = ("--env", "rude.py:make", "--set", f"environment.kwargs.fault={where}", *SMALL)
    done = soulsai("train", *words, cwd=tmp_path)
    said = complaint(done)
    assert f"{where} raised RuntimeError: the game" in said
    assert "rude.py:make" in said


@pytest.mark.parametrize("command", ["train", "training-node", "status", "quicksave", "stop"])
def test_no_server(tmp_path, closed_port, command):
    done = soulsai(command, "--redis", closed_port, "--set", "environment.id=CartPole-v1",
                   cwd=tmp_path)  # fmt: skip
    assert closed_port.removeprefix("redis://") in complaint(done)
    assert done.returncode == 1


@pytest.mark.parametrize("command", [*ROLES, "status", "train"])
def test_wrong_password(tmp_path, server, command):
    write_secret(tmp_path / "redis.secret", "sesame-42")
    words = ["--redis", server.url, "--set", f"redis.secrets={tmp_path}"]
    done = soulsai(command, *words, "--set", "environment.id=CartPole-v1", cwd=tmp_path)
    said = complaint(done)
    assert "password" in said.lower() or "secret" in said.lower()
    assert "sesame-42" not in said, "no secret is ever shown"


def test_a_secret_file_that_is_not_there(tmp_path, server):
    done = soulsai("client", "--redis", server.url, "--secret-file", "nowhere", cwd=tmp_path)
    assert "nowhere" in complaint(done)
    assert done.returncode == 2


def test_a_second_training_node_takes_over_and_the_older_stops(tmp_path, server):
    address = (f"redis.url={server.url}", f"redis.secrets={server.secrets}")
    place = [word for setting in address for word in ("--set", setting)]
    words = ("--env", "CartPole-v1", *SMALL, *place, "--clients", "1", "--max-env-steps", "0")
    with Training(tmp_path, *words) as older:
        older.server = address
        older.until("learning", lambda status: status.updates > 10)
        younger = soulsai(
            *("train", "--env", "CartPole-v1", *SMALL, *place, "--clients", 1),
            *("--max-env-steps", 600, "--saves", "others"),
            cwd=tmp_path,
        )
        assert younger.returncode == 0, younger.stderr
        code, summary = older.end()
        assert code == 4
        assert summary["updates"] > 10, "what it had come to is said"
        assert "a newer training node has taken over" in older.errors().splitlines()[-1]


def test_a_folder_that_cannot_be_written(tmp_path):
    where = "/sys/saves"  # not even by root
    said = complaint(soulsai("train", "--saves", where, cwd=tmp_path))
    assert where in said
    assert "not permitted" in said or "denied" in said


def test_a_file_where_the_folder_of_runs_should_be(tmp_path):
    (tmp_path / "saves").write_text("")
    assert "saves" in complaint(soulsai("train", cwd=tmp_path))


@pytest.mark.tools
@pytest.mark.skipif(os.geteuid() != 0, reason="only root may mount a small disk")
def test_a_full_disk_at_the_start(tmp_path):
    disk = tmp_path / "disk"
    disk.mkdir()
    words = [str(installed("mount")), "-t", "tmpfs", "-o", "size=64k", "tmpfs", str(disk)]
    if subprocess.run(words, capture_output=True).returncode != 0:
        pytest.skip("mounting is not possible here")
    try:
        with suppress(OSError):
            (disk / "ballast").write_bytes(bytes(2**20))
        done = soulsai("train", "--env", "CartPole-v1", "--saves", disk, cwd=tmp_path)
        assert "No space left on device" in complaint(done)
    finally:
        subprocess.run(["umount", str(disk)], check=True)


def test_a_node_without_the_server_extra_says_how_to_get_it(tmp_path):
    (tmp_path / "sitecustomize.py").write_text(
        "import sys\nfor name in ('torch', 'onnx'):\n    sys.modules[name] = None\n"
    )
    for command in ("train", "training-node", "telemetry-node"):
        done = soulsai(command, "--redis", "redis://127.0.0.1:1", cwd=tmp_path,
                       before=str(tmp_path))  # fmt: skip
        assert 'pip install "soulsai[server]"' in complaint(done)
