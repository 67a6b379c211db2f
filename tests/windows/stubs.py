"""The names that Python's modules have on each platform, by the stubs of typeshed."""

import ast
import functools
import importlib.util
import sys
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace

STUBS = Path(importlib.util.find_spec("mypy").origin).parent / "typeshed" / "stdlib"


@functools.cache
def names(module: str, platform: str) -> frozenset[str] | None:
    """Return the public names of a module on a platform; ``None`` without a stub of it."""
    place = STUBS.joinpath(*module.split("."))
    for file in (place.with_suffix(".pyi"), place / "__init__.pyi"):
        if file.is_file():
            body = ast.parse(file.read_text(encoding="utf-8")).body
            return frozenset(name for name in _defined(body, platform) if name[0] != "_")
    return None


def hidden(module: str) -> frozenset[str]:
    """Return the names of a module that Linux has and Windows has not."""
    here = names(module, "linux") or frozenset()
    return here - (names(module, "win32") or frozenset())


def is_absent(module: str) -> bool:
    """Return whether Windows has no such module."""
    return names(module, "win32") == frozenset()


def _defined(body: list[ast.stmt], platform: str) -> Iterator[str]:
    for node in body:
        match node:
            case ast.If():
                yield from _defined(
                    node.body if _holds(node.test, platform) else node.orelse, platform
                )
            case ast.FunctionDef() | ast.AsyncFunctionDef() | ast.ClassDef():
                yield node.name
            case ast.Assign():
                yield from (target.id for target in node.targets if isinstance(target, ast.Name))
            case ast.AnnAssign(target=ast.Name()):
                yield node.target.id
            case ast.Import() | ast.ImportFrom():
                yield from _exported(node, platform)


def _exported(node: ast.Import | ast.ImportFrom, platform: str) -> Iterator[str]:
    """Yield what an import of a stub makes public: ``X as X``, and everything by a star."""
    for alias in node.names:
        if alias.name == "*" and isinstance(node, ast.ImportFrom) and node.module:
            yield from names(node.module, platform) or ()
        elif alias.asname == alias.name:
            yield alias.name


def _holds(test: ast.expr, platform: str) -> bool:
    known = SimpleNamespace(platform=platform, version_info=sys.version_info)
    code = compile(ast.Expression(test), "<stub>", "eval")
    return bool(eval(code, {"sys": known, "TYPE_CHECKING": True}))
