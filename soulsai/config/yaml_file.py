"""YAML as settings are written in it: read strictly, so that nothing means what it does not say.

YAML 1.1 reads ``1e-3`` as text, ``no`` as false, ``12:30`` as 750 and ``010`` as 8. Here each of
these is an error that names its line and how to write what was meant.
"""

import ast
import re
import tokenize
from collections.abc import Hashable, Iterator
from io import StringIO
from pathlib import Path
from typing import Any

import msgspec
import yaml

from soulsai.errors import ConfigError

LARGEST = 256 * 1024  # bytes of a settings file
DEEPEST = 16  # levels of nesting

Where = tuple[str, ...]  # the keys that lead to an entry

_NUMBER = re.compile(r"[-+]?(\d+(_\d+)*\.?\d*|\.\d+)([eE][-+]?\d+)?\Z")
_INTEGER = re.compile(r"[-+]?\d+(_\d+)*\Z")
_LEADING_ZERO = re.compile(r"[-+]?0o?[0-9_]+\Z")
_TOO_DEEP = re.compile(r"(?:[\[{][^\[\]{}]*){" + str(DEEPEST + 1) + "}")
_PLAIN = re.compile(r"[A-Za-z][A-Za-z0-9_./-]*\Z")
_WORDS = frozenset(["y", "n", "yes", "no", "on", "off", "true", "false", "null"])


def read(path: Path) -> tuple[dict[str, Any], dict[Where, int]]:
    """Return what a ``.yaml`` or ``.json`` file says, and the line of each of its keys."""
    try:
        with path.open("rb") as file:
            data = file.read(LARGEST + 1)
    except FileNotFoundError:
        raise ConfigError(f"{path}: there is no such file") from None
    except OSError as error:
        raise ConfigError(f"{path}: cannot be read: {error.strerror or error}") from None
    if len(data) > LARGEST:
        raise ConfigError(f"{path}: larger than {LARGEST // 1024} kB; is this a settings file?")
    try:
        text = data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = data.count(b"\n", 0, error.start) + 1
        raise ConfigError(f"{path}, line {line}: not UTF-8; save the file as UTF-8") from None
    if path.suffix == ".json":
        return _parse_json(text, str(path)), {}
    return parse(text, str(path))


def parse(text: str, name: str) -> tuple[dict[str, Any], dict[Where, int]]:
    """Return the mapping that a YAML text holds, and the line of each of its keys."""
    node = _compose(text, name)
    if node is None:
        return {}, {}
    lines: dict[Where, int] = {}
    value = _Strict(name, lines).build(node, ())
    if value is None:
        return {}, {}
    if not isinstance(value, dict):
        raise ConfigError(f"{name}: wanted `section:` lines, found {describe(value)} at the top")
    return value, lines


def lenient(text: str, name: str) -> Any:
    """Return what a person means by a value typed in a shell: ``1e-3``, ``true``, ``[1, 2]``."""
    if text.lstrip()[:1] not in ("[", "{"):
        return _guess(text.strip())
    node = _compose(text, name)
    return None if node is None else _Lenient(name, {}).build(node, ())


def emit(value: Any) -> str:
    """Return one value in YAML's flow style, on one line; ``parse`` reads it back equal."""
    if isinstance(value, dict):
        return "{" + ", ".join(f"{_key(key)}: {emit(each)}" for key, each in value.items()) + "}"
    if isinstance(value, (list, tuple)):
        return "[" + ", ".join(map(emit, value)) + "]"
    if isinstance(value, str):
        if _PLAIN.match(value) and value.lower() not in _WORDS:
            return value
        return str(yaml.safe_dump(value, default_style='"', width=2**30)).strip()
    return str(yaml.safe_dump(value)).removesuffix("...\n").strip()


def describe(value: Any) -> str:
    """Return a value as it should appear in an error: short, and with its kind."""
    kinds = {str: "text", bool: "bool", int: "int", float: "float", dict: "mapping", list: "list"}
    if value is None:
        return "nothing"
    shown = repr(value)
    shown = shown if len(shown) <= 60 else shown[:57] + "..."
    return f"{shown} ({kinds.get(type(value), type(value).__name__)})"


def _key(key: str) -> str:
    text = emit(key)
    return text if len(text) < 1000 else f"? {text} "  # YAML's limit for an implicit key is 1024


def _parse_json(text: str, name: str) -> dict[str, Any]:
    try:
        return msgspec.json.decode(text, type=dict[str, Any])
    except (msgspec.MsgspecError, RecursionError) as error:
        raise ConfigError(f"{name}: not a JSON object of settings: {error}") from None


def _compose(text: str, name: str) -> yaml.Node | None:
    try:
        _refuse_tricks(text, name)
        return yaml.compose(text, yaml.SafeLoader)
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        line = f", line {mark.line + 1}" if mark else ""
        raise ConfigError(f"{name}{line}: not YAML: {error.problem or error.context}") from None
    except yaml.YAMLError as error:
        raise ConfigError(f"{name}: not YAML: {str(error).splitlines()[0]}") from None


def _refuse_tricks(text: str, name: str) -> None:
    """Raise for what settings never need and attackers do: aliases, tags, depth, documents."""
    if opened := _TOO_DEEP.search(text):  # the scanner takes its time for these
        line = text.count("\n", 0, opened.start()) + 1
        raise ConfigError(
            f"{name}, line {line}: more than {DEEPEST} levels of nesting is not allowed in settings"
        )
    depth = documents = 0
    for event in yaml.parse(text, yaml.SafeLoader):
        problem = ""
        if isinstance(event, yaml.DocumentStartEvent):
            documents += 1
            problem = "a second document (---)" if documents > 1 else ""
        elif isinstance(event, yaml.CollectionStartEvent):
            depth += 1
            problem = f"more than {DEEPEST} levels of nesting" if depth > DEEPEST else ""
        elif isinstance(event, yaml.CollectionEndEvent):
            depth -= 1
        if isinstance(event, yaml.NodeEvent) and event.anchor is not None:
            problem = f"an anchor or alias ({event.anchor})"
        if isinstance(event, (yaml.ScalarEvent, yaml.CollectionStartEvent)) and event.tag:
            problem = f"a tag ({event.tag})"
        if problem:
            raise ConfigError(f"{name}, {_line(event)}: {problem} is not allowed in settings")


