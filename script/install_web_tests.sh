#!/usr/bin/env bash
# Installs what the tests of the page need beside Python: a browser, Node with two packages.
set -euo pipefail
cd "$(dirname "$0")/.."

missing=()
command -v chromium >/dev/null || missing+=(chromium)
command -v node >/dev/null || missing+=(nodejs)
command -v npm >/dev/null || missing+=(npm)
if [ "${#missing[@]}" -gt 0 ]; then
    sudo=""
    [ "$(id -u)" = 0 ] || sudo="sudo"
    $sudo apt-get update
    $sudo apt-get install -y --no-install-recommends "${missing[@]}"
fi

mkdir -p .venv/node
cp tests/web/package.json .venv/node/package.json
npm install --prefix .venv/node --no-audit --no-fund --no-package-lock --loglevel=error
