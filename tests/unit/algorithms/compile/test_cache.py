"""What is compiled once is found again by everything that shapes it, and by nobody else's doing."""

import os

import msgspec
import pytest

from soulsai.algorithms.compile import cache, processor
from soulsai.algorithms.compile.cache import BuildCache, key
from soulsai.algorithms.compile.job import MADE, Job
from soulsai.types import ActionSpec, Leaf, Spec

SPEC = Spec({"obs": Leaf((2,), "<f4")}, ActionSpec("discrete", sizes=(3,)))
JOB = Job("dqn", {"lr": 1e-3, "hidden": [8]}, SPEC)


@pytest.fixture
def made(tmp_path):
    folder = tmp_path / "made"
    folder.mkdir()
    (folder / "update.pt2").write_bytes(b"code")
    (folder / MADE).write_text("{}")
    (folder / "log").write_text("not kept")
    return folder


@pytest.fixture
def kept(tmp_path):
    return BuildCache(tmp_path / "cache" / "compiled")


def test_what_was_kept_is_found(kept, made):
    assert kept.find(key(JOB)) is None
    kept.keep(key(JOB), made)
    kept.keep(key(JOB), made)
    found = kept.find(key(JOB))
    assert {path.name: path.read_bytes() for path in found.iterdir()} == {
        "update.pt2": b"code",
        MADE: b"{}",
    }
    kept.forget(key(JOB))
    assert kept.find(key(JOB)) is None


@pytest.mark.parametrize(
    "change",
    [
        {"algorithm": "sac"},
        {"settings": {"lr": 1e-4, "hidden": [8]}},
        {"spec": Spec({"obs": Leaf((3,), "<f4")}, SPEC.action)},
        {"device": "cuda"},
        {"threads": 2},
        {"matmul": "bfloat16"},
    ],
)
def test_another_job_is_not_found(kept, made, change):
    kept.keep(key(JOB), made)
    assert kept.find(key(msgspec.structs.replace(JOB, **change))) is None


def test_other_code_another_torch_and_another_processor_have_other_packages(monkeypatch, tmp_path):
    now = key(JOB)
    assert key(JOB) == now
    monkeypatch.setattr(cache, "SOURCES", tmp_path)
    other_code = key(JOB)
    monkeypatch.setattr(cache.torch, "__version__", "0.0")
    other_torch = key(JOB)
    monkeypatch.setattr(processor, "CPUINFO", tmp_path / "cpuinfo")
    (tmp_path / "cpuinfo").write_text("model name\t: one\nflags\t\t: fpu\n\nmodel name\t: two\n")
    other_processor = key(JOB)
    (tmp_path / "cpuinfo").write_text("model name\t: one\nflags\t\t: fpu avx\n\n")
    assert len({now, other_code, other_torch, other_processor, key(JOB)}) == 5


def test_the_one_used_longest_ago_gives_way(kept, made, monkeypatch):
    monkeypatch.setattr(cache, "MOST", 2)
    jobs = [msgspec.structs.replace(JOB, threads=threads) for threads in (1, 2, 3)]
    for age, job in zip((200, 100), jobs[:2], strict=True):
        kept.keep(key(job), made)
        os.utime(kept.find(key(job)), (0, 1e9 - age))
    kept.find(key(jobs[0]))  # now it is used
    kept.keep(key(jobs[2]), made)
    assert [kept.find(key(job)) is not None for job in jobs] == [True, False, True]


def test_a_folder_that_others_may_write_to_is_neither_read_nor_written(kept, made, tmp_path):
    kept.keep(key(JOB), made)
    (tmp_path / "cache" / "compiled").chmod(0o777)
    assert kept.find(key(JOB)) is None
    with pytest.raises(PermissionError, match="other users"):
        kept.keep(key(JOB), made)
