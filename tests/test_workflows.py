"""The workflows of continuous integration call only targets of the Makefile and commands that contributors run."""

import re
import tomllib
from pathlib import Path
from typing import Any

import pytest
import yaml

ROOT = Path(__file__).parent.parent
WORKFLOWS = sorted((ROOT / ".github" / "workflows").glob("*.yml"))


def runs(workflow: Path) -> list[str]:
    """Every shell line of a workflow."""
    jobs: dict[str, Any] = yaml.safe_load(workflow.read_text())["jobs"]
    return [step["run"] for job in jobs.values() for step in job["steps"] if "run" in step]


@pytest.mark.parametrize("workflow", WORKFLOWS, ids=lambda path: path.stem)
def test_targets_exist(workflow: Path) -> None:
    targets = set(re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(), flags=re.MULTILINE))
    called = {target for run in runs(workflow) if run.startswith("make ") for target in run.split()[1:]}
    assert called
    assert called <= targets


def test_the_gate_and_the_wheel_are_run_before_a_release() -> None:
    release = yaml.safe_load((ROOT / ".github" / "workflows" / "release.yml").read_text())["jobs"]
    assert release["publish"]["needs"] == "try"
    assert release["try"]["needs"] == ["build", "windows"]
    assert release["build"]["needs"] == release["windows"]["needs"] == "gate"
    commands = runs(ROOT / ".github" / "workflows" / "release.yml")
    assert "bash .ci/run" in commands
    assert "make wheel" in commands


def test_every_wheel_is_tried_on_every_python_before_it_is_published() -> None:
    jobs = yaml.safe_load((ROOT / ".github" / "workflows" / "release.yml").read_text())["jobs"]
    built = [each["os"] for each in jobs["build"]["strategy"]["matrix"]["include"]] + [jobs["windows"]["runs-on"]]
    tried = jobs["try"]["strategy"]["matrix"]
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    versions = re.findall(r"Python :: (3\.\d+)", "\n".join(project["classifiers"]))
    assert (tried["os"], tried["python"]) == (built, versions)
    links = 'python packaging/absolute_links.py "$GITHUB_SERVER_URL/$GITHUB_REPOSITORY" "$GITHUB_REF_NAME"'
    for name, build in (("build", "make wheel"), ("windows", "maturin build --release --out dist")):
        steps = [step.get("run") for step in jobs[name]["steps"]]
        assert steps.index(links) < steps.index(build)


def test_only_publishing_may_ask_for_an_identity() -> None:
    for workflow in WORKFLOWS:
        content = yaml.safe_load(workflow.read_text())
        assert content["permissions"] == {"contents": "read"}
        for name, job in content["jobs"].items():
            assert job.get("permissions") == ({"id-token": "write"} if name == "publish" else None)


def test_every_push_is_linted_audited_and_tested_on_the_oldest_python() -> None:
    jobs = yaml.safe_load((ROOT / ".github" / "workflows" / "ci.yml").read_text())["jobs"]
    oldest = re.search(r'^requires-python = ">=([\d.]+)"$', (ROOT / "pyproject.toml").read_text(), re.MULTILINE)
    assert oldest is not None
    assert jobs["test"]["strategy"]["matrix"]["python"][0] == oldest[1]
    commands = runs(ROOT / ".github" / "workflows" / "ci.yml")
    assert jobs["demo"]["container"].endswith("-bookworm")  # Debian, whose Python is of the oldest but a few patches
    assert {"make demo", "make lint", "make test-rust test-python", "bash .ci/run", "make audit", "make wheel"} <= set(
        commands
    )
