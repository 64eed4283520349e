"""What a missing extra says."""

import subprocess
import sys

import pytest

MODULES = ["methods", "data", "callbacks", "evaluate", "analysis", "pretrain", "cli", "demo", "backbones"]


@pytest.mark.parametrize("package", ["lightning", "torchvision"])
def test_missing_package_says_what_to_install(package: str) -> None:
    code = f"""
import importlib, sys
sys.modules[{package!r}] = None  # an import of it now fails as if it were not installed
import hex_ssl
for module in {MODULES}:
    try:
        importlib.import_module("hex_ssl." + module)
    except ImportError as error:
        print(error)
"""
    finished = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    expected = f"pretraining needs {package}, which is not installed: pip install 'hex-ssl[train]'"
    messages = set(finished.stdout.splitlines())
    assert messages == {expected}
