"""The compiled routines of priorities, made once in each process of tests."""

import tempfile
from functools import cache
from pathlib import Path

from soulsai.replay import tree_routines
from soulsai.replay.sum_tree import CompiledSumTree, SumTree


@cache
def routines():
    with tempfile.TemporaryDirectory() as folder:
        tree_routines.compile_routines(tree_routines.compiler(), Path(folder))
        return tree_routines.load_routines(Path(folder))


def compiled_tree(size):
    return CompiledSumTree(size, routines())


TREES = [SumTree, compiled_tree]
