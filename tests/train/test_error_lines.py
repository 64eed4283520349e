"""Errors of a command that are shown as one line, and errors that show their traceback."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image
from torch.utils.data import DataLoader

from hex_ssl.train import cli
from hex_ssl.train.cli import main
from hex_ssl.train.data.images import decode_image
from hex_ssl.train.data.lost_batch import end_on_lost_batch
from hex_ssl.train.errors import error_line


def raised(function: Callable[..., Any], *arguments: Any) -> Exception:
    try:
        function(*arguments)
    except Exception as error:
        return error
    raise AssertionError("nothing was raised")


def from_a_process(make: Callable[[Any], Any], item: Any) -> Exception:
    """The error that a DataLoader raises if a worker raises one."""
    return raised(
        list,
        DataLoader([item], batch_size=None, num_workers=1, collate_fn=make, worker_init_fn=end_on_lost_batch),  # type: ignore[arg-type]
    )


def spoiled_folder(root: Path) -> Path:
    """Two classes of images, one of which is truncated."""
    for split in ("train", "test"):
        for label in "ab":
            (root / split / label).mkdir(parents=True)
            for number in range(4):
                noise = torch.randint(256, (16, 16, 3), dtype=torch.uint8)
                Image.fromarray(noise.numpy()).save(root / split / label / f"{number}.png")
    spoiled = root / "train" / "b" / "2.png"
    spoiled.write_bytes(spoiled.read_bytes()[:100])
    return spoiled


def test_error_that_the_package_raises_is_a_line(tmp_path: Path) -> None:
    (tmp_path / "a.png").write_bytes(b"nothing")
    line = error_line(raised(decode_image, tmp_path / "a.png"))
    assert line is not None
    assert line.startswith(f"expected {tmp_path / 'a.png'} to be an image, but it cannot be decoded")
    assert error_line(from_a_process(decode_image, tmp_path / "a.png")) == line


@pytest.mark.parametrize(
    "fault",
    [lambda _: {}["loss"], lambda _: torch.zeros(2) @ torch.zeros(3), lambda _: int("x"), lambda _: error_line()],  # type: ignore[call-arg]
)
def test_fault_of_the_program_has_no_line(fault: Callable[[Any], Any]) -> None:
    assert error_line(raised(fault, None)) is None
    assert error_line(from_a_process(fault, 1)) is None


@pytest.mark.parametrize(
    "error",
    [
        RuntimeError("unable to write to file </torch_12_34_5>: No space left on device (28)"),
        RuntimeError("unable to allocate shared memory(shm) for file </torch_1_2_0>: Success (0)"),
        RuntimeError("unable to open shared memory object </torch_1> in read-write mode: Too many open files (24)"),
        RuntimeError("DataLoader worker (pid 7) is killed by signal: Bus error. It is possible that ..."),
        RuntimeError("DataLoader worker (pid(s) 7, 8) exited unexpectedly"),
        OSError(28, "No space left on device", "/torch_7_8"),
        OSError(24, "Too many open files"),
    ],
)
def test_little_shared_memory_names_the_setting(error: Exception) -> None:
    line = error_line(error, "data.num_workers")
    assert line is not None
    assert "/dev/shm" in line
    assert "`data.num_workers`" in line
    assert "\n" not in line


def test_batch_that_cannot_be_sent_ends_the_process_that_made_it() -> None:
    """This happens if /dev/shm is full. Without `end_on_lost_batch`, the loader would wait forever."""
    error = from_a_process(lambda item: lambda: item, 1)  # a local function cannot be pickled
    assert str(error).startswith("DataLoader worker (pid(s) ")
    assert "`num_workers`" in str(error_line(error))


@pytest.mark.parametrize(
    ("error", "line"),
    [
        (MemoryError(), "out of memory: use a smaller batch size; MemoryError"),
        (torch.OutOfMemoryError("CUDA out of memory. Tried"), "use a smaller batch size; CUDA out of memory. Tried"),
        (OSError(28, "No space left on device", "a.csv"), "[Errno 28] No space left on device: 'a.csv'"),
    ],
)
def test_lack_of_memory_or_disk_space_is_one_line(error: Exception, line: str) -> None:
    assert line in str(error_line(error))


def test_main_shows_the_traceback_only_of_a_fault(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def broken(settings: Any) -> None:
        raise error

    monkeypatch.setattr(cli, "_recipes", broken)
    for error in (KeyError("loss"), RuntimeError("size mismatch")):
        with pytest.raises(type(error)):
            main(["recipes"])
    error = OSError(28, "No space left on device", "a.csv")
    with pytest.raises(SystemExit) as exit_:
        main(["recipes"])
    assert exit_.value.code == 1
    assert capsys.readouterr().err == "error: [Errno 28] No space left on device: 'a.csv'\n"


@pytest.mark.parametrize("workers", [0, 1])
def test_damaged_image_ends_pretraining_with_a_line(
    workers: int, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    spoiled = spoiled_folder(tmp_path / "images")
    data = ["--data.name=folder", f"--data.root={tmp_path / 'images'}", "--data.image_size=8", "--data.batch_size=8"]
    run = [f"--run.root={tmp_path}", "--run.epochs=1", "--run.progress=false", f"--data.num_workers={workers}"]
    with pytest.raises(SystemExit) as exit_:
        main(["pretrain", *data, *run, "--backbone.width=4"])
    assert exit_.value.code == 1
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith(f"error: expected {spoiled} to be an image, but it cannot be decoded")
