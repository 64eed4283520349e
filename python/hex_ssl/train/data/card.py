"""Dataset cards: what is known about a dataset without its files. Each card is a YAML file in `cards`."""

from dataclasses import dataclass, replace
from functools import cache
from importlib import resources
from typing import Any

from hex_ssl.train.bounded_yaml import load_yaml

IMAGENET_MEAN, IMAGENET_STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)

NO_SUPERCLASSES = "none in the files, unless you add lines `class,superclass` in ROOT/superclasses.csv"


@dataclass(frozen=True)
class Archive:
    """A file to download.

    Attributes:
        file: Name of the file.
        url: Its URL. None if the download requires a form, or only mirrors have the file.
        md5: Its MD5 checksum, if known.
    """

    file: str
    url: str | None = None
    md5: str | None = None


@dataclass(frozen=True)
class Card:
    """The card of a dataset.

    Attributes:
        name: Name of the dataset in `data.name`.
        title: Full name.
        about: What the images show.
        splits: Number of images of each split. Empty if it depends on the files.
        mean: Mean of each channel, for values in [0, 1]. The views are normalised with it.
        std: Standard deviation of each channel.
        statistics: Where `mean` and `std` come from.
        augmentation: The policy that "auto" stands for.
        licence: Terms of use of the images, as far as their authors state them.
        citation: The publication to cite.
        source: Where the dataset comes from.
        image_size: Side in pixels if all images are squares of one size, otherwise None.
        channels: 1 for grey, 3 for colour.
        classes: Number of classes. None if it depends on the files.
        superclasses: Number of superclasses. None if there are none, or if it depends on the files.
        superclass_text: Description of the superclasses.
        levels: The levels of the tree of classes that can be the superclasses, the default first.
        split_text: Description of the splits.
        archives: Files to download.
        unpack: What to do with the archives.
        requires: For each split, the files and folders in the root folder that must exist.
        class_names: Names of the classes in order, if known without the files.
        superclass_names: Names of the superclasses in order, if known without the files.
        superclass_of: The superclass of each class, if known without the files.
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
        """The card for images with this number of channels.

        Changes only cards of a user's dataset ("module:function"). Grey images get the average of the channels' means
        and standard deviations.
        """
        if channels != 1 or len(self.mean) == 1 or ":" not in self.name:
            return self
        mean, std = ((sum(each) / len(each),) for each in (self.mean, self.std))
        return replace(self, mean=mean, std=std, channels=1)

    def lines(self) -> list[tuple[str, str]]:
        """The card as pairs of a heading and a text, for printing."""
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
    """The names of all cards, sorted."""
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
    """The classes and superclasses of a tree. Superclasses keep its order, classes are sorted ignoring case."""
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
