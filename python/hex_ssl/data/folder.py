"""A folder of images, with or without labels."""

import csv
from collections.abc import Sequence
from pathlib import Path

import torch
from torch import Tensor
from torchvision.datasets import ImageFolder

from hex_ssl.data.images import EXTENSIONS, UNLABELLED, FileImages
from hex_ssl.reading import reading

SPLITS = {"train": ("train", "training"), "test": ("test", "val", "validation", "valid")}
SUPERCLASSES = "superclasses.csv"
"""A file beside the splits with lines `class,superclass`."""


class Folder(FileImages):
    """The images of a folder: each subfolder a class, or, without subfolders, images without labels.

    With folders `train` and `test` (or `val`) in it, these are the splits; without, all images are the training
    split. A file `superclasses.csv` with lines `class,superclass` says the superclasses.

    Args:
        root: The folder.
        split: "train" or "test".

    Raises:
        FileNotFoundError: There is no such split, or no image in it.
        ValueError: `superclasses.csv` leaves out a class.
    """

    def __init__(self, root: Path, split: str = "train") -> None:
        folder = find_split(root, split)
        classes = _class_folders(find_split(root, "train"))
        paths, labels = _labelled(folder, classes) if classes else (_images_below(folder), None)
        if not paths:
            raise FileNotFoundError(f"expected {folder} to hold images ({', '.join(EXTENSIONS)}), but there are none")
        superclasses, superclass_names = read_superclasses(root / SUPERCLASSES, classes)
        super().__init__(
            folder,
            paths,
            torch.full((len(paths),), UNLABELLED) if labels is None else labels,
            len(classes),
            class_names=classes,
            superclasses=superclasses,
            superclass_names=superclass_names,
        )


def find_split(root: Path, split: str) -> Path:
    """The folder of a split.

    Args:
        root: The dataset's folder.
        split: "train" or "test".

    Raises:
        FileNotFoundError: There is none.
    """
    for name in SPLITS.get(split, (split,)):
        if (root / name).is_dir():
            return root / name
    if split == "train" and root.is_dir():
        return root
    choices = " or ".join(f"`{name}`" for name in SPLITS.get(split, (split,)))
    raise FileNotFoundError(f'expected {root} to hold a folder {choices} for the split "{split}", but there is none')


def read_superclasses(file: Path, classes: Sequence[str]) -> tuple[Tensor | None, list[str]]:
    """The superclass of each class and the superclasses' names, from lines `class,superclass`.

    Args:
        file: May be missing.
        classes: The classes' names.

    Returns:
        int64 [classes], numbered in the order of their names; None and no names without the file.

    Raises:
        ValueError: A class has no line.
    """
    if not file.is_file() or not classes:
        return None, []
    with reading(file, "to be a table of classes"), file.open(newline="", encoding="utf-8") as lines:
        parents = {row[0].strip(): row[1].strip() for row in csv.reader(lines) if len(row) >= 2}
    missing = [name for name in classes if name not in parents]
    if missing:
        raise ValueError(f"expected {file} to have a line for each class, but it has none for {', '.join(missing[:5])}")
    return number_parents([parents[name] for name in classes])


def number_parents(parents: Sequence[str]) -> tuple[Tensor, list[str]]:
    """Numbers for the names of the classes' superclasses, in the order of these names.

    Example:
        >>> number_parents(["dog", "cat", "dog"])
        (tensor([1, 0, 1]), ['cat', 'dog'])
    """
    names = sorted(set(parents))
    return torch.tensor([names.index(parent) for parent in parents]), names


def _class_folders(folder: Path) -> list[str]:
    return sorted(each.name for each in folder.iterdir() if each.is_dir() and not each.name.startswith("."))


def _labelled(folder: Path, classes: Sequence[str]) -> tuple[list[str], list[int]]:
    # The classes are those of the training split, also where the test split lacks some.
    class_to_index = {name: label for label, name in enumerate(classes)}
    found = ImageFolder.make_dataset(str(folder), class_to_index, EXTENSIONS, allow_empty=True)
    unknown = [name for name in _class_folders(folder) if name not in class_to_index]
    if unknown:
        raise ValueError(f"expected {folder} to hold classes of the training split, but got {', '.join(unknown[:5])}")
    return [str(Path(path).relative_to(folder)) for path, _ in found], [label for _, label in found]


def _images_below(folder: Path) -> list[str]:
    files = (each for each in folder.rglob("*") if each.suffix.lower() in EXTENSIONS and each.is_file())
    return sorted(str(each.relative_to(folder)) for each in files)
