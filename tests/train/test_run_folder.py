"""The claim on a run folder, its checks, and its files."""

import errno
import json
import multiprocessing
import os
import re
import signal
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import fields, replace
from importlib.metadata import version
from pathlib import Path
from threading import Barrier
from typing import Any

import pytest
import yaml

from hex_ssl.train.config import Config
from hex_ssl.train.run_folder import Claim, check_run_folder, claim_run_folder, last_checkpoint

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
def test_folder_that_is_no_run_folder_is_not_touched(make_config: MakeConfig, tmp_path: Path, existing: str) -> None:
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
        f"expected the run folder {folder} to be new or empty, but it is not: choose another `run.name`, or set "
        "`run.existing=resume` or `run.existing=overwrite`"
    )
    with pytest.raises(FileExistsError, match=re.escape(message)):
        claim_run_folder(make_config(epochs=7))
    assert contents(folder) == before


def test_overwriting_removes_all_files_of_the_old_run(make_config: MakeConfig) -> None:
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
def test_resuming_compares_every_setting_that_affects_results(group: str, make_config: MakeConfig) -> None:
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
            "compile",
            "loggers",
            "profiler",
            "checkpoint_minutes",
            "checkpoint_epochs",
            "keep_every",
            "epochs",  # as many as have begun, or more
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


@pytest.mark.parametrize(
    "sizes",
    [
        {"devices": 4, "batch_size": 64},
        {"devices": 2, "nodes": 2, "batch_size": 64, "strategy": "ddp"},
        {"devices": 2, "batch_size": 32, "virtual_batch_size": 128},
    ],
)
def test_another_number_of_devices_may_resume_with_the_same_images_per_loss(
    sizes: dict[str, Any], make_config: MakeConfig
) -> None:
    config = with_run(make_config(), existing="resume")
    claim_run_folder(config).release()
    run = replace(config.run, **{name: value for name, value in sizes.items() if name != "batch_size"})
    other = replace(config, run=run, data=replace(config.data, batch_size=sizes["batch_size"]))
    folder = claim_run_folder(other).folder
    assert yaml.safe_load((folder / "config.yaml").read_text())["run"]["devices"] == sizes["devices"]
    more = replace(other, data=replace(other.data, batch_size=24), run=replace(run, virtual_batch_size=None))
    with pytest.raises(ValueError, match=r"data.batch_size: \d+ -> 24") as caught:
        claim_run_folder(replace(more, run=replace(more.run, devices=8)))
    assert "needs as many images in each loss as before, 256, but got " in str(caught.value)


def test_the_same_devices_need_the_same_batch_size(make_config: MakeConfig) -> None:
    config = with_run(make_config(), existing="resume")
    claim_run_folder(config).release()
    run = replace(config.run, virtual_batch_size=256)
    other = replace(config, run=run, data=replace(config.data, batch_size=64))
    with pytest.raises(
        ValueError, match="these differ: data.batch_size: 256 -> 64; run.virtual_batch_size: None -> 256$"
    ):
        claim_run_folder(other)


def test_run_without_a_checkpoint_or_a_folder_starts_from_the_beginning(
    make_config: MakeConfig, tmp_path: Path
) -> None:
    resumed = make_config(existing="resume")
    for _ in range(2):  # no folder at first, then one without a checkpoint
        assert claim_run_folder(resumed).folder == tmp_path / "run"
        assert last_checkpoint(resumed) is None


def test_incomplete_configuration_is_no_run(make_config: MakeConfig, tmp_path: Path) -> None:
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
    monkeypatch.setattr(
        "hex_ssl.train.run_folder.version", lambda package: "0.1" if package == "torch" else version(package)
    )
    with pytest.warns(
        UserWarning, match=f"with other versions, which may change its results: torch {version('torch')} -> 0.1"
    ):
        claim_run_folder(resumed)


DAMAGED = [
    (b"", "JSONDecodeError"),
    (b'[{"versions": {"tor', "JSONDecodeError"),
    (b"\xff\xfe", "UnicodeDecodeError"),
    (b"[" * 100_000, "RecursionError"),
    (b'{"versions": {}}', "a dict"),
    (b"null", "a NoneType"),
    (b"[1]", "a start without versions: 1"),
    (b"[{}]", "a start without versions: {}"),
    (b'[{"versions": ["torch"]}]', "a start without versions: {'versions': ['torch']}"),
]


