"""Settings in layers: files, variables and the command line, each overriding those before."""

import difflib
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import msgspec
from msgspec import inspect

from soulsai.config.schema import REMOVED, Config, check
from soulsai.config.yaml_file import KeyPath, describe, parse_value, read
from soulsai.errors import ConfigError

FOLDER = Path("config")  # searched for settings if no place is named
DEFAULTS = "config_d.yaml"
OWN = "config.yaml"
PREFIX = "SOULSAI__"  # of the variables SOULSAI__SECTION__KEY

# All variables that are read; those from ACME_SERVER on by Docker Compose.
_VARIABLES = re.compile(
    "SOULSAI_(_.*|INVITE|INVITE_FILE|PARENT|PULSE|REDIS_PASSWORD_FILE|REDIS_SERVER|STAND_IN_DIARY|"
    "ACME_SERVER|BASE|BIND|DEBIAN|DOMAIN|EMAIL|EVALUATOR_MEMORY|GID|HTTPS_PORT|HTTP_PORT|IMAGES|METRICS_DAYS|PORT|"
    "PREBUILT|PUBLIC_BIND|STAND_INS|TLS_PORT|TRAINING_MEMORY|UID)"
)
# What Stable-Baselines3 calls settings of algorithms
OTHER_NAMES = {
    "learning_rate": "lr",
    "buffer_size": "capacity",
    "tau": "target_ema",
    "n_steps": "batch_steps",
    "n_epochs": "epochs",
    "clip_range": "clip",
    "ent_coef": "entropy",
    "vf_coef": "value",
    "max_grad_norm": "grad_clip",
}
_TRUTHS = {"yes": True, "on": True, "1": True, "no": False, "off": False, "0": False}


def load(path: Path | None, environ: Mapping[str, str], overrides: Sequence[str]) -> Config:
    """Return the settings of all layers, each overriding single entries of those before.

    The layers are the defaults of the schema, ``config_d.yaml`` and ``config.yaml`` of a folder,
    variables ``SOULSAI__SECTION__KEY``, and ``section.key=value`` words.

    Args:
        path: The folder, or a file that takes the place of ``config.yaml`` and has its
            ``config_d.yaml`` beside it, if any; ``None``: the folder ``config``.
        environ: The variables of the process.
        overrides: The words of ``--set``, the last of them strongest.

    Raises:
        ConfigError: An entry is unknown, of the wrong type or out of range, or a file unreadable.
    """
    layers = SettingsLayers()
    for file in _files(path):
        layers.add_file(*read(file), str(file))
    for name in sorted(name for name in environ if name.startswith(PREFIX)):
        where = name.removeprefix(PREFIX).lower().replace("__", ".")
        layers.add_text(where, environ[name], f"the variable {name}")
    for override in overrides:
        where, found, text = override.partition("=")
        if not found:
            raise ConfigError(f"--set {override}: wanted section.key=value")
        layers.add_text(where.strip(), text, f"--set {override}")
    return check(layers.config())


def unknown_variables(environ: Mapping[str, str]) -> list[str]:
    """Return the variables that begin with ``SOULSAI_`` but that nothing reads."""
    ours = (name for name in environ if name.upper().startswith("SOULSAI_"))
    return sorted(name for name in ours if not _VARIABLES.fullmatch(name))


