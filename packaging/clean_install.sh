#!/usr/bin/env bash
# Installs a wheel or an sdist into a fresh environment outside the tree and tries it there.
set -euo pipefail
package=$(realpath "$1")
smoke=$(realpath "$(dirname "$0")/smoke.py")
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
"${PYTHON:-python3}" -m venv "$folder/venv"
cd "$folder"
unset PYTHONPATH VIRTUAL_ENV PIP_CONSTRAINT # what a user's pip would choose
python=venv/bin/python
if [ ! -x "$python" ]; then python=venv/Scripts/python.exe; fi # Windows
"$python" -m pip install "$package"
"$python" -W error "$smoke"
