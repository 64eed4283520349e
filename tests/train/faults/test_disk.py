"""Disks that are full, and folders that cannot be written."""

import errno
import os
import resource
import shutil
import subprocess
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from hex_ssl.train.callbacks import AtomicCheckpoints, MetricsFiles, save_backbone
from hex_ssl.train.callbacks.metrics import read_metrics
from hex_ssl.train.config import Config
from hex_ssl.train.evaluate.results import Results, read_results
from hex_ssl.train.methods import Method
from hex_ssl.train.run_folder import claim_run_folder

from . import runs

NOBODY = 65534


def save_checkpoint(folder: Path) -> None:
    AtomicCheckpoints().save_checkpoint({"weights": torch.zeros(20_000)}, folder / "file")


def export_backbone(folder: Path) -> None:
    save_backbone(nn.Linear(100, 200), folder / "file", {"backbone": "{}"})


def save_results(folder: Path) -> None:
    Results("knn", "run", {"description": "k-NN. " * 5_000}, folder / "file").save()


def fail_at(limit: int, write: Callable[[Path], None], folder: Path) -> OSError:
    """The error of writing in a separate process that limits the size of files."""
    resource.setrlimit(resource.RLIMIT_FSIZE, (limit, resource.RLIM_INFINITY))
    try:
        write(folder)
    except OSError as error:
        return error
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
    raise AssertionError(f"written within {limit} bytes")


def fail_everywhere(write: Callable[[Path], None], folder: Path) -> None:
    """Lets writes fail after different numbers of bytes. The old file must stay complete, without other files."""
    write(folder)
    before = runs.contents(folder)
    size = len(before["file"])
    for limit in {0, 1, 100, size - 1, *range(0, size, size // 12)}:
        error = fail_at(limit, write, folder)
        assert error.errno == errno.EFBIG
        assert error.filename == str(folder / "file")
        assert runs.contents(folder) == before


@pytest.mark.parametrize("write", [save_checkpoint, export_backbone, save_results])
def test_file_that_does_not_fit_leaves_the_old_one(write: Callable[[Path], None], tmp_path: Path) -> None:
    assert runs.end_of(fail_everywhere, write, tmp_path) == ""


def cut_metrics(folder: Path) -> None:
    """Lets a line of metrics fail in the middle. The earlier lines must stay."""
    logger = MetricsFiles(folder)
    for epoch in range(3):
        logger.log_metrics({"epoch": float(epoch), "loss": 0.5}, step=epoch)
    rows, table = read_metrics(folder), (folder / "metrics.csv").read_text()
    size = (folder / "metrics.jsonl").stat().st_size

    def add(folder: Path) -> None:
        logger.log_metrics({"epoch": 3.0, "loss": 0.5, "knn_accuracy": 0.5}, step=3)

    error = fail_at(size + 5, add, folder)
    assert error.filename == str(folder / "metrics.jsonl")
    assert (folder / "metrics.jsonl").stat().st_size == size + 5
    assert read_metrics(folder) == rows
    assert (folder / "metrics.csv").read_text() == table


def test_metrics_that_do_not_fit_leave_the_earlier_lines(tmp_path: Path) -> None:
    assert runs.end_of(cut_metrics, tmp_path) == ""


def fill(file: Path) -> None:
    with open(file, "wb", buffering=0) as ballast:
        while True:
            ballast.write(bytes(4096))


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of 1,600 kB."""
    place = tmp_path / "disk"
    place.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=1600k", "tmpfs", str(place)]
    if (
        os.getuid()
        or shutil.which("mount") is None
        or subprocess.run(mount, capture_output=True, check=False).returncode
    ):
        pytest.skip("mounting a file system needs root")
    yield place
    subprocess.run(["umount", "--lazy", str(place)], check=True)


def train_and_wait(config: Config, waiting: Path, full: Path) -> None:
    """Trains, and waits after the first checkpoint until the disk is full."""
    training_step = Method.training_step

    def wait(self: Method, batch: Any, batch_idx: int) -> Any:
        if self.global_step == 1:
            runs.hold(waiting, full)
        return training_step(self, batch, batch_idx)

    Method.training_step = wait  # type: ignore[method-assign]
    runs.train(config)


def test_run_on_a_full_disk_goes_on_when_there_is_room(
    small_disk: Path, tmp_path: Path, undisturbed: tuple[Path, float]
) -> None:
    config = runs.tiny(small_disk)
    process = runs.start(train_and_wait, config, tmp_path / "waiting", tmp_path / "full")
    assert runs.wait_for((tmp_path / "waiting").exists, process)
    with pytest.raises(OSError, match="No space left"):
        fill(small_disk / "ballast")
    (tmp_path / "full").touch()
    process.join(timeout=runs.HANG)
    assert process.exitcode == 1
    step = runs.step_of(small_disk / "run")
    assert step >= 1
    runs.check_whole(small_disk / "run", undisturbed[0])
    told = runs.end_of(runs.train, config)
    assert told.startswith("OSError: [Errno 28] No space left on device: ")
    assert str(small_disk / "run") in told
    assert runs.step_of(small_disk / "run") == step
    (small_disk / "ballast").unlink()
    assert runs.end_of(runs.train, config) == ""
    runs.check_equal(small_disk / "run", undisturbed[0])


@pytest.fixture
def open_folder() -> Iterator[Path]:
    """A folder that any user may enter, unlike pytest's own."""
    folder = Path(tempfile.mkdtemp())
    folder.chmod(0o755)
    yield folder
    for each in [folder, *(path for path in folder.rglob("*") if path.is_dir())]:
        each.chmod(0o755)
    shutil.rmtree(folder)


def train_as_nobody(config: Config) -> None:
    """Trains without root's rights, because permissions do not apply to root."""
    if os.getuid() == 0:
        os.setgroups([])
        os.setgid(NOBODY)
        os.setuid(NOBODY)
    runs.train(config)


def test_read_only_root_is_an_error_that_names_the_folder(open_folder: Path) -> None:
    open_folder.chmod(0o555)
    told = runs.end_of(train_as_nobody, runs.tiny(open_folder))
    assert told == f"PermissionError: [Errno 13] Permission denied: '{open_folder / 'run'}'"
    assert runs.contents(open_folder) == {}


def test_read_only_run_folder_is_left_as_it_is(open_folder: Path) -> None:
    config = runs.tiny(open_folder)
    folder = claim_run_folder(config).folder
    (folder / ".lock").chmod(0o444)
    folder.chmod(0o555)
    before = runs.contents(folder)
    told = runs.end_of(train_as_nobody, config)
    assert told == f"PermissionError: [Errno 13] Permission denied: '{folder / '.lock'}'"
    assert runs.contents(folder) == before


def test_results_in_a_read_only_folder_name_their_file(open_folder: Path) -> None:
    results = Results("knn", "run", {"description": "k-NN."}, open_folder / "knn.json")
    results.save()
    open_folder.chmod(0o555)
    told = runs.end_of(save_as_nobody, results)
    assert told == f"PermissionError: [Errno 13] Permission denied: '{open_folder / 'knn.json'}'"
    assert read_results(open_folder / "knn.json").rows == []


def save_as_nobody(results: Results) -> None:
    if os.getuid() == 0:
        os.setuid(NOBODY)
    results.save()
