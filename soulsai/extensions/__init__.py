"""Classes and functions of other packages and files, imported by the name that a setting gives."""

import importlib
import importlib.util
import sys
import traceback
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

from soulsai.errors import ConfigError, SoulsAIError

MOST_NAMES = 8  # that a message lists


def import_named(setting: str, name: str) -> Callable[..., Any]:
    """Import a class or function.

    Args:
        setting: The setting that names it, for messages.
        name: ``module:Class`` of an installed package, or ``file.py:Class``.

    Raises:
        ConfigError: It cannot be imported, or cannot be called.
    """
    place, _, attribute = name.rpartition(":")
    try:
        is_file = place.endswith(".py")
        module = (
            import_file(Path(place), ConfigError) if is_file else importlib.import_module(place)
        )
    except ConfigError as error:
        raise ConfigError(f"{setting}: {error}") from None
    except ModuleNotFoundError as error:
        if error.name != place.partition(".")[0]:
            raise ConfigError(f"{setting}: {name}: {error_line(error)}; install it") from error
        file = Path(*place.split(".")).with_suffix(".py")
        remedy = f"name the file: {file}:{attribute}" if file.is_file() else "install its package"
        raise ConfigError(f"{setting}: {name}: there is no module {place!r}; {remedy}") from None
    except Exception as error:  # the code of others may raise anything
        raise ConfigError(f"{setting}: {name} cannot be imported: {error_line(error)}") from error
    found = getattr(module, attribute, None)
    if not callable(found):
        own = [key for key, value in vars(module).items() if _is_defined(value, module)]
        defined = ", ".join(own[:MOST_NAMES]) or "no class or function"
        raise ConfigError(f"{setting}: {place} has no {attribute!r}; it defines {defined}")
    return found  # type: ignore[no-any-return]


def import_file(path: Path, fault: type[SoulsAIError]) -> ModuleType:
    """Import a file under a unique name, once per process; it may import its neighbours.

    Args:
        path: The file.
        fault: The error to raise if it is no Python file; errors of its code are not caught.
    """
    if not path.is_file():
        raise fault(f"{path}: no such file (looked for in {Path.cwd()})")
    folder = str(path.resolve().parent)
    if folder not in sys.path:
        sys.path.append(folder)  # at the end: a neighbour must not replace a package
    name = f"soulsai_file_{path.resolve().as_posix()}".replace(".", "_").replace("/", "_")
    if name in sys.modules:
        return sys.modules[name]
    spec = importlib.util.spec_from_file_location(name, path)
    if spec is None or spec.loader is None:
        raise fault(f"{path}: is not a Python file")
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module
    try:
        spec.loader.exec_module(module)
    except BaseException:
        del sys.modules[name]
        raise
    return module


def error_line(error: BaseException, file: str = "") -> str:
    """Return one line with an exception and its place.

    Args:
        error: The exception.
        file: The file whose line is named, instead of the innermost line.
    """
    every = traceback.extract_tb(error.__traceback__)
    frames = [frame for frame in every if file in ("", frame.filename)]
    where = f" at {frames[-1].filename}:{frames[-1].lineno}" if frames else ""
    return f"{type(error).__name__}: {' '.join(str(error).split())[:300]}{where}"


def _is_defined(value: Any, module: ModuleType) -> bool:
    own = callable(value) and getattr(value, "__module__", "") == module.__name__
    return own and not value.__name__.startswith("_")
