#!/usr/bin/env bash
# soulsgym 1.1.0 asks for gymnasium >= 0.27.0 and cannot be imported with any gymnasium from 1.0 on.
#
# Expected: pip resolves versions that work together: the package's metadata allows gymnasium 1.4.0.
# Happens:  its environments import RetriesExceededError from gymnasium.error; the name is there in
#           0.29.1 and gone in 1.0.0 and later, so making any of its environments fails.
# Version:  soulsgym 1.1.0, gymnasium 0.29.1, 1.0.0 and 1.4.0 from PyPI, Python 3.11
# Date:     2026-11-30
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
python="$folder/venv/bin/python"
# Without its dependencies: some of them need Windows to be imported, none matters here.
"$python" -m pip install --quiet --no-deps soulsgym==1.1.0
"$python" -m pip show soulsgym --files | grep -E "^(Version|Requires)"
asked=$("$python" -c "
from importlib.metadata import requires
print(next(line for line in requires('soulsgym') if line.startswith('gymnasium')))")
echo "asks for: $asked"
found=""
for version in 0.29.1 1.0.0 1.4.0; do
    "$python" -m pip install --quiet "gymnasium==$version" "numpy<2"
    said=$("$python" - <<'PYTHON'
import ast
import importlib.util
from pathlib import Path

import gymnasium.error

package = Path(importlib.util.find_spec("soulsgym").origin).parent
tree = ast.parse((package / "envs" / "darksouls3" / "iudex.py").read_text())
names = [
    alias.name
    for node in ast.walk(tree)
    if isinstance(node, ast.ImportFrom) and node.module == "gymnasium.error"
    for alias in node.names
]
print(",".join(f"{name}:{hasattr(gymnasium.error, name)}" for name in names))
PYTHON
    )
    echo "gymnasium $version: $said"
    found="$found $said"
done
[ "$asked" = "gymnasium >=0.27.0" ] || [ "$asked" = "gymnasium>=0.27.0" ]
[ "$found" = " RetriesExceededError:True RetriesExceededError:False RetriesExceededError:False" ]
