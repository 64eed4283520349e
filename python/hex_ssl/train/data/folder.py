"""A folder of images, with or without labels."""

import os
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from torchvision.datasets import ImageFolder

from hex_ssl.train.data.images import EXTENSIONS, UNLABELLED, FileImages

SPLITS = {"train": ("train", "training"), "test": ("test", "testing"), "val": ("val", "valid", "validation")}
"""Folder names of the splits, in any case. `val` is the test split if there is no `test`."""

KINDS = (("train",), ("test", "val"))
"""Keys of `SPLITS` for training, and for testing."""


class Folder(FileImages):
    """The images of a folder. Each subfolder is a class, and images outside subfolders have no label.

    If the folder contains `train` and `test` (or `val`), these are the splits. Upper case and the names `training`,
    `testing`, `valid` and `validation` work, too. Without these folders, all images are the training split. Ambiguous
    folders are an error: a split among classes, two folders for one split, or splits inside a class. Hidden files and
    folders are ignored.

    Args:
        root: The folder.
        split: "train" or "test".

    Raises:
        FileNotFoundError: There is no such split.
        ValueError: The folders are ambiguous, the split or a training class has no images, or the test split has
            classes that the training split lacks.
    """

    def __init__(self, root: Path, split: str = "train") -> None:
        layout = find_splits(root)
        folder, classes = layout.folder(root, split), _folders(layout.train)
        paths, labels = _labelled(folder, classes)
        if split == "train" and (empty := [classes[label] for label in sorted(set(range(len(classes))) - set(labels))]):
            raise ValueError(
                f"expected each folder in {folder} to be a class with images ({', '.join(EXTENSIONS)}), "
                f"but there are none in {_shown(empty)}"
            )
        loose = _loose(folder)
        if not paths and not loose:
            raise ValueError(f"expected {folder} to hold images ({', '.join(EXTENSIONS)}), but there are none")
        labels += [UNLABELLED] * len(loose)
        super().__init__(folder, [*paths, *loose], labels, len(classes), class_names=classes)
        self.left_out = layout.left_out


@dataclass(frozen=True)
class Layout:
    """The splits of a folder.

    Attributes:
        train: The folder of the training split.
        test: The folder of the test split, or None.
        left_out: Names of the folders that belong to neither.
    """

    train: Path
    test: Path | None = None
    left_out: tuple[str, ...] = ()

    def folder(self, root: Path, split: str) -> Path:
        """The folder of a split, "train" or "test"."""
        if split == "train":
            return self.train
        if self.test is None:
            raise FileNotFoundError(
                f'expected {root} to hold a folder `test` or `val` for the split "{split}", but there is none'
            )
        return self.test


def find_splits(root: Path) -> Layout:
    """Finds the splits of a folder by the names of its subfolders.

    Args:
        root: The folder.

    Raises:
        ValueError: The subfolders are ambiguous.
    """
    folders = _folders(root)
    splits = {kind: [name for name in folders if name.lower() in names] for kind, names in SPLITS.items()}
    named = [name for names in splits.values() for name in names]
    if not named:
        _check_classes(root, folders)
        return Layout(root)
    others = [name for name in folders if name not in named]
    with_images = [name for name in others if _holds_images(root / name)]
    if with_images:
        raise ValueError(
            f"expected {root} to hold either splits or classes, but got {_shown(named)} beside {_shown(with_images)}: "
            f"move folders that belong to no split elsewhere, or, if all are classes, put them into a folder "
            f"{root / 'train'}, in which a class may have any name"
        )
    for kind, names in splits.items():
        if len(names) > 1:
            raise ValueError(f'expected {root} to hold one folder for the split "{kind}", but got {_shown(names)}')
    if not splits["train"]:
        raise ValueError(
            f"expected {root} to hold a folder `train` beside {_shown(named)}, but there is none; if "
            f"{_shown(named)} is a class, put all classes into a folder {root / 'train'}"
        )
    if loose := _loose(root):
        raise ValueError(
            f"expected the images in {root} to be in its splits, but got {len(loose)} beside {_shown(named)}, such as "
            f"{loose[0]}: move them into a split, where they have no label, or elsewhere"
        )
    tests = [*splits["test"], *splits["val"]]
    return Layout(root / splits["train"][0], root / tests[0] if tests else None, (*tests[1:], *others))


def _check_classes(root: Path, folders: Sequence[str]) -> None:
    """Checks that folders of classes neither look like splits nor contain splits."""
    training, testing = ([name for name in folders if _mentions(name, kinds)] for kinds in KINDS)
    if training and testing:
        raise ValueError(
            f"expected {root} to hold either splits or classes, but got {_shown([*training, *testing])}, which look "
            f"like both: rename the splits to `train` and `test`, or put all classes into a folder {root / 'train'}"
        )
    for name in folders:
        training, testing = ([inner for inner in _folders(root / name) if _is_split(inner, kinds)] for kinds in KINDS)
        if training and testing:
            raise ValueError(
                f"expected {root / name} to be a class, but it holds {_shown([*training, *testing])}: if these are "
                f"the splits of the dataset, set `data.root={root / name}`; if each class has its own splits, put the "
                f"classes into {root / 'train'} and {root / 'test'}"
            )


def _is_split(name: str, kinds: Iterable[str]) -> bool:
    return any(name.lower() in SPLITS[kind] for kind in kinds)


def _mentions(name: str, kinds: Iterable[str]) -> bool:
    """Whether one of the words of a name is that of a split, as in seg_train."""
    return any(_is_split(word, kinds) for word in re.split(r"[^a-z]+", name.lower()))


def _folders(folder: Path) -> list[str]:
    with os.scandir(folder) as entries:  # tells folders from files without a stat call for perhaps a million files
        return sorted(each.name for each in entries if not each.name.startswith(".") and each.is_dir())


def _is_image(path: str) -> bool:
    # macOS writes hidden files ._NAME.jpg beside NAME.jpg on some disks.
    return path.lower().endswith(EXTENSIONS) and not any(part.startswith(".") for part in path.split(os.sep))


def _holds_images(folder: Path) -> bool:
    return any(_is_image(name) for _, _, names in os.walk(folder, followlinks=True) for name in names)


def _loose(folder: Path) -> list[str]:
    """Images outside subfolders."""
    with os.scandir(folder) as entries:
        return sorted(each.name for each in entries if _is_image(each.name) and not each.is_dir())


def _labelled(folder: Path, classes: Sequence[str]) -> tuple[list[str], list[int]]:
    # The classes are those of the training split, even if the test split lacks some.
    class_to_index = {name: label for label, name in enumerate(classes)}
    unknown = [name for name in _folders(folder) if name not in class_to_index and _holds_images(folder / name)]
    if unknown:
        raise ValueError(f"expected {folder} to hold classes of the training split, but got {_shown(unknown)}")
    if not classes:
        return [], []
    found = ImageFolder.make_dataset(str(folder), class_to_index, EXTENSIONS, allow_empty=True)
    below = [(path.removeprefix(f"{folder}{os.sep}"), label) for path, label in found]
    kept = [(path, label) for path, label in below if _is_image(path)]
    return [path for path, _ in kept], [label for _, label in kept]


def _shown(names: Sequence[str]) -> str:
    more = f" and {len(names) - 5} more" if len(names) > 5 else ""
    return ", ".join(names[:5]) + more
