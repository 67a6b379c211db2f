"""Trees of sums find what a running sum finds, in NumPy and compiled."""

import sys

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from soulsai.replay import tree_routines
from soulsai.replay.sum_tree import COMPILED_FAN, FAN, SumTree
from soulsai.replay.tree_routines import NotCompiled
from tests.unit.replay.tree_cases import TREES, compiled_tree

SIZES = [1, COMPILED_FAN, COMPILED_FAN + 1, FAN, FAN + 1, COMPILED_FAN**2, 5000, FAN**2 + 3]


@pytest.mark.parametrize("make", TREES)
@pytest.mark.parametrize("size", SIZES)
def test_the_tree_finds_what_a_running_sum_finds(make, size):
    rng = np.random.default_rng(1)
    tree = make(size)
    values = rng.integers(1, 50, size).astype(float)  # whole numbers: no rounding
    tree.set(np.arange(size), values)
    some = rng.integers(0, size, 200)
    tree.set(some, 7.0)
    values[some] = 7.0
    assert tree.total == values.sum()
    assert tree.leaves[:size].tolist() == values.tolist()
    assert not tree.leaves[size:].any()
    depths = rng.integers(0, int(values.sum()), 500).astype(float) + 0.5
    assert (tree.find(depths) == np.searchsorted(values.cumsum(), depths, side="right")).all()


@pytest.mark.parametrize("make", TREES)
@settings(max_examples=60)
@given(st.integers(1, 300), st.integers(0, 2**32 - 1))
def test_the_tree_never_finds_an_empty_place(make, size, seed):
    rng = np.random.default_rng(seed)
    tree = make(5000)
    tree.set(np.arange(size), 10.0 ** rng.uniform(-9, 9, size))
    edges = np.array([0.0, 0.5, 1.0 - 1e-16, 1.0, 1.0 + 1e-9]) * tree.total
    assert (tree.find(edges) < size).all()


@given(
    st.integers(1, 700),
    st.lists(st.lists(st.integers(0, 2**31), min_size=1, max_size=40), max_size=8),
    st.integers(0, 2**32 - 1),
)
def test_the_compiled_tree_is_the_tree(size, groups, seed):
    rng = np.random.default_rng(seed)
    ours, oracle = compiled_tree(size), SumTree(size)
    for group in ([0], *groups):
        indices = np.array(group) % size
        values = rng.integers(1, 9, len(indices)).astype(float)  # the others stay zero
        for tree in (ours, oracle):
            tree.set(indices, values)
        assert ours.total == oracle.total
        assert (ours.leaves[:size] == oracle.leaves[:size]).all()
        depths = rng.random(64) * ours.total
        assert (ours.find(depths) == oracle.find(depths)).all()


def test_indices_and_depths_may_be_views_and_of_other_types():
    tree, oracle = compiled_tree(100), SumTree(100)
    values = np.arange(200.0, dtype=np.float32)[::2]
    for each in (tree, oracle):
        each.set(np.arange(200, dtype=np.int32)[::2] // 2, values)
        each.set(np.zeros(0, np.int64), np.zeros(0))
    depths = np.linspace(0, tree.total - 1, 66)[::3]
    assert (tree.find(depths) == oracle.find(depths)).all()
    assert tree.find(depths[:0]).tolist() == []


def test_without_a_compiler_the_reason_is_named(monkeypatch):
    monkeypatch.setenv("CXX", "no-such-compiler")
    with pytest.raises(NotCompiled, match=r"there is no C\+\+ compiler \(no-such-compiler\)"):
        tree_routines.compiler()


def test_a_compiler_that_fails_is_quoted(tmp_path):
    with pytest.raises(NotCompiled, match="compiling failed: "):
        tree_routines.compile_routines(sys.executable, tmp_path)


def test_a_compiler_that_cannot_be_started_is_quoted(tmp_path):
    with pytest.raises(NotCompiled, match="compiling failed: "):
        tree_routines.compile_routines(str(tmp_path), tmp_path)


def test_a_damaged_library_is_not_loaded(tmp_path):
    (tmp_path / tree_routines.LIBRARY).write_bytes(b"not a library")
    with pytest.raises(NotCompiled, match="cannot be loaded"):
        tree_routines.load_routines(tmp_path)


def test_another_source_and_another_compiler_make_other_libraries(monkeypatch, tmp_path):
    now = tree_routines.key("/usr/bin/g++")
    assert tree_routines.key("/usr/bin/g++") == now
    assert tree_routines.key("/usr/bin/clang++") != now
    monkeypatch.setattr(tree_routines, "SOURCE", tmp_path / "sum_tree.cpp")
    (tmp_path / "sum_tree.cpp").write_text("int none;")
    assert tree_routines.key("/usr/bin/g++") != now
