"""Train one agent from many slow, remote, fragile environments."""

import importlib
import os
from typing import Any

__version__ = "0.1.0"

# ONNX Runtime reports to its maker unless this is set before its import. Children inherit it.
os.environ["ORT_DISABLE_TELEMETRY"] = "1"

_API = ("Config", "evaluate", "load_config", "load_policy", "read_results", "train")


def __getattr__(name: str) -> Any:
    """Import a name of the Python API, ``soulsai.api``, when it is first used."""
    if name not in _API:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module("soulsai.api"), name)


def __dir__() -> list[str]:
    """Return the names of this module and of the API."""
    return sorted({*globals(), *_API})
