"""Builds datasets by name."""

import warnings
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch

from hex_ssl.train.data import listed_sets, torchvision_sets
from hex_ssl.train.data.card import Card
from hex_ssl.train.data.cards_table import dataset_card as dataset_card
from hex_ssl.train.data.cards_table import list_datasets as list_datasets
from hex_ssl.train.data.digits import Digits
from hex_ssl.train.data.folder import Folder
from hex_ssl.train.data.hierarchy import Hierarchy
from hex_ssl.train.data.images import FileImages, ImageDataset, small_in_memory
from hex_ssl.train.data.own_dataset import own_dataset
from hex_ssl.train.data.superclasses import SUPERCLASSES, read_superclasses
from hex_ssl.train.data.torchvision_sets import Builder
from hex_ssl.train.extras import train_extra
from hex_ssl.train.reading import reading

SPLITS = ("train", "test")

LOOKED_FOR = 64
"""Number of listed files whose existence is checked when a dataset is built."""


class CardWarning(UserWarning):
    """A dataset does not have the number of images or classes that its card states."""


GENERATED: dict[str, Callable[[str], ImageDataset]] = {
    "digits": Digits,
    "hierarchy": lambda split: Hierarchy(split, images_per_class=100 if split == "train" else 25),
}
"""Datasets that need no files. Each function takes a split."""


def _parquet(root: Path, split: str, level: str) -> ImageDataset:
    with train_extra():
        from hex_ssl.train.data.parquet import Parquet
    return small_in_memory(Parquet(root, split))


READ: dict[str, Builder] = {
    "aircraft": torchvision_sets.aircraft,
    "caltech101": torchvision_sets.caltech101,
    "cars": torchvision_sets.cars,
    "cifar10": torchvision_sets.cifar10,
    "cifar100": torchvision_sets.cifar100,
    "cub": listed_sets.cub,
    "dogs": listed_sets.dogs,
    "flowers": torchvision_sets.flowers,
    "folder": lambda root, split, level: Folder(root, split),
    "food101": torchvision_sets.food101,
    "imagenet": torchvision_sets.imagenet,
    "imagenet100": torchvision_sets.imagenet100,
    "inaturalist2021": torchvision_sets.inaturalist2021,
    "inaturalist2021_mini": torchvision_sets.inaturalist2021_mini,
    "nabirds": listed_sets.nabirds,
    "parquet": _parquet,
    "pets": torchvision_sets.pets,
    "stl10": torchvision_sets.stl10,
    "tiny_imagenet": listed_sets.tiny_imagenet,
}
"""Datasets in files. Each function takes a folder, a split and a level of the tree of classes."""


def build_dataset(
    name: str,
    split: str = "train",
    root: str | Path | None = None,
    level: str | None = None,
    arguments: Mapping[str, Any] | None = None,
) -> ImageDataset:
    """Builds a split of a dataset.

    A file `superclasses.csv` in `root` with lines `class,superclass` replaces the superclasses. If a split does not
    have the number of images or classes that the card states, a `CardWarning` is issued.

    Args:
        name: One of `list_datasets()`, or "module:function", see `hex_ssl.train.data.own_dataset`.
        split: "train" or "test".
        root: Folder with the files. Not needed for generated data, digits and your own function.
        level: The level of the tree of classes that gives the superclasses, if the card has several levels.
        arguments: Further arguments of your own function.

    Returns:
        A dataset with items (image, label), and with `labels`, `classes`, `superclasses` and the names of both.

    Raises:
        FileNotFoundError: Files are missing. The message says which files to put where.
        ValueError: An argument has an unknown value, `root` is missing, or the files are not as published.

    Example:
        >>> dataset = build_dataset("hierarchy", "test")
        >>> len(dataset), dataset.classes, dataset.superclasses.unique().tolist()
        (500, 20, [0, 1, 2, 3, 4])
    """
    card = dataset_card(name)
    if split not in SPLITS:
        choices = ", ".join(f'"{each}"' for each in SPLITS)
        raise ValueError(f'expected `split` to be one of {choices}, but got "{split}"')
    _check_level(card, level, root)
    if ":" in name:
        own = own_dataset(name, split, None if root is None else str(root), arguments or {})
        return own if root is None else _with_superclasses(own, Path(root).expanduser())
    if arguments:
        raise ValueError(f"expected `data.arguments` to be empty for {name}, but got {dict(arguments)}")
    if name in GENERATED:
        dataset = GENERATED[name](split)
        return dataset if root is None else _with_superclasses(dataset, Path(root).expanduser())
    folder = _checked_root(card, split, root)
    try:
        with reading(folder, f"to hold the files of {name} as published"):
            dataset = READ[name](folder, split, level or next(iter(card.levels), ""))
    except ValueError as error:
        raise ValueError(f"{error}\n{_instructions(card, folder)}") from error
    _with_superclasses(dataset, folder)
    if card.splits:
        _look_for_files(dataset, card, folder)
        _compare(dataset, card, split, folder)
    return dataset


