#!/usr/bin/env bash
# tensorboardX 2.6.4: importing it imports torch, wherever torch is installed.
#
# Expected: a writer of event files that advertises to work without PyTorch does not load it.
# Happens:  `import tensorboardX` imports torch as soon as that is installed, used or not: seconds
#           and about 200 MiB in every process that writes a scalar.
# Version:  tensorboardX 2.6.4 and torch 2.13.0 (CPU) from PyPI, Python 3.11
# Date:     2026-11-30
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
python="$folder/venv/bin/python"

# Prints whether torch was imported, the seconds of the import, and the memory it took.
import() {
    "$python" - <<'PYTHON'
import resource
import sys
import time

import numpy

before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
began = time.perf_counter()
import tensorboardX

seconds = time.perf_counter() - began
mib = (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) / 1024
print(f"torch={'torch' in sys.modules} seconds={seconds:.1f} MiB={mib:.0f}")
PYTHON
}

"$python" -m pip install --quiet tensorboardX==2.6.4
without=$(import)
echo "without torch installed: $without"
"$python" -m pip install --quiet --extra-index-url https://download.pytorch.org/whl/cpu torch==2.13.0+cpu
import >/dev/null # the first import writes bytecode
with=$(import)
echo "with torch installed:    $with"
[[ $without == torch=False* && $with == torch=True* ]]
