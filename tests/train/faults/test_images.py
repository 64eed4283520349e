"""Files in a dataset that are not images, or that are too large."""

import re
import struct
import zlib
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image

from hex_ssl.train.callbacks import Checkpoints
from hex_ssl.train.config import Config
from hex_ssl.train.pretrain import prepare, pretrain

from . import runs


def truncated(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-40])


def damaged(path: Path) -> None:
    """Damages the pixels of a PNG, or the header of a JPEG, which has no checksum for its pixels."""
    content, start = path.read_bytes(), 45 if path.suffix == ".png" else 20
    path.write_bytes(content[:start] + bytes(30) + content[start + 30 :])


def empty(path: Path) -> None:
    path.write_bytes(b"")


def text(path: Path) -> None:
    path.write_text("<html>404 not found</html>")


def huge(path: Path) -> None:
    """A file of 80 bytes whose header states 10^10 pixels."""

    def chunk(kind: bytes, content: bytes) -> bytes:
        return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))

    header = struct.pack(">IIBBBBB", 100_000, 100_000, 8, 2, 0, 0, 0)
    path.write_bytes(b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", b"") + chunk(b"IEND", b""))


Fault = Callable[[Path], None]

FAULTS: dict[Fault, str] = {
    truncated: "to be an image, but it cannot be decoded",
    damaged: "to be an image, but it cannot be decoded",
    empty: "to be an image, but it cannot be decoded",
    text: "to be an image, but it cannot be decoded",
    huge: "expected images of at most 89478485 pixels, but got",
}

EACH_FAULT = pytest.mark.parametrize(
    ("fault", "suffix"),
    [*((fault, ".png") for fault in FAULTS), *((fault, ".jpg") for fault in FAULTS if fault != huge)],
)


def photographs(root: Path, suffix: str, count: int = 12) -> list[Path]:
    """Images of noise in a folder without labels."""
    root.mkdir()
    files = [root / f"{number:02}{suffix}" for number in range(count)]
    for number, file in enumerate(files):
        noise = torch.randint(256, (16, 16, 3), generator=torch.Generator().manual_seed(number), dtype=torch.uint8)
        Image.fromarray(noise.numpy()).save(file)
    return files


def folder_run(root: Path, workers: int = 0, **run: Any) -> Config:
    config = runs.tiny(root, epochs=2, **run)
    data = replace(
        config.data,
        name="folder",
        root=str(root / "images"),
        image_size=8,
        batch_size=4,
        fraction=1.0,
        num_workers=workers,
    )
    return replace(config, data=data)


@EACH_FAULT
def test_file_that_is_no_image_stops_the_run_and_is_named(
    fault: Fault, suffix: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = photographs(tmp_path / "images", suffix)[7]
    whole, end_of_epoch = file.read_bytes(), Checkpoints.on_train_epoch_end

    def spoiling(self: Checkpoints, *arguments: Any) -> None:
        end_of_epoch(self, *arguments)
        fault(file)

    monkeypatch.setattr(Checkpoints, "on_train_epoch_end", spoiling)
    with pytest.raises(ValueError, match=FAULTS[fault]) as caught:
        pretrain(folder_run(tmp_path))
    assert str(file) in str(caught.value)
    assert 3 <= runs.step_of(tmp_path / "run") < 6
    monkeypatch.undo()
    file.write_bytes(whole)
    pretrain(runs.resumed(folder_run(tmp_path)))
    assert runs.step_of(tmp_path / "run") == 6


@EACH_FAULT
def test_process_that_loads_images_names_the_file_too(fault: Fault, suffix: str, tmp_path: Path) -> None:
    file = photographs(tmp_path / "images", suffix)[7]
    whole = file.read_bytes()
    fault(file)
    told = runs.end_of(runs.train, folder_run(tmp_path, workers=1))
    assert told.startswith("ValueError: ")
    assert re.search(FAULTS[fault], told)
    assert str(file) in told
    before = runs.step_of(tmp_path / "run")
    assert before < 3
    file.write_bytes(whole)
    assert runs.end_of(runs.train, folder_run(tmp_path, workers=1)) == ""
    assert runs.step_of(tmp_path / "run") == 6


@EACH_FAULT
def test_file_is_named_before_anything_is_written_where_sizes_are_looked_at(
    fault: Fault, suffix: str, tmp_path: Path
) -> None:
    file = photographs(tmp_path / "images", suffix)[7]
    fault(file)
    config = folder_run(tmp_path)
    with pytest.raises(ValueError, match=FAULTS[fault]) as caught:
        prepare(replace(config, data=replace(config.data, image_size=None)))
    assert str(file) in str(caught.value)
    assert not (tmp_path / "run").exists()
