#!/usr/bin/env bash
# onnxruntime 1.32.0 on Linux: importing it makes a telemetry database in the user's cache folder.
#
# Expected: an inference library that is imported writes nothing and calls nobody.
# Happens:  the import creates Microsoft/DeveloperTools/.onnxruntime/onnxruntime.db below
#           XDG_CACHE_HOME (a queue of events for its maker), unless ORT_DISABLE_TELEMETRY=1 is set
#           before. 1.26.0 created nothing.
# Version:  onnxruntime 1.26.0 and 1.32.0 from PyPI, Python 3.11
# Date:     2026-11-30
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
python="$folder/venv/bin/python"

# Prints how many files an import leaves in an empty cache folder.
files() {
    rm -rf "$folder/cache" && mkdir "$folder/cache"
    env XDG_CACHE_HOME="$folder/cache" HOME="$folder" "$@" "$python" -c "import onnxruntime" >/dev/null
    (cd "$folder/cache" && find . -type f | sort)
}

"$python" -m pip install --quiet onnxruntime==1.26.0
before=$(files env)
echo "onnxruntime 1.26.0: ${before:-no file}"
"$python" -m pip install --quiet onnxruntime==1.32.0
now=$(files env)
echo "onnxruntime 1.32.0: ${now:-no file}"
off=$(files env ORT_DISABLE_TELEMETRY=1)
echo "onnxruntime 1.32.0 with ORT_DISABLE_TELEMETRY=1: ${off:-no file}"
[ -z "$before" ] && [ -n "$now" ] && [ -z "$off" ]
