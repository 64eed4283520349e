"""Who may write into a run folder."""

import re
from dataclasses import replace
from pathlib import Path

import pytest

from hex_ssl.config import Config
from hex_ssl.run_folder import claim_run_folder

from .conftest import MakeConfig


def with_run(config: Config, **settings: str) -> Config:
    return replace(config, run=replace(config.run, **settings))  # type: ignore[arg-type]


def contents(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def test_new_and_empty_folders_are_claimed(make_config: MakeConfig, tmp_path: Path) -> None:
    (tmp_path / "run").mkdir()
    folder, checkpoint = claim_run_folder(make_config())
    assert (folder, checkpoint) == (tmp_path / "run", None)
    assert list(contents(folder)) == ["config.yaml"]


@pytest.mark.parametrize("existing", ["error", "overwrite", "resume"])
def test_folder_of_something_else_is_left_alone(make_config: MakeConfig, tmp_path: Path, existing: str) -> None:
    folder = tmp_path / "run"
    folder.mkdir()
    (folder / "thesis.tex").write_text("years of work")
    with pytest.raises(OSError, match=re.escape(str(folder))):
        claim_run_folder(make_config(existing=existing))
    assert contents(folder) == {"thesis.tex": b"years of work"}


def test_finished_run_is_an_error_that_says_what_to_do(make_config: MakeConfig) -> None:
    folder, _ = claim_run_folder(make_config())
    before = contents(folder)
    message = (
        f"expected the run folder {folder} to be new or empty, but it is not: choose another `run.name`, or say "
        "`run.existing=resume` or `run.existing=overwrite`"
    )
    with pytest.raises(FileExistsError, match=re.escape(message)):
        claim_run_folder(make_config(epochs=7))
    assert contents(folder) == before


def test_overwriting_leaves_nothing_of_the_old_run(make_config: MakeConfig) -> None:
    folder, _ = claim_run_folder(make_config())
    (folder / "metrics.csv").write_text("old")
    claim_run_folder(make_config(existing="overwrite"))
    assert list(contents(folder)) == ["config.yaml"]


def test_resuming_compares_the_whole_configuration(make_config: MakeConfig) -> None:
    config = make_config()
    folder, _ = claim_run_folder(config)
    checkpoint = folder / "checkpoints" / "last.ckpt"
    checkpoint.parent.mkdir()
    checkpoint.write_bytes(b"")
    resumed = with_run(config, existing="resume")
    assert claim_run_folder(resumed) == (folder, checkpoint)
    changed = replace(resumed, loss=replace(config.loss, temperature=0.5))
    with pytest.raises(ValueError, match=re.escape("loss.temperature: 0.1 -> 0.5")):
        claim_run_folder(changed)


def test_resuming_needs_a_checkpoint(make_config: MakeConfig) -> None:
    claim_run_folder(make_config())
    with pytest.raises(FileNotFoundError, match="expected a checkpoint to resume from"):
        claim_run_folder(make_config(existing="resume"))
