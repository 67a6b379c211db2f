"""One word has one meaning: no class name twice, few loose modules, and no circle of imports."""

import ast
from collections import defaultdict
from pathlib import Path

import grimp

ROOT = Path(__file__).parents[2]
PACKAGE = ROOT / "soulsai"
MOST_LOOSE = 10  # modules beside the packages, their faces aside


def test_no_class_name_is_defined_twice():
    places = defaultdict(list)
    for path in PACKAGE.rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.ClassDef):
                places[node.name].append(f"{path.relative_to(ROOT)}:{node.lineno}")
    assert {name: where for name, where in places.items() if len(where) > 1} == {}


def test_few_modules_lie_loose_at_the_root():
    loose = [path.stem for path in PACKAGE.glob("*.py") if not path.stem.startswith("__")]
    assert len(loose) <= MOST_LOOSE, sorted(loose)


def test_no_imports_form_a_circle():
    graph = grimp.build_graph("soulsai", cache_dir=None, exclude_type_checking_imports=True)
    arrows = {module: graph.find_modules_directly_imported_by(module) for module in graph.modules}
    assert list(circles(arrows)) == []


def circles(arrows):
    """Yield the strongly connected components of more than one module (Tarjan 1972)."""
    index, low, stack, number = {}, {}, [], iter(range(len(arrows)))

    def visit(module):
        index[module] = low[module] = next(number)
        stack.append(module)
        for other in arrows[module]:
            if other not in index:
                yield from visit(other)
                low[module] = min(low[module], low[other])
            elif other in stack:
                low[module] = min(low[module], index[other])
        if low[module] == index[module]:
            place = stack.index(module)
            component = stack[place:]
            del stack[place:]
            if len(component) > 1:
                yield sorted(component)

    for module in sorted(arrows):
        if module not in index:
            yield from visit(module)


def test_a_circle_is_found():
    arrows = {"a": {"b"}, "b": {"c"}, "c": {"b"}, "d": {"a"}}
    assert list(circles(arrows)) == [["b", "c"]]
