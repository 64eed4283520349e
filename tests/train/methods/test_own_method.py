"""A user's own method, `module:Class`: the example of docs/methods.md, from the command line to the analysis."""

import hashlib
import importlib
import json
import re
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import yaml

from hex_ssl.train.callbacks.metrics import read_metrics
from hex_ssl.train.cli import main
from hex_ssl.train.config import Config
from hex_ssl.train.methods import build_method
from hex_ssl.train.methods.settings import MethodSettings, UncheckedSettings
from hex_ssl.train.run_folder import read_config

DOCS = (Path(__file__).parents[3] / "docs" / "methods.md").read_text(encoding="utf-8")
SECTION = DOCS.split("\n## A method of your own\n")[1].split("\n## ")[0]
NAME = "align_uniform:AlignUniform"
SMALL = ["--backbone.width", "4", "--run.progress", "false", "--run.knn_every", "9", "--run.classifier", "false"]


def code(language: str) -> str:
    """The code block of the section in a language."""
    found = re.findall(rf"^```{language}\n(.*?)^```$", SECTION, re.MULTILINE | re.DOTALL)
    assert len(found) == 1
    return str(found[0])


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The current folder, with the example in it."""
    (tmp_path / "align_uniform.py").write_text(code("python"), encoding="utf-8")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [*sys.path])
    monkeypatch.delitem(sys.modules, "align_uniform", raising=False)
    importlib.invalidate_caches()
    return tmp_path


def test_the_example_trains_resumes_evaluates_and_is_analysed(folder: Path) -> None:
    """Runs each command of the page, the first as an installed script, which does not search the current folder."""
    first, *others = code("bash").splitlines()
    command = [sys.executable, "-P", "-m", "hex_ssl.train.cli", *first.split()[1:], *SMALL]
    finished = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False)
    assert finished.returncode == 0, finished.stderr
    small = {"pretrain": SMALL, "analyze": ["--images", "50", "--anchors", "2"]}
    for program, name, *arguments in map(str.split, others):
        assert program == "hex-ssl"
        main([name, *arguments, *small.get(name, [])])
    run = folder / "runs" / "mine"
    expected = {"name": NAME, "hidden_dim": 128, "output_dim": 64, "uniformity": 0.5}
    assert yaml.safe_load((run / "config.yaml").read_text())["method"] == expected
    rows = read_metrics(run)
    assert [row["epoch"] for row in rows if "loss" in row] == [1, 2, 3]
    last = rows[-1]
    # HEX's share is what is left, and is there.
    hex_ = last["loss"] - last["align"] - 0.5 * last["uniform"]  # type: ignore[operator]
    assert hex_ > 1.0
    assert {path.name.partition("-")[0] for path in (run / "evaluation").glob("*.json")} == {"knn", "probe"}
    assert (run / "analysis" / "analysis.json").is_file()


def test_settings_of_the_class_are_the_commands(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        main(["pretrain", "--method.name", NAME, "--help"])
    listed = capsys.readouterr().out
    assert set(re.findall(r"^ +--method\.(\w+) ", listed, re.MULTILINE)) == {
        "name", "hidden_dim", "output_dim", "uniformity",
    }  # fmt: skip
    assert "Weight of the uniformity term." in " ".join(listed.split())
    (folder / "own.yaml").write_text(f"extends: quick/simclr_hex\nmethod: {{name: {NAME}, uniformity: 0.25}}\n")
    with pytest.raises(SystemExit):
        main(["pretrain", "--recipe", "own.yaml", "--method.hidden_dim", "32", "--print_config"])
    method = yaml.safe_load(capsys.readouterr().out)["method"]
    assert method == {"name": NAME, "hidden_dim": 32, "output_dim": 64, "uniformity": 0.25}


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (["--method.uniformty", "1"], 'but got `method.uniformty`; did you mean "method.uniformity"'),
        (["--method.uniformity", "much"], "expected `method.uniformity` to be a number, but got much"),
        (["--method.queue_size", "1"], f"expected settings of {NAME}, hidden_dim, output_dim, uniformity, but got"),
        (["--loss.base", "dcl"], 'expected `loss.base` to be "own" for AlignUniform, but got "dcl"'),
        (["--method.name", "align_uniform:Align"], "has no attribute 'Align'"),
        (["--method.name", "no_such_module:Align"], "No module named 'no_such_module'"),
        (["--method.name", "align_uniform:AlignUniformSettings"], "to name a subclass of hex_ssl.train.methods.base."),
        (["--recipe", "bad.yaml"], "--recipe bad.yaml: expected `method.uniformity` to be a number, but got 'much'"),
        (
            ["--recipe", "typo.yaml"],
            f"--recipe typo.yaml: expected settings of {NAME}, hidden_dim, output_dim, uniformity",
        ),
        (["--recipe", "lost.yaml"], "--recipe lost.yaml: expected `method.name` to be an importable"),
    ],
)
def test_mistakes_are_named_before_anything_is_written(
    folder: Path, arguments: list[str], expected: str, capsys: pytest.CaptureFixture[str]
) -> None:
    (folder / "bad.yaml").write_text(f"method: {{name: {NAME}, uniformity: much}}\n")
    (folder / "typo.yaml").write_text(f"method: {{name: {NAME}, uniformty: 1}}\n")
    (folder / "lost.yaml").write_text("method: {name: 'no_such_module:Align'}\n")
    with pytest.raises(SystemExit) as exit_:
        main(["pretrain", "--method.name", NAME, *arguments])
    assert exit_.value.code == 2
    assert expected in capsys.readouterr().err
    assert not (folder / "runs").exists()


PLAIN = "to be a dataclass that extends MethodSettings, but got <class"


@pytest.mark.parametrize(
    ("decorator", "settings", "expected"),
    [
        ("@dataclass(frozen=True)", "class S(MethodSettings):\n    width: int", "have a default, but `width` has none"),
        ("@dataclass(frozen=True)", "class S(MethodSettings):\n    sizes: tuple[int, ...] = ()", "`sizes`: tuple[int"),
        ("", "class S(MethodSettings):\n    width: int = 3", PLAIN),
        ("@dataclass", "class S:\n    width: int = 3", PLAIN),
    ],
)
def test_settings_that_a_file_cannot_represent_are_errors(
    folder: Path, decorator: str, settings: str, expected: str, capsys: pytest.CaptureFixture[str]
) -> None:
    head = "from dataclasses import dataclass\nfrom hex_ssl.train.methods import Method, MethodSettings\n"
    source = f"{head}{decorator}\n{settings}\nclass Own(Method):\n    settings_class = S\n"
    name = f"own_{hashlib.sha256(source.encode()).hexdigest()[:8]}"
    (folder / f"{name}.py").write_text(source)
    with pytest.raises(SystemExit):
        main(["pretrain", "--method.name", f"{name}:Own"])
    assert expected in capsys.readouterr().err


def test_a_file_is_read_without_importing_and_checked_where_the_method_is_built(folder: Path) -> None:
    (folder / "config.yaml").write_text(f"method: {{name: {NAME}, uniformity: 0.25}}\ndata: {{image_size: 8}}\n")
    config = read_config(folder)
    assert config.method == UncheckedSettings(name=NAME, settings={"uniformity": 0.25})
    assert config.method.probe_learning_rate == 1.0
    assert Config.from_dict(config.as_dict()) == config
    assert "align_uniform" not in sys.modules
    method: Any = build_method(config, channels=1)
    assert type(method).__name__ == "AlignUniform"
    assert method.uniformity == 0.25
    for settings, message in (
        ({"uniformity": "much"}, "^expected `method.uniformity` to be a number, but got 'much'$"),
        ({"uniform": 1.0}, 'but got `method.uniform`; did you mean "method.uniformity" for "method.uniform"'),
    ):
        wrong = replace(config, method=UncheckedSettings(name=NAME, settings=settings))
        with pytest.raises(ValueError, match=message):
            build_method(wrong, channels=1)


def test_installed_modules_have_priority_over_the_current_folder(folder: Path) -> None:
    (folder / "json.py").write_text("raise AssertionError('a file of the current folder hides a module')")
    with pytest.raises(ValueError, match="to name a subclass of"):
        build_method(replace(Config(), method=MethodSettings(name="json:loads")), 1, 8)
    assert "decoder" in vars(json)
