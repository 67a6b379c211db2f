"""The house style, where a machine can see it: sizes, docstrings, and calls we do not make."""

import ast
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PACKAGE = sorted((ROOT / "soulsai").rglob("*.py"))
TESTS = sorted((ROOT / "tests").rglob("*.py"))
LONGEST_FILE = 700
LONGEST_FUNCTION = 50  # without its docstring
VAGUE = {"utils", "util", "common", "core", "helpers", "helper", "manager", "misc"}

# What a call or an import may not name, and why.
FORBIDDEN = {
    "pickle": "runs code of whoever wrote the bytes",
    "cPickle": "runs code of whoever wrote the bytes",
    "cloudpickle": "runs code of whoever wrote the bytes",
    "dill": "runs code of whoever wrote the bytes",
    "marshal": "trusts its bytes",
    "shelve": "is pickle",
    "eval": "runs text",
    "exec": "runs text",
    "yaml.load": "makes any object; use safe_load",
    "yaml.unsafe_load": "makes any object; use safe_load",
    "torch.load": "is pickle",
    "torch.save": "is pickle",
    "os.system": "is a shell",
}


def relative(path):
    return str(path.relative_to(ROOT))


def named(node):
    """Return the dotted name of an expression, if it is one."""
    if isinstance(node, ast.Name):
        return node.id
    if isinstance(node, ast.Attribute):
        return f"{named(node.value)}.{node.attr}"
    return ""


def faults(tree):
    """Yield what a module does that we do not do."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Assert):
            yield node.lineno, "assert: raise an error that says what, where and what to do"
        for name in imported(node):
            if name.split(".")[0] in FORBIDDEN:
                yield node.lineno, f"import {name}: {FORBIDDEN[name.split('.')[0]]}"
        if not isinstance(node, ast.Call):
            continue
        called = named(node.func)
        if called in FORBIDDEN:
            yield node.lineno, f"{called}: {FORBIDDEN[called]}"
        for keyword in node.keywords:
            value = keyword.value
            if not isinstance(value, ast.Constant) or value.value is not True:
                continue
            if keyword.arg in ("daemon", "shell", "allow_pickle"):
                yield node.lineno, f"{keyword.arg}=True"


def imported(node):
    if isinstance(node, ast.Import):
        return [alias.name for alias in node.names]
    return [node.module or ""] if isinstance(node, ast.ImportFrom) else []


@pytest.mark.parametrize("path", [*PACKAGE, *TESTS], ids=relative)
def test_file_can_be_read_in_one_sitting(path):
    assert len(path.read_text().splitlines()) <= LONGEST_FILE


def test_names_of_files_need_no_quoting():
    # a slip in a shell leaves files behind whose names are half a command
    foreign = {"saves", "build", "dist", "data"}  # what runs and builds leave
    top = [path for path in ROOT.iterdir() if path.name[0] != "." and path.name not in foreign]
    every = [*top, *(below for path in top for below in path.rglob("*"))]
    owned = [path for path in every if "node_modules" not in path.parts]  # npm leaves them
    assert len(owned) > len(PACKAGE)
    assert not [path for path in owned if not re.fullmatch(r"[\w.-]+", path.name)]


def docstring_lines(function):
    first = function.body[0]
    return first.end_lineno - first.lineno + 1 if ast.get_docstring(function) else 0


@pytest.mark.parametrize("path", PACKAGE, ids=relative)
def test_module_is_in_house_style(path):
    tree = ast.parse(path.read_text())
    assert not list(faults(tree))
    assert path.stem not in VAGUE
    functions = (
        node for node in ast.walk(tree) if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)
    )
    for function in functions:
        length = function.end_lineno - function.lineno + 1 - docstring_lines(function)
        assert length <= LONGEST_FUNCTION, f"{function.name} has {length} lines"


@pytest.mark.parametrize("path", PACKAGE, ids=relative)
def test_module_begins_with_one_sentence(path):
    documentation = ast.get_docstring(ast.parse(path.read_text()))
    assert documentation, "no docstring"
    first, _, rest = documentation.partition("\n")
    assert re.fullmatch(r"\S.*[.!?]", first), "the first line is not a sentence"
    assert rest == "" or rest.startswith("\n"), "the first sentence has no line of its own"


@pytest.mark.parametrize(
    "code",
    [
        "import pickle",
        "from pickle import loads",
        "eval('1')",
        "exec('1')",
        "import yaml\nyaml.load(x)",
        "torch.load(x)",
        "Thread(target=f, daemon=True)",
        "assert x",
        "numpy.load(x, allow_pickle=True)",
    ],
)
def test_forbidden_things_are_found(code):
    assert list(faults(ast.parse(code)))
