"""Loads every module of soulsai that a client may load, and names those that Windows cannot."""

import importlib
import pkgutil
import sys
from pathlib import Path

sys.path.append(str(Path(__file__).parents[2]))
from tests.windows import simulation

simulation.install()
import soulsai  # noqa: E402 - from here on it is Windows

for module in pkgutil.walk_packages(soulsai.__path__, "soulsai."):
    if module.name.endswith("__main__"):
        continue
    try:
        importlib.import_module(module.name)
    except (ImportError, AttributeError) as error:
        sys.stdout.write(f"{module.name}: {error}\n")
