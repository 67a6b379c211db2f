"""Prints what the package needs, one requirement a line, with the extras that are named."""

import sys
import tomllib
from pathlib import Path

project = tomllib.loads(Path("pyproject.toml").read_text())["project"]
extras = [project["optional-dependencies"][name] for name in sys.argv[1:]]
print("\n".join(sum(extras, project["dependencies"])))
