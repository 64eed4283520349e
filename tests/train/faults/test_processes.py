"""Processes of a run that die, and other processes that want its folder."""

import os
import re
import signal
import socket
import warnings
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from hex_ssl.train.config import Config
from hex_ssl.train.data.loader import LoadedBatch, Places, TrainingImages
from hex_ssl.train.methods import Method
from hex_ssl.train.pretrain import prepare

from . import runs

TRAINING_STEP = Method.training_step
LOAD = TrainingImages.__getitem__


def train_with_dying_loader(config: Config) -> None:
    """Trains with a DataLoader worker that dies in the second epoch."""

    def dying(self: TrainingImages, places: Places) -> LoadedBatch:
        if places[0] == 1:
            os.kill(os.getpid(), signal.SIGKILL)
        return LOAD(self, places)

    TrainingImages.__getitem__ = dying  # type: ignore[method-assign]
    runs.train(config)


def test_loader_process_that_dies_stops_the_run(tmp_path: Path) -> None:
    config = runs.tiny(tmp_path)
    config = replace(config, data=replace(config.data, num_workers=1, augment_on="workers"))
    told = runs.end_of(train_with_dying_loader, config)
    assert told.startswith("RuntimeError: DataLoader worker (pid")
    assert runs.step_of(tmp_path / "run") == runs.STEPS
    assert runs.end_of(runs.train, config) == ""
    assert runs.step_of(tmp_path / "run") == runs.STEPS * runs.EPOCHS


def train_with_batch_that_cannot_be_sent(config: Config) -> None:
    """Trains until a batch of the second epoch cannot be sent, as if /dev/shm were full."""

    def unsendable(self: TrainingImages, places: Places) -> Any:
        return (lambda: None) if places[0] == 1 else LOAD(self, places)

    TrainingImages.__getitem__ = unsendable  # type: ignore[method-assign]
    runs.train(config)


def test_batch_that_cannot_be_sent_stops_the_run(tmp_path: Path) -> None:
    config = runs.tiny(tmp_path)
    config = replace(config, data=replace(config.data, num_workers=1, augment_on="workers"))
    told = runs.end_of(train_with_batch_that_cannot_be_sent, config)
    assert told.startswith("RuntimeError: DataLoader worker (pid")
    assert runs.step_of(tmp_path / "run") == runs.STEPS
    assert runs.end_of(runs.train, config) == ""
    assert runs.step_of(tmp_path / "run") == runs.STEPS * runs.EPOCHS


def train_and_wait(config: Config) -> None:
    """Trains until it is killed."""

    def waiting(self: Method, batch: Any, batch_idx: int) -> Any:
        if self.global_step == 1:
            signal.pause()
        return TRAINING_STEP(self, batch, batch_idx)

    Method.training_step = waiting  # type: ignore[method-assign]
    runs.train(config)


@pytest.mark.parametrize("existing", ["resume", "overwrite"])
def test_second_process_on_a_run_folder_is_refused(existing: str, tmp_path: Path) -> None:
    config = runs.tiny(tmp_path)
    folder = tmp_path / "run"
    process = runs.start(train_and_wait, config)
    try:
        assert runs.wait_for((folder / "checkpoints" / "last.ckpt").exists, process)
        before = runs.contents(folder)
        second = replace(config, run=replace(config.run, existing=existing))  # type: ignore[arg-type]
        with pytest.raises(BlockingIOError) as caught:
            prepare(second)
        assert str(caught.value) == (
            f"expected no other process to write into the run folder {folder}, but process {process.pid} on "
            f"{os.uname().nodename} does"
        )
        assert runs.contents(folder) == before
    finally:
        process.kill()
    process.join(timeout=runs.HANG)
    prepare(second).claim.release()  # type: ignore[union-attr]  # with its process, the claim is gone


def changes(folder: Path) -> dict[Path, int]:
    """The modification time of each file."""
    return {path: path.stat().st_mtime_ns for path in folder.rglob("*")}


@pytest.mark.parametrize("existing", ["resume", "overwrite"])
def test_second_run_of_a_process_on_a_run_folder_is_refused(existing: str, tmp_path: Path) -> None:
    config = runs.tiny(tmp_path)
    folder = tmp_path / "run"
    first = prepare(config)
    assert first.claim is not None
    before = changes(folder)
    second = replace(config, run=replace(config.run, existing=existing))  # type: ignore[arg-type]
    message = f"expected no other run to write into the run folder {folder}, but one of this process does"
    with pytest.raises(BlockingIOError, match=re.escape(message)):
        prepare(second)
    assert changes(folder) == before
    told = runs.end_of(prepare, second)  # the first one's lock is still there for others
    assert told.startswith(f"BlockingIOError: expected no other process to write into the run folder {folder}, but ")
    first.claim.release()
    prepare(second).claim.release()  # type: ignore[union-attr]


def train_in_group(config: Config, rank: int, port: int, dies: int | None) -> None:
    """One of two processes. If `dies` is set, one of them dies in the second epoch."""
    os.environ |= {"LOCAL_RANK": str(rank), "NODE_RANK": "0", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
    warnings.filterwarnings("ignore", message="torch's SyncBatchNorm needs GPUs")

    def dying(self: Method, batch: Any, batch_idx: int) -> Any:
        if rank == dies and self.global_step == 3:
            os.kill(os.getpid(), signal.SIGKILL)
        return TRAINING_STEP(self, batch, batch_idx)

    Method.training_step = dying  # type: ignore[method-assign]
    runs.train(config)


def exits_of_group(config: Config, dies: int | None = None) -> list[int | None]:
    """The exit codes of the two processes of a group."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    group = [runs.start(train_in_group, config, rank, port, dies) for rank in range(2)]
    try:
        for process in group:
            process.join(timeout=runs.HANG)
        return [process.exitcode for process in group]
    finally:
        for process in group:
            process.kill()
        for process in group:
            process.join()


def group_run(root: Path) -> Config:
    return runs.tiny(root, devices=2, accelerator="cpu", strategy="ddp")


@pytest.fixture(scope="module")
def undisturbed_group(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a run of two processes that is not interrupted."""
    root = tmp_path_factory.mktemp("group")
    assert exits_of_group(group_run(root)) == [0, 0]
    return root / "run"


@pytest.mark.parametrize("dies", [0, 1])
def test_process_of_a_group_that_dies_ends_the_others(dies: int, tmp_path: Path, undisturbed_group: Path) -> None:
    config = group_run(tmp_path)
    exits = exits_of_group(config, dies)
    assert (exits[dies], exits[1 - dies]) == (-signal.SIGKILL, 1)
    assert runs.step_of(tmp_path / "run") == 3
    assert exits_of_group(config) == [0, 0]
    runs.check_equal(tmp_path / "run", undisturbed_group)