def _check_level(card: Card, level: str | None, root: str | Path | None) -> None:
    if level is None:
        return
    if not card.levels:
        raise ValueError(
            f"expected `data.level` to be None for {card.name}, which has only one level of superclasses, if any, "
            f'but got "{level}"'
        )
    if level not in card.levels:
        choices = ", ".join(f'"{each}"' for each in card.levels)
        raise ValueError(f'expected `data.level` to be one of {choices} for {card.name}, but got "{level}"')
    if root is not None and (file := Path(root).expanduser() / SUPERCLASSES).is_file():
        raise ValueError(f'expected `data.level` to be None because {file} sets the superclasses, but got "{level}"')


def _with_superclasses(dataset: ImageDataset, root: Path) -> ImageDataset:
    """The dataset, with the superclasses of `superclasses.csv` if there is such a file."""
    file = (root.parent if root.is_file() else root) / SUPERCLASSES
    if file.is_file() and dataset.classes:
        dataset.set_superclasses(*read_superclasses(file, dataset))
    return dataset


def _look_for_files(dataset: ImageDataset, card: Card, root: Path) -> None:
    """Checks that some of the listed files exist: the list may be there without the images."""
    if isinstance(dataset, FileImages) and len(dataset):
        rows = torch.linspace(0, len(dataset) - 1, min(LOOKED_FOR, len(dataset))).round().long().tolist()
        for path in map(dataset.path, rows):
            if not path.exists():
                raise FileNotFoundError(
                    f"expected {path} to be one of the images of {card.name}, but it is missing\n"
                    f"{_instructions(card, root)}"
                )


def _compare(dataset: ImageDataset, card: Card, split: str, root: Path) -> None:
    """Warns if the split does not have the numbers of the card."""
    images, classes = card.splits[split], card.classes
    if (len(dataset), dataset.classes) != (images, classes):
        warnings.warn(
            f"expected the {split} split of {card.name} in {root} to hold {images:,} images of {classes:,} classes, as "
            f"its card states, but got {len(dataset):,} images of {dataset.classes:,} classes",
            CardWarning,
            stacklevel=3,
        )


def _checked_root(card: Card, split: str, root: str | Path | None) -> Path:
    if root is None:
        raise ValueError(
            f"expected `data.root` to be the folder that holds {card.name}, but got None\n"
            f"{_instructions(card, Path('ROOT'))}"
        )
    folder = Path(root).expanduser()
    if not folder.exists():
        raise FileNotFoundError(
            f"expected `data.root` to be the folder that holds {card.name}, but {folder} does not exist\n"
            f"{_instructions(card, folder)}"
        )
    missing = [path for path in (card.requires or {}).get(split, ()) if not (folder / path).exists()]
    if missing:
        raise FileNotFoundError(
            f"expected `data.root` ({folder}) to hold {missing[0]} for the {split} split of {card.name}, "
            f"but it is missing\n{_instructions(card, folder)}"
        )
    return folder


def _instructions(card: Card, folder: Path) -> str:
    """Where to download the files, and where to put them."""
    archives = [f"download {text}" for heading, text in card.lines() if heading == "archive"]
    return "\n".join([f"{card.title}: {card.source}", *archives, card.unpack.format(root=folder)])
