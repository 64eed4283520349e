"""The datasets by name, each from its files."""

from collections.abc import Callable
from pathlib import Path

from hex_ssl.data import listed_sets, torchvision_sets
from hex_ssl.data.card import Card
from hex_ssl.data.cards_table import dataset_card as dataset_card
from hex_ssl.data.cards_table import list_datasets as list_datasets
from hex_ssl.data.digits import Digits
from hex_ssl.data.folder import Folder
from hex_ssl.data.hierarchy import Hierarchy
from hex_ssl.data.images import ImageDataset, small_in_memory
from hex_ssl.data.torchvision_sets import Builder
from hex_ssl.extras import train_extra
from hex_ssl.reading import reading

SPLITS = ("train", "test")

GENERATED: dict[str, Callable[[str], ImageDataset]] = {
    "digits": Digits,
    "hierarchy": lambda split: Hierarchy(split, images_per_class=100 if split == "train" else 25),
}
"""What needs no files, from a split."""


def _parquet(root: Path, split: str, level: str) -> ImageDataset:
    with train_extra():
        from hex_ssl.data.parquet import Parquet
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
"""What is read from files, from their folder, a split and a level of the classes' tree."""


def build_dataset(
    name: str, split: str = "train", root: str | Path | None = None, level: str | None = None
) -> ImageDataset:
    """A split of a dataset, from its files.

    Args:
        name: One of `list_datasets()`.
        split: "train" or "test".
        root: Folder that holds the files; not needed for what comes with a package.
        level: Which level of the classes' tree the superclasses are, where the card names several.

    Returns:
        (image, label) by row, with `labels`, `classes`, `superclasses` and the names of both.

    Raises:
        FileNotFoundError: Files are missing; the message says what to put where.
        ValueError: An argument is none of its choices, `root` is missing, or the files are not as published.

    Example:
        >>> dataset = build_dataset("hierarchy", "test")
        >>> len(dataset), dataset.classes, dataset.superclasses.unique().tolist()
        (500, 20, [0, 1, 2, 3, 4])
    """
    card = dataset_card(name)
    if split not in SPLITS:
        choices = ", ".join(f'"{each}"' for each in SPLITS)
        raise ValueError(f'expected `split` to be one of {choices}, but got "{split}"')
    if level is not None and level not in card.levels:
        choices = ", ".join(f'"{each}"' for each in card.levels) or "None"
        raise ValueError(f'expected `level` of {name} to be one of {choices}, but got "{level}"')
    if name in GENERATED:
        return GENERATED[name](split)
    folder = _checked_root(card, split, root)
    try:
        with reading(folder, f"to hold the files of {name} as published"):
            return READ[name](folder, split, level or next(iter(card.levels), ""))
    except ValueError as error:
        raise ValueError(f"{error}\n{_instructions(card, folder)}") from error


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
    """What to put where."""
    archives = [f"download {text}" for heading, text in card.lines() if heading == "archive"]
    return "\n".join([f"{card.title}: {card.source}", *archives, card.unpack.format(root=folder)])