class SettingsLayers:
    """The entries of all layers so far, and the origin of each."""

    def __init__(self) -> None:
        self._values: dict[str, dict[str, Any]] = {}
        self._origins: dict[KeyPath, str] = {}

    def add_file(self, data: Mapping[str, Any], lines: Mapping[KeyPath, int], name: str) -> None:
        """Override entries with those of a file; an empty section changes nothing.

        Args:
            data: The content of the file.
            lines: The line of each key.
            name: The file's name, for errors.
        """
        for section, entries in data.items():
            origin = f"{name}, line {lines[section,]}" if (section,) in lines else name
            _type_of((section,), origin)
            if entries is None:
                continue
            if not isinstance(entries, dict):
                raise ConfigError(
                    f"{section}: wanted a section of `key: value` lines, "
                    f"found {describe(entries)}; in {origin}"
                )
            for key, value in entries.items():
                where = section, key
                origin = f"{name}, line {lines[where]}" if where in lines else name
                if _is_ignored(f"{section}.{key}", value, origin):
                    continue
                _type_of(where, origin)
                self._set(where, value, origin)

    def add_text(self, path: str, text: str, origin: str) -> None:
        """Override one entry with a value typed in a shell.

        Args:
            path: ``section.key``, or ``section.key.name`` for one name of an entry that is itself
                a mapping, and so on.
            text: The value as typed.
            origin: The variable or word it comes from, for errors.
        """
        where = tuple(path.split("."))
        if path in REMOVED and _is_ignored(path, parse_value(text, origin), origin):
            return
        kind = _type_of(where[:2], origin)
        if len(where) < 2:
            raise ConfigError(f"{path}: a section, not a setting; set one of its keys; in {origin}")
        section, key, *names = where
        if not names:
            self._set((section, key), _typed(text, kind, origin), origin)
            return
        for depth in range(len(names)):
            if not isinstance(kind, inspect.DictType):
                below = ".".join(where[: 2 + depth])
                raise ConfigError(f"{path}: there is nothing below {below}; in {origin}")
            kind = kind.value_type
        defaults = getattr(getattr(Config(), section), key)
        before = self._values.get(section, {}).get(key, defaults)
        self._set((section, key), _replaced(before, names, _typed(text, kind, origin)), origin)

    def config(self) -> Config:
        """Return the settings; raise ``ConfigError`` at the first entry of a wrong type."""
        try:
            return msgspec.convert(self._values, Config)
        except msgspec.ValidationError as error:
            found = re.search(r"`\$\.(\w+)\.(\w+)([^`]*)`", str(error))
            if found is None:  # no entry, but a section: excluded by the checks above
                raise ConfigError(str(error)) from None
            section, key, place = found.groups()
            wanted = _wanted(_TYPES[section][key]) + (f" at {place}" if place else "")
            raise ConfigError(
                f"{section}.{key}: wanted {wanted}, found "
                f"{describe(self._values[section][key])}; in {self._origins[section, key]}"
            ) from None

    def _set(self, where: tuple[str, str], value: Any, origin: str) -> None:
        self._values.setdefault(where[0], {})[where[1]] = value
        self._origins[where] = origin


def _files(path: Path | None) -> list[Path]:
    """Return the settings files to read, the overriding one last."""
    place = FOLDER if path is None else path
    if path is not None and not place.exists():
        raise ConfigError(f"{place}: there is no such file or folder")
    if not place.is_dir() and path is not None:
        beside = place.with_name(DEFAULTS)
        return [beside, place] if beside.is_file() and beside != place else [place]
    return [file for file in (place / DEFAULTS, place / OWN) if file.exists()]


def _types() -> dict[str, dict[str, inspect.Type]]:
    """Return the type of each entry of each section."""
    config = inspect.type_info(Config)
    sections: dict[str, dict[str, inspect.Type]] = {}
    for section in config.fields if isinstance(config, inspect.StructType) else ():
        if isinstance(section.type, inspect.StructType):
            sections[section.name] = {field.name: field.type for field in section.type.fields}
    return sections


_TYPES = _types()


def _type_of(where: KeyPath, origin: str) -> inspect.Type | None:
    """Return the type of an entry (``None`` for a section), or raise if there is no such entry."""
    section = _TYPES.get(where[0])
    if section is not None and (len(where) == 1 or where[1] in section):
        return section[where[1]] if len(where) > 1 else None
    path = ".".join(where)
    path = path if path.isprintable() else repr(path)
    nearest = _nearest(where)
    hint = f"; did you mean {nearest}?" if nearest else ""
    raise ConfigError(f"{path}: no such setting{hint} (in {origin})")


