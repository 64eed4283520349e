"""What is known of a dataset before its files are there: its card, one YAML file each in `cards`."""

from dataclasses import dataclass, replace
from functools import cache
from importlib import resources
from typing import Any

from hex_ssl.train.bounded_yaml import load_yaml

IMAGENET_MEAN, IMAGENET_STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)

NO_SUPERCLASSES = "none in the files; with lines `class,superclass` in ROOT/superclasses.csv"


@dataclass(frozen=True)
class Archive:
    """A file that is to be downloaded.

    Attributes:
        file: Its name.
        url: Where it is; None where it is behind a form, or a mirror must be found.
        md5: Its checksum, where one is known.
    """

    file: str
    url: str | None = None
    md5: str | None = None


@dataclass(frozen=True)
class Card:
    """A dataset's card.

    Attributes:
        name: What `data.name` calls it.
        title: Its name in full.
        about: What its images show.
        splits: Images of each split; empty where it depends on the files.
        mean: Mean of each channel, of values in [0, 1], that the views are normalised with.
        std: Standard deviation of each channel.
        statistics: Where these come from.
        augmentation: The policy that "auto" stands for.
        licence: Under which terms the images may be used, as far as their authors say.
        citation: The publication to cite.
        source: Where it comes from.
        image_size: Side in pixels where all images are square and of one size.
        channels: 1 for grey, 3 for colour.
        classes: How many there are; None where it depends on the files.
        superclasses: How many there are; None without any, or where it depends on the files.
        superclass_text: What the superclasses are.
        levels: Names of the levels of the classes' tree that can be the superclasses, the default first.
        split_text: What is special about the splits.
        archives: What to download.
        unpack: What to do with it.
        requires: For each split the files and folders, below the root, that must be there.
        class_names: The classes' names in order, where they are known without the files.
        superclass_names: The superclasses' names in order, likewise.
        superclass_of: The superclass of each class, likewise.
    """

    name: str
    title: str
    about: str
    splits: dict[str, int]
    mean: tuple[float, ...]
    std: tuple[float, ...]
    statistics: str
    augmentation: str
    licence: str
    citation: str
    source: str
    image_size: int | None = None
    channels: int = 3
    classes: int | None = None
    superclasses: int | None = None
    superclass_text: str = ""
    levels: tuple[str, ...] = ()
    split_text: str = ""
    archives: tuple[Archive, ...] = ()
    unpack: str = ""
    requires: dict[str, tuple[str, ...]] | None = None
    class_names: tuple[str, ...] = ()
    superclass_names: tuple[str, ...] = ()
    superclass_of: tuple[int, ...] = ()

    def with_channels(self, channels: int) -> "Card":
        """Where the card is of a dataset of yours, one for that many channels: grey has the mean of the colours'."""
        if channels != 1 or len(self.mean) == 1 or ":" not in self.name:
            return self
        mean, std = ((sum(each) / len(each),) for each in (self.mean, self.std))
        return replace(self, mean=mean, std=std, channels=1)

    def lines(self) -> list[tuple[str, str]]:
        """The card as rows of a heading and a text, for a person to read."""
        rows = [
            ("images", self.about),
            ("size", f"{self.image_size}x{self.image_size} pixels" if self.image_size else "various"),
            ("classes", "as the files say" if self.classes is None else f"{self.classes:,}"),
            ("superclasses", self.superclass_text or NO_SUPERCLASSES),
            ("splits", ", ".join(f"{name} {size:,}" for name, size in self.splits.items()) or "as the files say"),
            ("", self.split_text),
            ("mean, std", f"{_numbers(self.mean)}, {_numbers(self.std)} ({self.statistics})"),
            ("augmentation", self.augmentation),
            ("source", self.source),
            *[("archive", _described(archive)) for archive in self.archives],
            ("where to put", self.unpack.format(root="ROOT")),
            ("licence", self.licence),
            ("cite", self.citation),
        ]
        return [(heading, text) for heading, text in rows if text]


def card_names() -> list[str]:
    """The names of all cards, in alphabetical order."""
    files = resources.files("hex_ssl.train.data").joinpath("cards").iterdir()
    return sorted(file.name.removesuffix(".yaml") for file in files if file.name.endswith(".yaml"))


@cache
def load_card(name: str) -> Card:
    """The card of a dataset.

    Args:
        name: One of `card_names()`.

    Example:
        >>> load_card("cifar100").superclass_names[load_card("cifar100").superclass_of[0]]
        'fruit_and_vegetables'
    """
    text = resources.files("hex_ssl.train.data").joinpath("cards").joinpath(f"{name}.yaml").read_text(encoding="utf-8")
    fields: dict[str, Any] = load_yaml(text)
    fields.setdefault("statistics", "ImageNet's, as usual")
    if tree := fields.pop("tree", None):
        fields |= _read_tree(tree)
    fields["archives"] = tuple(Archive(**each) for each in fields.get("archives", ()))
    if "requires" in fields:
        fields["requires"] = {split: tuple(paths) for split, paths in fields["requires"].items()}
    for key in ("levels", "class_names", "superclass_names", "superclass_of"):
        fields[key] = tuple(fields.get(key, ()))
    mean, std = fields.pop("mean", IMAGENET_MEAN), fields.pop("std", IMAGENET_STD)
    return Card(name=name, mean=tuple(mean), std=tuple(std), **fields)


def _read_tree(tree: dict[str, list[str]]) -> dict[str, Any]:
    """Superclasses with their classes; both are numbered in the order of the alphabet, whatever the case."""
    parents = list(tree)
    pairs = sorted(((name, parents.index(parent)) for parent, names in tree.items() for name in names), key=_caseless)
    return {
        "superclass_names": parents,
        "class_names": [name for name, _ in pairs],
        "superclass_of": [parent for _, parent in pairs],
    }


def _caseless(pair: tuple[str, int]) -> str:
    return pair[0].lower()


def _described(archive: Archive) -> str:
    parts = [archive.file, f"from {archive.url}" if archive.url else "", f"(md5 {archive.md5})" if archive.md5 else ""]
    return " ".join(part for part in parts if part)


def _numbers(values: tuple[float, ...]) -> str:
    return f"({', '.join(f'{value:g}' for value in values)})"
