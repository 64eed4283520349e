"""Paths in settings."""

from pathlib import Path
from typing import Any

import pytest

from hex_ssl.train.command_settings import AnalyzeConfig, DemoConfig, ReportConfig
from hex_ssl.train.config import DataConfig, RunConfig
from hex_ssl.train.evaluate.settings import FinetuneConfig, KNNConfig, ProbeConfig, TransferConfig
from hex_ssl.train.paths import expand_path
from hex_ssl.train.recipes import load_recipe
from hex_ssl.train.reproduce.settings import ReproduceConfig

PATHS: list[tuple[type[Any], dict[str, Any], tuple[str, ...]]] = [
    (RunConfig, {}, ("root",)),
    (DataConfig, {}, ("root",)),
    (KNNConfig, {}, ("source", "root", "output")),
    (ProbeConfig, {}, ("source", "root", "output")),
    (FinetuneConfig, {}, ("source", "root", "output")),
    (TransferConfig, {"datasets": ["digits"]}, ("source", "root", "output")),
    (AnalyzeConfig, {}, ("run", "beside", "output")),
    (AnalyzeConfig, {}, ("features", "labels", "superclasses", "output")),
    (ReportConfig, {"runs": ["a"]}, ("output",)),
    (ReproduceConfig, {}, ("experiment", "data", "out", "results")),
    (DemoConfig, {}, ("folder",)),
]


@pytest.mark.parametrize(("config", "others", "names"), PATHS)
@pytest.mark.parametrize("written", ["~/x", "$HOME/x", "${HOME}/x"])
def test_each_path_is_expanded_as_by_a_shell(
    written: str, config: type[Any], others: dict[str, Any], names: tuple[str, ...], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HOME", "/home/someone")
    settings = config(**others, **dict.fromkeys(names, written))
    assert {getattr(settings, name) for name in names} == {"/home/someone/x"}


def test_paths_in_lists_and_of_datasets_are_expanded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", "/home/someone")
    assert ReportConfig(runs=["~/a", "b"]).runs == ["/home/someone/a", "b"]
    assert KNNConfig("run", dataset="folder=~/birds").dataset == "folder=/home/someone/birds"
    datasets = TransferConfig("run", datasets=["digits", "folder=~/birds"]).datasets
    assert datasets == ["digits", "folder=/home/someone/birds"]


def test_run_folder_is_expanded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    (tmp_path / "own.yaml").write_text("run: {root: ~/runs}\n")
    assert RunConfig(**load_recipe("~/own.yaml")["run"]).root == str(tmp_path / "runs")


@pytest.mark.parametrize(
    ("path", "message"),
    [
        ("$NOWHERE_AT_ALL/x", r"but got \$NOWHERE_AT_ALL in \$NOWHERE_AT_ALL/x"),
        ("~nobody_of_that_name/x", "begin with a user's name after the ~, but got ~nobody_of_that_name/x"),
    ],
)
def test_unknown_variable_or_user_is_an_error(path: str, message: str) -> None:
    with pytest.raises(ValueError, match=f"expected `run.root` to .*{message}"):
        RunConfig(root=path)
    assert expand_path("run.root", "./~x/a$") == "./~x/a$"
