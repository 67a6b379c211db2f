"""Replay with priorities gets compiled routines at the start, if possible and wanted."""

import logging

import msgspec
import pytest

from soulsai.algorithms.build import build
from soulsai.algorithms.settings import DemonstrationSettings
from soulsai.config.schema import Config, TrainingSettings
from soulsai.replay import tree_routines
from soulsai.replay.sum_tree import CompiledSumTree, SumTree
from soulsai.training_node import compiled_replay
from soulsai.training_node.start import build_algorithm
from soulsai.types import ActionSpec, Leaf, Spec

SPEC = Spec({"obs": Leaf((2,), "<f4")}, ActionSpec("discrete", sizes=(3,)))
LOG = "soulsai.training_node.compiled_replay"


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    return tmp_path / "soulsai" / "replay"


def dqn(**changes):
    settings = {"hidden": [8], "capacity": 100} | changes
    return build("dqn", settings, SPEC, seed=0)


def tree(algorithm):
    return type(algorithm.experience.replay._tree)


def test_it_is_compiled_once_and_found_again(cache, monkeypatch):
    one, other = dqn(), dqn()
    compiled_replay.prepare(one, keep=True)
    assert len(list(cache.iterdir())) == 1
    monkeypatch.setattr(tree_routines, "compile_routines", None)
    compiled_replay.prepare(other, keep=True)
    assert tree(one) is tree(other) is CompiledSumTree


def test_a_damaged_library_is_made_anew(cache):
    compiled_replay.prepare(dqn(), keep=True)
    (library,) = cache.glob(f"*/{tree_routines.LIBRARY}")
    library.unlink()
    library.write_bytes(b"damaged")
    algorithm = dqn()
    compiled_replay.prepare(algorithm, keep=True)
    assert tree(algorithm) is CompiledSumTree
    (library,) = cache.glob(f"*/{tree_routines.LIBRARY}")
    assert library.read_bytes() != b"damaged"


def test_nothing_is_kept_unless_it_is_wanted(cache):
    algorithm = dqn()
    compiled_replay.prepare(algorithm, keep=False)
    assert tree(algorithm) is CompiledSumTree
    assert not cache.exists()


def test_a_cache_that_cannot_be_written_is_no_obstacle(cache, caplog):
    caplog.set_level(logging.INFO, LOG)
    cache.parent.mkdir()
    cache.write_text("a file")
    algorithm = dqn()
    compiled_replay.prepare(algorithm, keep=True)
    assert tree(algorithm) is CompiledSumTree
    assert "not kept for the next run" in caplog.text


def test_without_a_compiler_numpy_serves_and_says_so_once(monkeypatch, caplog):
    caplog.set_level(logging.INFO, LOG)
    monkeypatch.setenv("CXX", "no-such-compiler")
    algorithm = dqn()
    compiled_replay.prepare(algorithm, keep=True)
    assert tree(algorithm) is SumTree
    assert [record.getMessage() for record in caplog.records] == [
        "priorities=numpy: there is no C++ compiler (no-such-compiler)"
    ]


def test_without_priorities_nothing_is_compiled(monkeypatch):
    monkeypatch.setattr(tree_routines, "compiler", None)
    compiled_replay.prepare(dqn(prioritized=False), keep=True)


def test_demonstrations_have_it_too():
    demonstrations = DemonstrationSettings(interventions=True)
    settings = {"hidden": [8], "capacity": 100}
    algorithm = build("dqn", settings, SPEC, seed=0, demonstrations=demonstrations)
    compiled_replay.prepare(algorithm, keep=False)
    assert type(algorithm.experience.demonstrations.replay._tree) is CompiledSumTree


@pytest.mark.parametrize(("wanted", "kind"), [(True, CompiledSumTree), (False, SumTree)])
def test_a_setting_turns_it_off(wanted, kind):
    config = Config(training=TrainingSettings(compile_replay=wanted))
    config = msgspec.structs.replace(config, dqn=msgspec.structs.replace(config.dqn, hidden=(8,)))
    assert tree(build_algorithm(config, SPEC, seed=0)) is kind
