"""Plain English in docstrings: hardly a clause for a noun, and arguments explained."""

import ast
import re
from pathlib import Path

ROOT = Path(__file__).parents[2]
CLAUSE_WORDS = {"what", "who", "whatever", "whose", "whom"}
MOST_CLAUSE_WORDS = 3.0  # per 1,000 words of docstrings
WIDE = 3  # parameters from which on a public function explains them
LEAST_EXPLAINED = 0.95  # of the wide functions
# Click shows a command's docstring to its user, and explains options by texts of their own.
COMMANDS = ROOT / "soulsai" / "cli"


def documented():
    """Yield each module, class and function of the package, with its file."""
    for path in sorted((ROOT / "soulsai").rglob("*.py")):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef):
                yield path, node


def public_functions():
    """Yield the functions of modules and the methods of their classes, with their files."""
    for path, node in documented():
        if isinstance(node, ast.Module | ast.ClassDef) and COMMANDS not in path.parents:
            for each in node.body:
                function = isinstance(each, ast.FunctionDef | ast.AsyncFunctionDef)
                if function and not each.name.startswith("_"):
                    yield path, each


def test_docstrings_hardly_use_clauses_as_nouns():
    words, found = 0, []
    for path, node in documented():
        text = re.findall(r"[A-Za-z']+", ast.get_docstring(node) or "")
        words += len(text)
        line = getattr(node, "lineno", 1)
        found += [f"{path.relative_to(ROOT)}:{line}" for w in text if w.lower() in CLAUSE_WORDS]
    assert 1000 * len(found) / words <= MOST_CLAUSE_WORDS, found


def test_wide_public_functions_explain_their_arguments():
    silent, wide = [], 0
    for path, node in public_functions():
        arguments = (*node.args.posonlyargs, *node.args.args, *node.args.kwonlyargs)
        if len([each for each in arguments if each.arg not in ("self", "cls")]) < WIDE:
            continue
        wide += 1
        if "Args:" not in (ast.get_docstring(node) or ""):
            silent.append(f"{path.relative_to(ROOT)}:{node.lineno} {node.name}")
    assert wide
    assert 1 - len(silent) / wide >= LEAST_EXPLAINED, silent
