"""Folders are whole or not there, whatever happens while they are written."""

import errno
import json
import os
import random
import shutil
import signal
import subprocess
import sys
import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from soulsai.training_node.saving import atomic_folders

FILES = {"a.bin": [b"x" * 5000, b"yz"], "b.json": [b"{}"], "empty": []}

SAVE_FOREVER = """
import itertools, sys
from pathlib import Path
from soulsai.training_node.saving import atomic_folders
assert "torch" not in sys.modules
parent = Path(sys.argv[1])
atomic_folders.tidy(parent)
for number in itertools.count(1):
    piece = b"%d" % number * 20000
    atomic_folders.append(parent, {"one": [piece], "two": [piece]}, keep=2)
    atomic_folders.replace(parent / "best", {"one": [piece]})
    print(number, flush=True)
"""


def names(folder):
    return sorted(path.name for path in folder.iterdir())


def test_a_checkpoint_holds_what_was_given_and_a_manifest(tmp_path):
    path = atomic_folders.append(tmp_path / "deep" / "down", FILES, keep=3)
    assert path.name == "000001"
    assert names(path) == ["a.bin", "b.json", "empty", "manifest.json"]
    assert atomic_folders.read(path, "a.bin") == b"x" * 5000 + b"yz"
    assert atomic_folders.damage(path) is None


def test_the_newest_are_kept_and_numbers_go_on(tmp_path):
    for _ in range(5):
        atomic_folders.append(tmp_path, FILES, keep=2)
    assert names(tmp_path) == ["000004", "000005"]
    shutil.rmtree(tmp_path / "000004")
    assert atomic_folders.append(tmp_path, FILES, keep=2).name == "000006"


