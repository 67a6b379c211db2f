"""Settings in layers: each overrides single entries of those before, and is judged on its own.

Works on any frozen struct whose fields are structs (the sections). An error names the entry's
path, what was found, what is wanted, and where it stands.
"""

import difflib
import math
from collections.abc import Iterable, Mapping
from typing import Any

import msgspec
from msgspec import Struct
from msgspec.inspect import (
    BoolType,
    DictType,
    IntType,
    LiteralType,
    StrType,
    Type,
    UnionType,
    VarTupleType,
    type_info,
)

from soulsai.config.yaml_file import Where, describe, lenient
from soulsai.errors import ConfigError

_TRUTHS = {"yes": True, "on": True, "1": True, "no": False, "off": False, "0": False}


class SettingsLayers:
    """The values of all sections, beginning with the defaults; later layers override.

    Args:
        defaults: A struct of the sections.
        removed: Settings of earlier versions by path, each with the value that still means the
            same and so is ignored, and with the reason why any other is refused.
    """

    def __init__(self, defaults: Struct, removed: Mapping[str, tuple[Any, str]]) -> None:
        self._removed = removed
        self._values: dict[str, dict[str, Any]] = {}
        self._types: dict[str, dict[str, Any]] = {}
        for section, values in msgspec.structs.asdict(defaults).items():
            self._values[section] = msgspec.structs.asdict(values)
            fields = msgspec.structs.fields(type(values))
            self._types[section] = {field.name: field.type for field in fields}

    def file(self, data: Mapping[str, Any], lines: Mapping[Where, int], name: str) -> None:
        """Override with what a file says; a section with nothing in it changes nothing."""
        for section, entries in data.items():
            origin = _origin(name, lines, (section,))
            self._known((section,), origin)
            if entries is None:
                continue
            if not isinstance(entries, dict):
                raise ConfigError(
                    f"{section}: wanted a section of `key: value` lines, "
                    f"found {describe(entries)}; in {origin}"
                )
            for key, value in entries.items():
                origin = _origin(name, lines, (section, key))
                if self._is_ignored(f"{section}.{key}", value, origin):
                    continue
                target = self._known((section, key), origin)
                self._values[section][key] = _judged(value, target, (section, key), origin)

    def text(self, path: str, text: str, origin: str) -> None:
        """Override one entry, ``section.key``, with a value typed in a shell.

        ``section.key.name`` sets one name in an entry that is itself a mapping.
        """
        where = tuple(path.split("."))
        if len(where) < 2:
            self._known(where, origin)
            raise ConfigError(f"{path}: a section, not a setting; set one of its keys; in {origin}")
        if self._is_ignored(path, lenient(text, origin), origin):
            return
        target = self._known(where[:2], origin)
        section, key, *names = where
        info = type_info(target)
        if not names:
            value = _meant(text, info, origin)
            self._values[section][key] = _judged(value, target, where, origin)
            return
        if len(names) > 1 or not isinstance(info, DictType):
            raise ConfigError(f"{path}: there is nothing below {section}.{key}; in {origin}")
        value = self._values[section][key] | {names[0]: _meant(text, info.value_type, origin)}
        self._values[section][key] = _judged(value, target, where[:2], origin)

    def values(self) -> dict[str, dict[str, Any]]:
        """Return the settings of every section, all of the right type."""
        return self._values

    def _is_ignored(self, path: str, value: Any, origin: str) -> bool:
        """Whether a removed setting has a value that changes nothing; raise if it has another."""
        if path not in self._removed:
            return False
        harmless, reason = self._removed[path]
        if value != harmless:
            raise ConfigError(f"{path}: {reason} (in {origin})")
        return True

    def _known(self, where: Where, origin: str) -> Any:
        """Return the type of an entry (``None`` for a section); raise if there is no such entry."""
        section = where[0]
        if section not in self._types:
            raise ConfigError(_unknown(where, self._nearest(where), origin))
        if len(where) == 1:
            return None
        if where[1] not in self._types[section]:
            raise ConfigError(_unknown(where, self._nearest(where), origin))
        return self._types[section][where[1]]

    def _nearest(self, where: Where) -> str:
        """Return the known path that is most likely meant, or nothing."""
        last = where[-1]
        if len(where) > 1 and where[0] in self._types:
            near = difflib.get_close_matches(last, self._types[where[0]], 1)
            if near:
                return f"{where[0]}.{near[0]}"
        elif near := difflib.get_close_matches(where[0], self._types, 1):
            return ".".join((near[0], *where[1:]))
        keys: dict[str, str] = {}
        for section, types in self._types.items():
            for key in types:
                keys.setdefault(key, f"{section}.{key}")
        near = difflib.get_close_matches(last, keys, 1, cutoff=0.8)
        return keys[near[0]] if near else ""


def _origin(name: str, lines: Mapping[Where, int], where: Where) -> str:
    return f"{name}, line {lines[where]}" if where in lines else name


def _unknown(where: Where, nearest: str, origin: str) -> str:
    hint = f"; did you mean {nearest}?" if nearest else ""
    path = ".".join(where)
    path = path if path.isprintable() else repr(path)
    return f"{path}: no such setting{hint} (in {origin})"


def _judged(value: Any, target: Any, where: Where, origin: str) -> Any:
    """Return the value in the type that its entry has; raise if it is not of that type."""
    path = ".".join(where)
    try:
        result = msgspec.convert(value, target)
    except msgspec.ValidationError as error:
        wanted = _wanted(str(error), type_info(target))
        raise ConfigError(
            f"{path}: wanted {wanted}, found {describe(value)}; in {origin}"
        ) from None
    if not all(map(math.isfinite, _floats(result))):
        raise ConfigError(f"{path}: wanted a finite number, found {describe(value)}; in {origin}")
    return result


def _wanted(complaint: str, info: Type) -> str:
    """Return the part of msgspec's complaint that says what would have been right."""
    what, _, place = complaint.partition(" - at ")
    what = what.partition(", got ")[0].removeprefix("Expected ").replace("`", "")
    what = what.replace("str", "text", 1) if what.startswith("str") else what
    if "matching regex" in what:
        what = "a name of a-z, 0-9, _ and -, at most 64 long"
    if isinstance(info, LiteralType):
        what = "one of " + ", ".join(map(str, info.values))
    return f"{what} at {place.strip('`$')}" if place else what


def _floats(value: Any) -> Iterable[float]:
    if isinstance(value, float):
        yield value
    elif isinstance(value, dict):
        for each in value.values():
            yield from _floats(each)
    elif isinstance(value, (list, tuple)):
        for each in value:
            yield from _floats(each)


def _meant(text: str, info: Type, origin: str) -> Any:
    """Return what a typed text means for an entry of that type; nonsense comes back as it is."""
    if isinstance(info, (StrType, LiteralType)):
        return text
    if isinstance(info, BoolType) and text.strip().lower() in _TRUTHS:
        return _TRUTHS[text.strip().lower()]
    value = lenient(text, origin)
    if isinstance(info, VarTupleType) and not isinstance(value, (list, dict)):
        parts = [part.strip() for part in text.split(",")] if text.strip() else []
        return [_meant(part, info.item_type, origin) for part in parts]
    if isinstance(info, DictType) and value is None:
        return {}
    kinds = info.types if isinstance(info, UnionType) else (info,)
    wants_integer = any(isinstance(kind, IntType) for kind in kinds)
    if len(kinds) <= 2 and wants_integer and isinstance(value, float) and value.is_integer():
        return int(value)
    return value
