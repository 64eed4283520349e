"""Who may write into a run folder."""

import json
import re
from dataclasses import fields, replace
from importlib.metadata import version
from pathlib import Path

import pytest
import yaml

from hex_ssl.config import Config
from hex_ssl.run_folder import claim_run_folder, last_checkpoint

from .conftest import MakeConfig


def with_run(config: Config, **settings: str) -> Config:
    return replace(config, run=replace(config.run, **settings))  # type: ignore[arg-type]


FRESH = {".lock", "config.yaml", "environment.json"}


def contents(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def test_new_and_empty_folders_are_claimed(make_config: MakeConfig, tmp_path: Path) -> None:
    (tmp_path / "run").mkdir()
    folder = claim_run_folder(make_config()).folder
    assert folder == tmp_path / "run"
    assert set(contents(folder)) == FRESH


@pytest.mark.parametrize("existing", ["error", "overwrite", "resume"])
def test_folder_of_something_else_is_left_alone(make_config: MakeConfig, tmp_path: Path, existing: str) -> None:
    folder = tmp_path / "run"
    folder.mkdir()
    (folder / "thesis.tex").write_text("years of work")
    with pytest.raises(OSError, match=re.escape(str(folder))):
        claim_run_folder(make_config(existing=existing))
    assert contents(folder) == {"thesis.tex": b"years of work"}


def test_finished_run_is_an_error_that_says_what_to_do(make_config: MakeConfig) -> None:
    folder = claim_run_folder(make_config()).folder
    before = contents(folder)
    message = (
        f"expected the run folder {folder} to be new or empty, but it is not: choose another `run.name`, or say "
        "`run.existing=resume` or `run.existing=overwrite`"
    )
    with pytest.raises(FileExistsError, match=re.escape(message)):
        claim_run_folder(make_config(epochs=7))
    assert contents(folder) == before


def test_overwriting_leaves_nothing_of_the_old_run(make_config: MakeConfig) -> None:
    folder = claim_run_folder(make_config()).folder
    (folder / "metrics.csv").write_text("old")
    claim_run_folder(make_config(existing="overwrite"))
    assert set(contents(folder)) == FRESH


def test_resuming_compares_the_whole_configuration(make_config: MakeConfig) -> None:
    config = make_config()
    folder = claim_run_folder(config).folder
    checkpoint = folder / "checkpoints" / "last.ckpt"
    checkpoint.parent.mkdir()
    checkpoint.write_bytes(b"")
    resumed = with_run(config, existing="resume")
    assert claim_run_folder(resumed).folder == folder
    assert (last_checkpoint(resumed), last_checkpoint(config)) == (checkpoint, None)
    before = contents(folder)
    changed = replace(resumed, loss=replace(config.loss, temperature=0.5), data=replace(config.data, batch_size=128))
    message = (
        "expected the configuration of the run to resume, but these differ: "
        "data.batch_size: 256 -> 128; loss.temperature: 0.1 -> 0.5"
    )
    with pytest.raises(ValueError, match=re.escape(message)):
        claim_run_folder(changed)
    assert contents(folder) == before


@pytest.mark.parametrize("group", [group.name for group in fields(Config)])
def test_resuming_compares_every_setting_that_moves_a_number(group: str, make_config: MakeConfig) -> None:
    config = with_run(make_config(), existing="resume")
    folder = claim_run_folder(config).folder
    stored = yaml.safe_load((folder / "config.yaml").read_text())
    free = {
        "run": {
            "existing",
            "progress",
            "root",
            "name",
            "accelerator",
            "loggers",
            "profiler",
            "checkpoint_minutes",
            "keep_every",
        },
        "data": {"root", "num_workers"},
    }
    for setting in stored[group]:
        other = {**stored, group: {**stored[group], setting: "something else"}}
        (folder / "config.yaml").write_text(yaml.safe_dump(other))
        if setting in free.get(group, ()):
            claim_run_folder(config)
        else:
            with pytest.raises(ValueError, match=re.escape(f"these differ: {group}.{setting}: something else -> ")):
                claim_run_folder(config)


def test_run_without_a_checkpoint_or_a_folder_starts_from_the_beginning(
    make_config: MakeConfig, tmp_path: Path
) -> None:
    resumed = make_config(existing="resume")
    for _ in range(2):  # no folder at first, then one without a checkpoint
        assert claim_run_folder(resumed).folder == tmp_path / "run"
        assert last_checkpoint(resumed) is None


def test_half_a_configuration_is_no_run(make_config: MakeConfig, tmp_path: Path) -> None:
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "config.yaml.part").write_text("method: {na")
    assert set(contents(claim_run_folder(make_config(existing="resume")).folder)) == FRESH


def test_environment_lists_each_start_and_other_versions_warn(
    make_config: MakeConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = claim_run_folder(make_config()).folder
    resumed = make_config(existing="resume")
    claim_run_folder(resumed)
    starts = json.loads((folder / "environment.json").read_text())
    assert [start["versions"]["torch"] for start in starts] == [version("torch")] * 2
    assert starts[0]["command"]
    monkeypatch.setattr("hex_ssl.run_folder.version", lambda package: "0.1" if package == "torch" else version(package))
    with pytest.warns(
        UserWarning, match=f"with other versions, perhaps with other numbers: torch {version('torch')} -> 0.1"
    ):
        claim_run_folder(resumed)