def _is_ignored(path: str, value: Any, origin: str) -> bool:
    """Return whether a removed setting has the value that changes nothing; raise if another."""
    if path not in REMOVED:
        return False
    harmless, reason = REMOVED[path]
    if value != harmless:
        raise ConfigError(f"{path}: {reason} (in {origin})")
    return True


def _nearest(where: KeyPath) -> str:
    """Return the known path most like an unknown one, or nothing."""
    last = where[-1]
    if len(where) > 1 and where[0] in _TYPES:
        if (ours := OTHER_NAMES.get(last, "")) in _TYPES[where[0]]:
            return f"{where[0]}.{ours}"
        near = difflib.get_close_matches(last, _TYPES[where[0]], 1)
        if near:
            return f"{where[0]}.{near[0]}"
    elif near := difflib.get_close_matches(where[0], _TYPES, 1):
        return ".".join((near[0], *where[1:]))
    keys: dict[str, str] = {}
    for section, types in _TYPES.items():
        for key in types:
            keys.setdefault(key, f"{section}.{key}")
    near = difflib.get_close_matches(last, keys, 1, cutoff=0.8)
    return keys[near[0]] if near else ""


def _replaced(before: dict[str, Any], names: Sequence[str], value: Any) -> dict[str, Any]:
    """Return a copy of nested mappings with the value at the end of a path of names."""
    first, *more = names
    return {**before, first: _replaced(before.get(first, {}), more, value) if more else value}


def _typed(text: str, kind: inspect.Type | None, origin: str) -> Any:
    """Return the meaning of a typed text for an entry; text without one comes back as it is."""
    kinds = kind.types if isinstance(kind, inspect.UnionType) else (kind,)
    word = text.strip().lower()
    if any(isinstance(one, inspect.BoolType) for one in kinds) and len(kinds) <= 2:
        return _TRUTHS.get(word, {"true": True, "false": False}.get(word, text))
    if isinstance(kind, (inspect.StrType, inspect.LiteralType)):
        return text
    if isinstance(kind, inspect.VarTupleType) and text.lstrip()[:1] not in ("[", "{"):
        parts = text.split(",") if text.strip() else []
        return [_typed(part.strip(), kind.item_type, origin) for part in parts]
    value = parse_value(text, origin)
    if isinstance(kind, inspect.DictType) and value is None:
        return {}
    integer = any(isinstance(one, inspect.IntType) for one in kinds) and len(kinds) <= 2
    return int(value) if integer and isinstance(value, float) and value.is_integer() else value


def _wanted(kind: inspect.Type) -> str:
    """Return a type in words, with its bounds."""
    match kind:
        case inspect.UnionType(types):
            return " or ".join(_wanted(one) for one in types)
        case inspect.LiteralType(values):
            return f"one of {', '.join(map(str, values))}" if len(values) > 1 else str(values[0])
        case inspect.BoolType():
            return "true or false"
        case inspect.NoneType():
            return "nothing"
        case inspect.StrType(pattern=pattern):
            return "a name of a-z, 0-9, _ and -, at most 64 long" if pattern else "text"
        case inspect.IntType() | inspect.FloatType():
            noun = "a whole number" if isinstance(kind, inspect.IntType) else "a number"
            bounds = {
                "above": kind.gt,
                "of at least": kind.ge,
                "below": kind.lt,
                "at most": kind.le,
            }
            words = [f"{word} {bound:g}" for word, bound in bounds.items() if bound is not None]
            return " ".join((noun, " and ".join(words))).strip()
        case inspect.VarTupleType(item_type):
            return f"a list in brackets, each item {_wanted(item_type)}"
        case inspect.DictType():
            return "`name: value` lines"
        case inspect.StructType(fields=fields):
            return "{" + ", ".join(f"{field.name}: ..." for field in fields) + "}"
    return "something else"
