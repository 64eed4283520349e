"""Installed packages: they exist for every supported Python, and each make target installs only what it needs."""

import os
import re
import shutil
import subprocess
import sys
import tomllib
from importlib.metadata import Distribution, PackageNotFoundError, distribution
from pathlib import Path

import pytest
import yaml
from packaging.requirements import Requirement
from packaging.specifiers import SpecifierSet
from packaging.utils import canonicalize_name

ROOT = Path(__file__).parent.parent
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())
GROUPS: dict[str, list[str | dict[str, str]]] = PROJECT["dependency-groups"]
OLDEST = PROJECT["project"]["requires-python"].removeprefix(">=")
OLDEST_PYTHON = {"python_version": OLDEST, "python_full_version": f"{OLDEST}.0"}
FROM_VENV = {"setuptools"}
"""What a new environment has by itself, in the version of its Python."""


def pins() -> dict[str, str]:
    """The versions in constraints.txt, by name."""
    lines = [line for line in (ROOT / "constraints.txt").read_text().splitlines() if not line.startswith("#")]
    return {canonicalize_name(name): version for name, version in (line.split("==") for line in lines)}


def installed(name: str) -> Distribution | None:
    try:
        return distribution(name)
    except PackageNotFoundError:
        return None


def needed(name: str, extra: str = "") -> list[Requirement]:
    """What an installed package needs on the oldest Python."""
    found = installed(name)
    every = map(Requirement, (found and found.requires) or [])
    return [each for each in every if each.marker is None or each.marker.evaluate({**OLDEST_PYTHON, "extra": extra})]


def members(group: str) -> set[str]:
    """The packages that a dependency group names itself."""
    return {canonicalize_name(Requirement(each).name) for each in GROUPS[group] if isinstance(each, str)}


def dry_run(target: str, folder: Path) -> str:
    """What make would do for a target in a fresh checkout."""
    for name in ("Makefile", "constraints.txt", "pyproject.toml", "Cargo.toml", "Cargo.lock", ".cargo/config.toml"):
        (folder / name).parent.mkdir(exist_ok=True)
        shutil.copy(ROOT / name, folder / name)
    (folder / "src").mkdir(exist_ok=True)
    environment = {name: value for name, value in os.environ.items() if not name.startswith(("MAKE", "MFLAGS"))}
    command = ["make", "--dry-run", "--directory", str(folder), target]
    return subprocess.run(command, env=environment, capture_output=True, text=True, check=True).stdout


def test_every_pinned_package_is_for_the_oldest_python() -> None:
    looked_at = set()
    for name, version in pins().items():
        found = installed(name)
        if found is not None and found.version == version:
            supported = found.metadata["Requires-Python"] or ""
            assert SpecifierSet(supported).contains(f"{OLDEST}.0"), f"{name} {version} needs Python {supported}"
            looked_at.add(name)
    assert looked_at >= members("test")


def test_what_the_oldest_python_needs_is_pinned() -> None:
    versions = pins()
    for name, version in versions.items():
        found = installed(name)
        if found is not None and found.version == version:
            for each in needed(name):
                pin = versions.get(canonicalize_name(each.name))
                if pin is None or not each.specifier.contains(pin, prereleases=True):
                    assert each.name in FROM_VENV, f"{name} needs {each}, but constraints.txt has {pin}"


def test_the_demo_installs_no_tools(tmp_path: Path) -> None:
    commands = dry_run("demo", tmp_path)
    assert re.findall(r"--group (\S+)", commands) == ["build"]
    assert re.findall(r"--extras (\S+)", commands) == ["train"]
    assert commands.count("maturin develop") == commands.count("hex-ssl demo") == 1
    assert "dev" not in GROUPS  # which `maturin develop` would install as well
    reached, new = set[str](), {"hex-ssl", *members("build")}
    while new:
        reached |= new
        found = [each for name in new for each in needed(name, extra="train" if name == "hex-ssl" else "")]
        new = {canonicalize_name(each.name) for each in found} - reached
    assert reached > {"torch", "lightning", "timm", "maturin"}
    tools = set().union(*map(members, GROUPS.keys() - {"build"})) - {"packaging"}
    assert not reached & tools


def test_each_target_installs_its_groups(tmp_path: Path) -> None:
    groups = {"test-python": "build test", "lint": "build docs lint", "docs": "build docs", "bench": "build peers"}
    groups |= {
        "test": "build docs lint test",
        "wheel": "wheel",
        "wheel-arm": "wheel",
        "targets": "",
        "fuzz": "build fuzz",
        "audit": "audit",
        "test-rust": "",
    }
    for target, expected in groups.items():
        found = re.findall(r"pip install --group (\S+)", dry_run(target, tmp_path))
        assert sorted(found) == expected.split(), target
        assert set(found) <= GROUPS.keys()


@pytest.fixture
def released(tmp_path: Path) -> Path:
    """A checkout as the release workflow changes it."""
    for name in ("README.md", "pyproject.toml", "packaging/absolute_links.py"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        shutil.copy(ROOT / name, tmp_path / name)
    for name in set(re.findall(r"\]\((?!http)([^)#]+)", (ROOT / "README.md").read_text())):
        path = tmp_path / name
        (path if (ROOT / name).is_dir() else path.parent).mkdir(parents=True, exist_ok=True)
        if (ROOT / name).is_file():
            path.touch(exist_ok=True)
    command = [sys.executable, "packaging/absolute_links.py", "https://forge.example/me/hex-ssl", "v1.2.3"]
    subprocess.run(command, cwd=tmp_path, check=True)
    return tmp_path


def test_links_lead_to_the_repository_where_an_index_shows_the_readme(released: Path) -> None:
    before, after = ((folder / "README.md").read_text() for folder in (ROOT, released))
    targets = re.findall(r"\]\(([^)]+)\)", after)
    assert len(targets) == len(re.findall(r"\]\(([^)]+)\)", before)) > 10
    assert all(each.startswith("https://") for each in targets)
    assert "https://forge.example/me/hex-ssl/blob/v1.2.3/docs/which-loss.md" in targets
    assert "https://forge.example/me/hex-ssl/tree/v1.2.3/examples" in targets
    assert any(each.startswith("https://forge.example/me/hex-ssl/raw/v1.2.3/docs/pictures/") for each in targets)
    project = tomllib.loads((released / "pyproject.toml").read_text())
    assert project["project"].pop("urls")["Issues"] == "https://forge.example/me/hex-ssl/issues"
    assert project == PROJECT


def test_a_checkout_is_made_ready_only_once(released: Path) -> None:
    command = [sys.executable, "packaging/absolute_links.py", "https://forge.example/me/hex-ssl", "v1.2.3"]
    again = subprocess.run(command, cwd=released, capture_output=True, text=True, check=False)
    assert again.returncode == 1
    assert "expected a URL and a checkout without URLs of the project" in again.stderr


def test_the_citation_is_of_this_version() -> None:
    citation = yaml.safe_load((ROOT / "CITATION.cff").read_text())
    cargo = tomllib.loads((ROOT / "Cargo.toml").read_text())["package"]
    assert citation["version"] == cargo["version"]
    assert " OR ".join(citation["license"]) == cargo["license"] == PROJECT["project"]["license"]


def test_an_older_python_is_refused() -> None:
    major, minor = OLDEST.split(".")
    assert f"sys.version_info < ({major}, {minor})" in (ROOT / "Makefile").read_text()
