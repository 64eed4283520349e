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
venv/bin/python -m pip install "$package"
venv/bin/python -W error "$smoke"
