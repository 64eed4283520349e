"""The error for a missing extra."""

import re
import subprocess
import sys
from importlib import import_module
from pathlib import Path

import pytest

NAMES = [
    "methods.build_method",
    "data.PretrainData",
    "callbacks.Checkpoints",
    "evaluate.run_knn",
    "analysis.analyze",
    "pretrain.pretrain",
    "demo.run_demo",
]


def without(package: str, code: str) -> "subprocess.CompletedProcess[str]":
    """Runs code as if a package were not installed."""
    missing = f"import sys; sys.modules[{package!r}] = None\n"  # importing it now fails as if it were not installed
    return subprocess.run([sys.executable, "-c", missing + code], capture_output=True, text=True, timeout=120)


def needs(package: str) -> str:
    return f"pretraining needs {package}, which is not installed: pip install 'hex-ssl[train]'"


@pytest.mark.parametrize("package", ["lightning", "torchvision"])
def test_missing_package_says_what_to_install(package: str) -> None:
    code = f"""
import importlib
import hex_ssl
for name in {NAMES}:
    module, _, attribute = name.partition(".")
    try:
        getattr(importlib.import_module("hex_ssl.train." + module), attribute)
    except ImportError as error:
        print(error)
"""
    finished = without(package, code)
    assert finished.returncode == 0, finished.stderr
    assert finished.stdout.splitlines() == [needs(package)] * len(NAMES)


@pytest.mark.parametrize("package", ["jsonargparse", "yaml"])
@pytest.mark.parametrize("arguments", [["--help"], ["pretrain"], ["recipes"]])
def test_command_without_the_extra_is_a_line(package: str, arguments: list[str]) -> None:
    finished = without(package, f"from hex_ssl.train.cli import main; main({arguments})")
    assert (finished.returncode, finished.stdout) == (1, "")
    assert finished.stderr == f"error: {needs(package)}\n"


def test_command_that_needs_more_than_its_parser_is_a_line() -> None:
    finished = without("lightning", "from hex_ssl.train.cli import main; main(['pretrain', '--run.epochs', '1'])")
    assert (finished.returncode, finished.stdout) == (1, "")
    assert finished.stderr == f"error: {needs('lightning')}\n"


@pytest.mark.parametrize("package", ["hex_ssl.train.data", "hex_ssl.train.evaluate"])
def test_packages_offer_what_their_modules_of_names_import(package: str) -> None:
    names = import_module(f"{package}._names")
    imported = re.findall(r" as (\w+)$", Path(str(names.__file__)).read_text(), re.MULTILINE)
    module = import_module(package)
    assert sorted(module.__all__) == sorted(imported)
    for name in imported:
        assert getattr(module, name) is getattr(names, name)
