"""A dataset that changes between two starts of a run."""

import re
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from hex_ssl.train.config import Config, DataConfig
from hex_ssl.train.pretrain import prepare, pretrain

from . import runs


def config_of(tmp_path: Path) -> Config:
    data = DataConfig("folder", str(tmp_path / "images"), image_size=8, batch_size=4, num_workers=0)
    return replace(runs.tiny(tmp_path / "runs", epochs=1, keep_every=0), data=data)


@pytest.fixture
def images(tmp_path: Path) -> Path:
    """Two classes of four images, training and test."""
    generator = np.random.default_rng(0)
    for split in ("train", "test"):
        for name in ("cat", "dog"):
            place = tmp_path / "images" / split / name
            place.mkdir(parents=True)
            for number in range(4):
                pixels = generator.integers(256, size=(70, 70, 3), dtype=np.uint8)
                Image.fromarray(pixels).save(place / f"{number}.png")
    return tmp_path / "images"


def add_image(images: Path) -> None:
    (images / "train" / "cat" / "4.png").write_bytes((images / "train" / "cat" / "0.png").read_bytes())


def rename_class(images: Path) -> None:
    for split in ("train", "test"):
        (images / split / "dog").rename(images / split / "wolf")


def add_class(images: Path) -> None:
    (images / "train" / "owl").mkdir()
    (images / "train" / "owl" / "0.png").write_bytes((images / "train" / "cat" / "0.png").read_bytes())


def move_image(images: Path) -> None:
    (images / "train" / "cat" / "0.png").rename(images / "train" / "dog" / "9.png")


def rename_image(images: Path) -> None:
    (images / "test" / "cat" / "0.png").rename(images / "test" / "cat" / "9.png")


def take_test_images_away(images: Path) -> None:
    (images / "test").rename(images.parent / "elsewhere")


def give_superclasses(images: Path) -> None:
    (images / "superclasses.csv").write_text("cat,animal\ndog,animal\n")


@pytest.mark.parametrize(
    ("change", "told"),
    [
        (add_image, "train.images: 8 -> 9; train.labelled: 8 -> 9"),
        (rename_class, "train.classes: without dog, with wolf; test.classes: without dog, with wolf"),
        (add_class, "train.images: 8 -> 9; train.labelled: 8 -> 9; train.classes: with owl; test.classes: with owl"),
        (
            move_image,
            "train.labels: other labels, or in another order; train.files: files of other names, or in another",
        ),
        (rename_image, "test.files: files of other names, or in another order"),
        (take_test_images_away, "test: 8 images -> no images"),
        (give_superclasses, "train.superclasses: other superclasses of the classes; test.superclasses: other"),
    ],
)
def test_images_that_changed_are_named_before_anything_is_written(
    change: Callable[[Path], None], told: str, images: Path, tmp_path: Path
) -> None:
    torch.set_num_threads(1)
    config = config_of(tmp_path)
    pretrain(config)
    moved = images.rename(tmp_path / "moved")  # which is no change
    resumed = replace(runs.resumed(config), data=replace(config.data, root=str(moved)))
    prepare(resumed).train()
    change(moved)
    before = runs.contents(tmp_path / "runs")
    message = f"expected the images of the run to resume, but these differ: {told}"
    with pytest.raises(ValueError, match=re.escape(message)):
        prepare(resumed)
    assert runs.contents(tmp_path / "runs") == before
