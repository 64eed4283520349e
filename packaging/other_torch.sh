#!/usr/bin/env bash
# Runs the suite with another torch: a wheel built for it, in an environment of its own, every other package as
# constraints.txt has it, but for those that torch and torchvision choose. Arguments: torch's version, pytest's paths.
# BORDER in the environment: the feature the wheel is built with.
set -euo pipefail
version=${1:?expected a version of torch: make test-torch TORCH=2.6.0}
shift
cd "$(dirname "$0")/.."
folder=$PWD/.venv-torch-$version
unset PYTHONPATH VIRTUAL_ENV PIP_CONSTRAINT
if [ ! -e "$folder/.installed" ]; then
    "${PYTHON:-python3}" -m venv "$folder"
    grep -vE '^(torch|torchvision|triton|nvidia-|cuda-|sympy|setuptools|networkx|fsspec)' constraints.txt \
        >"$folder/constraints.txt"
    "$folder/bin/pip" install -c "$folder/constraints.txt" --upgrade pip # groups need a new one
    "$folder/bin/pip" install -c "$folder/constraints.txt" "torch==$version" torchvision --group build
fi
# Built anew each time: cargo does nothing where no source changed.
rm -rf "$folder/wheel"
# libtorch is torch's, whatever the wheel is linked with: nothing is copied into it.
PATH=$folder/bin:$PATH maturin build --release --quiet --no-default-features --features "${BORDER:-dynamic}" \
    --auditwheel skip --out "$folder/wheel"
wheel=("$folder"/wheel/*.whl)
"$folder/bin/pip" install -c "$folder/constraints.txt" --force-reinstall --no-deps "${wheel[0]}"
if [ ! -e "$folder/.installed" ]; then
    "$folder/bin/pip" install -c "$folder/constraints.txt" "torch==$version" "${wheel[0]}[train]" \
        --group test setuptools
    touch "$folder/.installed"
fi
"$folder/bin/python" -m pytest "${@:-tests}"