class _Strict:
    """Builds plain values from YAML nodes and refuses what is easily misread."""

    def __init__(self, name: str, lines: dict[Where, int]) -> None:
        self._name = name
        self._lines = lines

    def build(self, node: yaml.Node, where: Where) -> Any:
        """Return the value of a node; ``where`` are the keys that lead to it."""
        if isinstance(node, yaml.MappingNode):
            return dict(self._pairs(node, where))
        if isinstance(node, yaml.SequenceNode):
            return [self.build(item, where) for item in node.value]
        if isinstance(node, yaml.ScalarNode):
            return self.scalar(node, where)
        return None  # there is no other kind

    def scalar(self, node: yaml.ScalarNode, where: Where) -> Any:
        """Return the value of a scalar, unless it is one of YAML's traps."""
        text, plain = str(node.value), node.style is None
        trap = _trap(node.tag.rpartition(":")[2], text) if plain else ""
        if trap:
            path = f" {'.'.join(where)}:" if where else ""
            raise ConfigError(f"{self._name}, {_line(node)}:{path} {trap}")
        if not plain:
            return text
        return _plain(node.tag.rpartition(":")[2], text)

    def _pairs(self, node: yaml.MappingNode, where: Where) -> Iterator[tuple[str, Any]]:
        seen: set[Hashable] = set()
        for key_node, value_node in node.value:
            key = self.build(key_node, where)
            if not isinstance(key, str):
                raise ConfigError(
                    f"{self._name}, {_line(key_node)}: a key must be text, found {describe(key)}"
                )
            inner = (*where, key)
            if key in seen:
                raise ConfigError(
                    f"{self._name}, {_line(key_node)}: {'.'.join(inner)} stands here twice"
                )
            seen.add(key)
            self._lines[inner] = key_node.start_mark.line + 1
            yield key, self.build(value_node, inner)


class _Lenient(_Strict):
    """Builds values as a person at a shell means them."""

    def scalar(self, node: yaml.ScalarNode, where: Where) -> Any:  # noqa: ARG002
        """Return the most likely value."""
        return str(node.value) if node.style is not None else _guess(str(node.value))


def _line(thing: yaml.Node | yaml.Event) -> str:
    return f"line {thing.start_mark.line + 1}" if thing.start_mark else "somewhere"


def _trap(tag: str, text: str) -> str:
    """Return what is misleading about an unquoted scalar, and how to write it; or nothing."""
    quoted = f'"{text}" for the text'
    if tag == "bool" and text.lower() not in ("true", "false"):
        truth = "true" if text.lower() in ("yes", "on") else "false"
        return f"YAML reads {text} as {truth}; write {truth}, or {quoted}"
    if tag in ("int", "float") and ":" in text:
        return f"YAML reads {text} as a number to the base 60; write {quoted}"
    if tag in ("int", "str") and _LEADING_ZERO.match(text) and text.strip("+-") not in ("0", "00"):
        number = text.replace("o", "").lstrip("+-0_") or "0"
        return f"the leading zero of {text} is read as octal; write {number}, or {quoted}"
    if tag == "str" and _NUMBER.match(text):
        return f"YAML reads {text} as text; write {_proper(text)} for the number, or {quoted}"
    if tag not in ("bool", "int", "float", "str", "null"):
        return f"YAML reads {text} as a {tag}; write {quoted}"
    return ""


def _proper(text: str) -> str:
    """Return a number with exponent in a form that every YAML reads as a number."""
    value = float(text.replace("_", ""))
    if value.is_integer() and abs(value) < 1e15:
        return f"{int(value):_}"
    mantissa, _, exponent = text.lower().partition("e")
    mantissa = mantissa if "." in mantissa else f"{mantissa}.0"
    return f"{mantissa}e{exponent if exponent[:1] in '+-' else '+' + exponent}"


def _plain(tag: str, text: str) -> Any:
    if tag == "null":
        return None
    if tag == "bool":
        return text.lower() == "true"
    if tag == "int":
        return int(text.replace("_", ""), 0)
    if tag == "float":
        return float(text.replace("_", "").lower().replace(".inf", "inf").replace(".nan", "nan"))
    return text


def _guess(text: str) -> Any:
    """Return the value of an unquoted word: nothing, a truth, a number, or else the text."""
    word = text.lower()
    if word in ("", "null", "none", "~"):
        return None
    if word in ("true", "false"):
        return word == "true"
    if len(text) <= 400 and _INTEGER.match(text):
        return int(text)
    if len(text) <= 400 and _NUMBER.match(text):
        return float(text)
    return text


def comments(source: str) -> dict[tuple[str, str], str]:
    """Return the comments behind the fields of classes in Python code, by class and field."""
    found = {
        token.start[0]: token.string
        for token in tokenize.generate_tokens(StringIO(source).readline)
        if token.type == tokenize.COMMENT
    }
    return {
        (kind.name, field.target.id): found.get(field.end_lineno or 0, "")
        for kind in ast.parse(source).body
        if isinstance(kind, ast.ClassDef)
        for field in kind.body
        if isinstance(field, ast.AnnAssign) and isinstance(field.target, ast.Name)
    }
