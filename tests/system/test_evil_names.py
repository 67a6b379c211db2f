"""S4: two hundred evil names in every command that takes one: nothing is made by them."""

import io
import os
import random
from pathlib import Path

import msgspec
import pytest

from soulsai.__main__ import run
from soulsai.testing.policy import toy_run
from soulsai.types import EnvironmentOffer, Pointer, RunSpec, Status
from soulsai.wire.codec import decode, encode
from soulsai.wire.names import is_name

SPEC = toy_run(EnvironmentOffer("soulsai.testing:ToyEnv"))[0]

NAMES = [
    ".", "..", "../", "../..", "../outside", "../../etc/passwd", "/", "//", "/etc/passwd",
    "~", "~root", "a/b", "a/../../outside", "a\\b", "..\\outside", "C:\\x", "\\\\host\\share",
    "a\n", "\n", "a\0b", "\0", "a b", " ", "\t", "a\r\nFLUSHALL\r\n", "a;touch pwned",
    "$(touch pwned)", "`touch pwned`", "a|b", "a&b", "a>b", "*", "?", "[a-z]", "{a}",
    "{a}:exp:b", "a:b", "%2e%2e%2f", "%00", "..%2foutside", "con", "prn", "aux", "nul", "com1",
    "lpt9", "-", "-rf", "--set", "_", ".hidden", "a.", "a.b", "A", "\u00c4", "\u00e4", "\u0430",
    "a\u200b", "a\u202eb", "\ud800", "\ufeff", "\U0001d4ea", "\uff11", "a" * 65, "a" * 255,
    "a" * 256, "a" * 4096, "a" * 10_000, "../" * 2000 + "x", "soulsai:{soulsai}:spec",
    "default user", "on nopass ~* +@all", "link/x", "file://x", "redis://x", "None", "[]", "{}",
    "!!python/object:x", "a,b", "'", '"', "#",
]  # fmt: skip


def names():
    """Return two hundred: those above, and some made of their parts."""
    rng = random.Random(4)
    parts = ["..", "/", "\\", "\n", "a", "%2e", "~", ":", "{", "*", "\u2025", " ", "é", "."]
    made = list(dict.fromkeys(NAMES))
    while len(made) < 220:
        name = "".join(rng.choices(parts, k=rng.randint(2, 8)))
        if name not in made:
            made.append(name)
    return [name for name in made if not is_name(name)][:200]


EVIL = names()
COMMANDS = {
    "train --resume": lambda name: ["train", "--redis", CLOSED, "--resume", name],
    "train": lambda name: ["train", "--redis", CLOSED, "--set", f"run.name={name}"],
    "training-node": lambda name: ["training-node", "--set", f"run.name={name}"],
    "training-node --resume": lambda name: ["training-node", "--redis", CLOSED, "--resume", name],
    "telemetry-node": lambda name: ["telemetry-node", "--set", f"run.name={name}"],
    "client --name": lambda name: ["client", "--redis", CLOSED, "--name", name],
    "client --invite": lambda name: ["client", "--invite", name],
    "enroll": lambda name: ["enroll", name, "--redis", CLOSED, "--address", CLOSED],
    "revoke": lambda name: ["revoke", name, "--redis", CLOSED],
    "quicksave": lambda name: ["quicksave", "--set", f"run.name={name}"],
    "purge": lambda name: ["purge", name, "--redis", CLOSED],
    "pardon": lambda name: ["pardon", name, "--redis", CLOSED],
    "stop": lambda name: ["stop", "--set", f"run.name={name}"],
    "status": lambda name: ["status", "--redis", CLOSED, "--set", f"run.name={name}"],
    "evaluate": lambda name: ["evaluate", name],
    "check-env": lambda name: ["check-env", name],
    "doctor": lambda name: ["doctor", "--redis", CLOSED, "--set", f"client.name={name}"],
}
CLOSED = "redis://127.0.0.1:1"


@pytest.fixture
def root(tmp_path, tmp_path_factory, monkeypatch):
    """Give a folder to work in, beside one that nobody may touch."""
    outside = tmp_path / "outside"
    outside.mkdir()
    (outside / "config.json").write_text("{}")
    (outside / "policy.onnx").write_text("bait")
    inside = tmp_path / "inside"
    (inside / "saves").mkdir(parents=True)
    (inside / "saves" / "link").symlink_to(outside)
    monkeypatch.chdir(inside)
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    monkeypatch.setenv("MPLCONFIGDIR", str(tmp_path_factory.mktemp("matplotlib")))
    monkeypatch.setenv("SOULSAI__ENVIRONMENT__ID", "CartPole-v1")
    return tmp_path


def everything(root: Path):
    return sorted(
        (str(path), path.read_bytes() if path.is_file() else b"") for path in root.rglob("*")
    )


@pytest.mark.parametrize("words", COMMANDS.values(), ids=COMMANDS)
def test_an_evil_name_makes_nothing_anywhere(root, words, capfd, monkeypatch):
    monkeypatch.setattr("soulsai.connect.begin_log", lambda: None)
    monkeypatch.setattr("sys.stdin", io.StringIO(""))
    before = everything(root)
    assert len(EVIL) == 200
    for name in EVIL:
        code = run(words(name))
        said = capfd.readouterr()
        assert "Traceback" not in said.err, name
        assert code in (0, 1, 2), (name, code)
        assert code != 0, (name, said.out)
        assert len(said.err.splitlines()) <= 2, (name, said.err)
    assert everything(root) == before
    assert os.getcwd() == str(root / "inside")


@pytest.mark.parametrize("kind", [RunSpec, Status, Pointer])
def test_an_evil_run_from_the_server_is_nothing_we_read(kind):
    """Else it would name a folder here: of a client's spool, of telemetry's record."""
    whole = {
        RunSpec: SPEC,
        Status: Status("r", 1, "learning", "dqn", "L"),
        Pointer: Pointer("r", 1, 1, 1, "0"),
    }[kind]
    taken = []
    for name in EVIL:
        if name.isprintable():
            try:
                decode(encode(msgspec.structs.replace(whole, run=name)), kind)
            except Exception:
                continue
            taken.append(name)
    assert all(Path(name).name == name and "\\" not in name and ":" not in name for name in taken)
    assert not {".", "..", "con", "nul", "a.", ""} & set(taken)
    assert decode(encode(whole), kind).run == whole.run