@pytest.mark.parametrize("function", [check_run_folder, claim_run_folder])
@pytest.mark.parametrize(("content", "expected"), DAMAGED, ids=[str(content[:20]) for content, _ in DAMAGED])
def test_damaged_environment_is_named_before_anything_is_written(
    content: bytes, expected: str, function: Callable[[Config], object], make_config: MakeConfig
) -> None:
    folder = claim_run_folder(make_config()).folder
    path = folder / "environment.json"
    path.write_bytes(content)
    before = contents(folder)
    resumed = make_config(existing="resume", progress=True)  # which would be another config.yaml
    with pytest.raises(
        ValueError, match=rf"expected {path} to list the starts of a run, but got .*{re.escape(expected)}"
    ):
        function(resumed)
    assert contents(folder) == before
    claim_run_folder(make_config(existing="overwrite"))  # which does not read it


def test_damaged_fingerprint_of_the_images_is_named(make_config: MakeConfig) -> None:
    folder = claim_run_folder(make_config(), {"train": {"images": 3}}).folder
    for content in ("", "[]", '{"train": '):
        (folder / "data.json").write_text(content)
        with pytest.raises(ValueError, match=rf"expected {folder / 'data.json'} to say what the images of a run are"):
            claim_run_folder(make_config(existing="resume"), {"train": {"images": 3}})
    (folder / "data.json").unlink()  # of an earlier version: nothing to compare with
    claim_run_folder(make_config(existing="resume"), {"train": {"images": 4}})
    assert json.loads((folder / "data.json").read_text()) == {"train": {"images": 4}}


def test_folder_is_claimed_once_in_a_process(tmp_path: Path) -> None:
    (tmp_path / "link").symlink_to(tmp_path)
    first = Claim(tmp_path)
    for same in (tmp_path, tmp_path / "link"):
        with pytest.raises(BlockingIOError, match="but one of this process does"):
            Claim(same)
    first.release()
    second = Claim(tmp_path)
    first.release()  # once more: not the second's
    with pytest.raises(BlockingIOError, match="but one of this process does"):
        Claim(tmp_path)
    second.release()


def test_only_one_of_many_threads_claims_a_folder(tmp_path: Path) -> None:
    together = Barrier(8)

    def claim(_: int) -> Claim | None:
        together.wait()
        try:
            return Claim(tmp_path)
        except BlockingIOError:
            return None

    with ThreadPoolExecutor(8) as pool:
        for _ in range(20):
            claims = [each for each in pool.map(claim, range(8)) if each is not None]
            assert len(claims) == 1
            claims[0].release()


def test_forked_process_does_not_inherit_the_claim(tmp_path: Path) -> None:
    claim = Claim(tmp_path)
    context = multiprocessing.get_context("fork")
    for free in (False, True):
        told = context.SimpleQueue()
        process = context.Process(target=tell_of_claim, args=(tmp_path, told))
        process.start()
        process.join()
        expected = f"expected no other process to write into the run folder {tmp_path}, but process {os.getpid()} on "
        assert told.get().startswith("claimed" if free else expected)
        claim.release()


def tell_of_claim(folder: Path, told: Any) -> None:
    try:
        Claim(folder)
        told.put("claimed")
    except BlockingIOError as error:
        told.put(str(error))


def test_claim_ends_with_its_process_even_if_a_forked_process_survives(tmp_path: Path) -> None:
    context = multiprocessing.get_context("fork")
    told = context.SimpleQueue()
    process = context.Process(target=claim_and_fork, args=(tmp_path, told))
    process.start()
    forked = told.get()
    try:
        with pytest.raises(BlockingIOError, match=f"but process {process.pid} on "):
            Claim(tmp_path)
        process.kill()
        process.join()
        Claim(tmp_path).release()
    finally:
        os.kill(forked, signal.SIGKILL)


def claim_and_fork(folder: Path, told: Any) -> None:
    claim = Claim(folder)
    if forked := os.fork():
        told.put(forked)
    signal.pause()
    claim.release()


def test_folder_that_cannot_be_locked_is_a_warning(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def none(*_: object) -> None:
        raise OSError(errno.ENOLCK, "No locks available")

    monkeypatch.setattr("fcntl.flock", none)
    with pytest.warns(UserWarning, match=f"{tmp_path} cannot be locked .*No locks available.*: let no other process"):
        claim = Claim(tmp_path)
    claim.release()


def test_failed_claim_keeps_no_lock(make_config: MakeConfig, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    for place in ("hex_ssl.train.run_folder.write_whole", "os.ftruncate"):
        monkeypatch.setattr(place, full)
        with pytest.raises(OSError, match="No space left") as caught:
            claim_run_folder(make_config(existing="resume"))
        monkeypatch.undo()
        assert caught.tb is not None  # its frames are there, with all that they hold
        Claim(Path(make_config().run.root) / "run").release()