def damages(path):
    """Every file cut short and with a bit flipped, at several places."""
    for file in sorted(path.iterdir()):
        data = file.read_bytes()
        for place in sorted({0, 1, len(data) // 2, len(data) - 1} & set(range(len(data)))):
            yield f"{file.name} cut at {place}", file, data[:place]
            flipped = bytearray(data)
            flipped[place] ^= 1 << (place % 8)
            yield f"{file.name} flipped at {place}", file, bytes(flipped)
        yield f"{file.name} grown", file, data + b"!"


def test_every_damage_is_found_and_the_one_before_is_used(tmp_path):
    good = atomic_folders.append(tmp_path, FILES, keep=3)
    bad = atomic_folders.append(tmp_path, FILES, keep=3)
    tried = 0
    for what, file, data in list(damages(bad)):
        whole = file.read_bytes()
        file.write_bytes(data)
        if file.name == atomic_folders.MANIFEST and atomic_folders.damage(bad) is None:
            pytest.fail(f"not found: {what}")
        assert atomic_folders.damage(bad) is not None, what
        assert atomic_folders.newest([bad, good])[0] == good
        file.write_bytes(whole)
        tried += 1
    assert tried > 20
    for file in list(bad.iterdir()):
        data = file.read_bytes()
        file.unlink()
        assert atomic_folders.damage(bad) is not None
        file.write_bytes(data)
    assert atomic_folders.newest([bad, good]) == (bad, [])


def test_stray_files_are_no_damage(tmp_path):
    path = atomic_folders.append(tmp_path, FILES, keep=1)
    for stray in (".DS_Store", "._a.bin", ".nfs0001", "notes.safetensors"):
        (path / stray).write_bytes(b"stray")
    assert atomic_folders.damage(path) is None
    assert atomic_folders.names(path) == list(FILES)
    (path / "empty").unlink()
    assert atomic_folders.damage(path) == "empty is missing"


def test_300_truncations_and_300_flipped_bits_are_all_found(tmp_path):
    rng = random.Random(0)
    files = {"policy.onnx": [rng.randbytes(20_000)], "replay.safetensors": [rng.randbytes(100_000)]}
    path = atomic_folders.append(tmp_path, files, keep=1)
    for number in range(600):
        file = path / rng.choice([*files, atomic_folders.MANIFEST])
        data = file.read_bytes()
        place = rng.randrange(len(data))
        bad = bytearray(data[:place] if number % 2 else data)
        if number % 2 == 0:
            bad[place] ^= 1 << rng.randrange(8)
        file.write_bytes(bad)
        if atomic_folders.damage(path) is None:  # a blank of the manifest that is another blank now
            assert json.loads(bad) == json.loads(data), f"{file.name} at {place} was not found"
        file.write_bytes(data)
    assert atomic_folders.damage(path) is None


@pytest.mark.long
def test_a_disk_that_is_full_in_earnest_costs_no_checkpoint(tmp_path):
    """Eight megabytes of memory as a disk; it must be allowed to mount that."""
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=8m", "none", tmp_path], check=True)
    try:
        parent = tmp_path / "checkpoints"
        good = atomic_folders.append(parent, {"one": [bytes(2 * 2**20)]}, keep=1)
        for size in (7, 20, 6):
            with pytest.raises(OSError, match="No space left"):
                atomic_folders.append(parent, {"one": [bytes(size * 2**20)]}, keep=1)
            assert names(parent) == [good.name]
            assert atomic_folders.damage(good) is None
        assert atomic_folders.append(parent, {"one": [bytes(2**20)]}, keep=1).name == "000002"
        assert names(parent) == ["000002"]
    finally:
        subprocess.run(["umount", tmp_path], check=True)


def test_without_any_whole_checkpoint_there_is_none(tmp_path):
    (tmp_path / "000001").mkdir()
    assert atomic_folders.newest(atomic_folders.numbered(tmp_path))[0] is None
    assert atomic_folders.newest([]) == (None, [])


@given(st.binary(max_size=200))
def test_any_manifest_is_judged_without_an_error(tmp_path_factory, data):
    folder = tmp_path_factory.mktemp("folder")
    (folder / atomic_folders.MANIFEST).write_bytes(data)
    atomic_folders.damage(folder)


@pytest.mark.parametrize("call", ["fsync", "rename"])
def test_a_full_disk_leaves_the_old_ones_and_no_rubbish(tmp_path, monkeypatch, call):
    atomic_folders.append(tmp_path, FILES, keep=1)
    atomic_folders.replace(tmp_path / "best", FILES)
    before = names(tmp_path)

    def full(*args):
        raise OSError(errno.ENOSPC, "No space left on device")

    with monkeypatch.context() as patch:
        if call == "fsync":
            patch.setattr(os, "fsync", full)
        else:
            patch.setattr("pathlib.Path.rename", full)
        with pytest.raises(OSError, match="No space"):
            atomic_folders.append(tmp_path, FILES, keep=1)
        with pytest.raises(OSError, match="No space"):
            atomic_folders.replace(tmp_path / "best", FILES)
    assert names(tmp_path) == before
    assert atomic_folders.damage(tmp_path / "best") is None
    assert atomic_folders.append(tmp_path, FILES, keep=1).name == "000002"


def test_an_interrupted_replacement_is_put_back(tmp_path):
    atomic_folders.replace(tmp_path / "best", {"old": [b"old"]})
    (tmp_path / "best").rename(tmp_path / (atomic_folders.REPLACED + "best"))
    (tmp_path / (atomic_folders.TEMPORARY + "best")).mkdir()
    atomic_folders.tidy(tmp_path)
    assert names(tmp_path) == ["best"]
    assert atomic_folders.read(tmp_path / "best", "old") == b"old"


def test_a_small_file_is_replaced_as_a_whole(tmp_path, monkeypatch):
    file = tmp_path / "status.json"
    atomic_folders.write_file(file, b"first")
    atomic_folders.write_file(file, b"second")
    monkeypatch.setattr(os, "fsync", lambda descriptor: (_ for _ in ()).throw(OSError("full")))
    with pytest.raises(OSError, match="full"):
        atomic_folders.write_file(file, b"third")
    assert file.read_bytes() == b"second"
    assert names(tmp_path) == ["status.json"]


@pytest.mark.parametrize("rounds", [20, pytest.param(100, marks=pytest.mark.long)])
def test_kill_at_any_moment_leaves_a_whole_checkpoint(tmp_path, rounds):
    """Again and again: start, let it write, SIGKILL after a random while."""
    written = 0
    for round in range(rounds):
        command = [sys.executable, "-c", SAVE_FOREVER, str(tmp_path)]
        with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
            lines = 1 + round % 3
            for _ in range(lines):
                assert process.stdout.readline(), "the process under test has died by itself"
            time.sleep(0.0007 * (round % 20))  # not for anything to happen: to be at another moment
            process.send_signal(signal.SIGKILL)
        newest, _ = atomic_folders.newest(reversed(atomic_folders.numbered(tmp_path)))
        assert newest is not None
        assert atomic_folders.read(newest, "one") == atomic_folders.read(newest, "two")
        assert int(newest.name) >= written + lines
        written = int(newest.name)
    atomic_folders.tidy(tmp_path)
    assert atomic_folders.damage(tmp_path / "best") is None
    assert all(name == "best" or name.isdecimal() for name in names(tmp_path))
    assert all(atomic_folders.damage(path) is None for path in atomic_folders.numbered(tmp_path))


def test_a_folder_that_another_process_tidied_while_it_was_written_is_no_checkpoint(tmp_path):
    def tidied():
        yield b"a"
        (aside,) = tmp_path.iterdir()
        (aside / "first").unlink()

    with pytest.raises(OSError, match="removed files"):
        atomic_folders.append(tmp_path, {"first": [b"x"], "second": tidied()}, keep=2)
    assert list(tmp_path.iterdir()) == []
