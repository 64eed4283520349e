"""Any folder of images."""

from pathlib import Path

import pytest

from hex_ssl.data import Folder, build_dataset
from tests.train.data.layouts import picture


def test_splits_with_classes(tmp_path: Path) -> None:
    for path in ("train/cat/1.jpg", "train/cat/2.PNG", "train/dog/deep/3.webp", "val/dog/4.jpg", "train/dog/notes.txt"):
        if path.endswith(".txt"):
            (tmp_path / path).write_text("no image")
        else:
            picture(tmp_path / path)
    train, test = build_dataset("folder", "train", tmp_path), build_dataset("folder", "test", tmp_path)
    assert train.labels.tolist() == [0, 0, 1]
    assert train.class_names == ("cat", "dog")
    assert test.labels.tolist() == [1]  # the class's number is the training split's
    assert test.classes == 2
    assert train.superclasses is None


def test_classes_without_splits(tmp_path: Path) -> None:
    for path in ("b/1.jpg", "a/2.jpg", ".hidden/3.jpg"):
        picture(tmp_path / path)
    assert Folder(tmp_path).labels.tolist() == [0, 1]
    with pytest.raises(FileNotFoundError, match='to hold a folder `test` or `val` or .* for the split "test"'):
        Folder(tmp_path, "test")


def test_images_without_labels(tmp_path: Path) -> None:
    for path in ("2.jpg", "10.jpg", "1.jpeg"):
        picture(tmp_path / path)
    dataset = Folder(tmp_path)
    assert dataset.labels.tolist() == [-1, -1, -1]
    assert dataset.classes == 0
    assert [dataset.path(row).name for row in range(3)] == ["1.jpeg", "10.jpg", "2.jpg"]


def test_superclasses(tmp_path: Path) -> None:
    for path in ("train/cat/1.jpg", "train/dog/2.jpg", "train/oak/3.jpg", "test/cat/4.jpg"):
        picture(tmp_path / path)
    (tmp_path / "superclasses.csv").write_text("cat,animal\ndog,animal\noak,plant\n")
    for split in ("train", "test"):
        dataset = Folder(tmp_path, split)
        assert dataset.superclasses is not None
        assert dataset.superclasses.tolist() == [0, 0, 1]
        assert dataset.superclass_names == ("animal", "plant")


def test_class_unknown_to_the_training_split(tmp_path: Path) -> None:
    for path in ("train/cat/1.jpg", "test/bird/2.jpg"):
        picture(tmp_path / path)
    with pytest.raises(ValueError, match="to hold classes of the training split, but got bird"):
        Folder(tmp_path, "test")


def test_folder_without_images(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match="to hold images .* but there are none"):
        Folder(tmp_path)
