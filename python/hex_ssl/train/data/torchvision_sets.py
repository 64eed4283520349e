"""The datasets that torchvision reads, as `ImageDataset`.

Each function takes the folder that torchvision calls `root`, a split, "train" or "test", and the level of the
superclasses. torchvision lists the files, and this package decodes them. Some listings are private attributes of
torchvision, which have not changed since version 0.21.
"""

import os
import tarfile
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torchvision import datasets

from hex_ssl.train.data.images import ArrayImages, FileImages, ImageDataset
from hex_ssl.train.data.superclasses import number_parents

CALTECH_TRAIN = 30
"""Number of training images of each class of Caltech-101. The data has no split, and 30 is the usual number."""

CALTECH_SEED = 0
TAXONOMY = ("kingdom", "phylum", "class", "order", "family", "genus")
CAR_MAKES = ("AM General", "Aston Martin", "Land Rover")
"""Makes of two words. All other makes are one word."""


def cifar10(root: Path, split: str, level: str) -> ArrayImages:
    """CIFAR-10."""
    found = datasets.CIFAR10(root, train=split == "train")
    return ArrayImages(_channels_first(found.data), found.targets, 10, class_names=found.classes)


def cifar100(root: Path, split: str, level: str) -> ArrayImages:
    """CIFAR-100, with its 20 superclasses."""
    from hex_ssl.train.data.card import load_card

    found, card = datasets.CIFAR100(root, train=split == "train"), load_card("cifar100")
    return ArrayImages(
        _channels_first(found.data),
        found.targets,
        100,
        class_names=found.classes,
        superclasses=card.superclass_of,
        superclass_names=card.superclass_names,
    )


def stl10(root: Path, split: str, level: str) -> ArrayImages:
    """STL-10. The training split is the 5,000 labelled images, then the 100,000 images without labels."""
    found = datasets.STL10(root, split="train+unlabeled" if split == "train" else "test")
    assert found.labels is not None
    images = torch.from_numpy(np.ascontiguousarray(found.data))
    return ArrayImages(images, found.labels.astype(np.int64), 10, class_names=getattr(found, "classes", ()))


def imagenet(root: Path, split: str, level: str) -> FileImages:
    """ImageNet, with the classes in the order of their WordNet IDs."""
    return _imagenet(root, "train" if split == "train" else "val", wnids=None)


def imagenet100(root: Path, split: str, level: str) -> FileImages:
    """ImageNet-100: 100 classes of ImageNet. The folder may contain the other classes, too."""
    from hex_ssl.train.data.card import load_card

    return _imagenet(root, "train" if split == "train" else "val", load_card("imagenet100").class_names)


def inaturalist2021(root: Path, split: str, level: str) -> FileImages:
    """iNaturalist 2021."""
    return _inaturalist(root, "2021_train" if split == "train" else "2021_valid", level)


def inaturalist2021_mini(root: Path, split: str, level: str) -> FileImages:
    """iNaturalist 2021 with 50 training images of each species."""
    return _inaturalist(root, "2021_train_mini" if split == "train" else "2021_valid", level)


def aircraft(root: Path, split: str, level: str) -> FileImages:
    """FGVC Aircraft: 100 variants, with families or manufacturers (`level`) as superclasses."""
    split = "trainval" if split == "train" else "test"
    found = datasets.FGVCAircraft(root, split)
    paths, labels = _listed(found)
    parents = dict(zip(found.classes, found.classes, strict=True))
    # The files of variants, families and manufacturers list the same images in the same order.
    for part in ("trainval", "test"):
        variants = datasets.FGVCAircraft(root, part)
        groups = datasets.FGVCAircraft(root, part, annotation_level=level)
        for variant, group in zip(_listed(variants)[1], _listed(groups)[1], strict=True):
            parents[variants.classes[variant]] = groups.classes[group]
    superclasses, names = number_parents([parents[name] for name in found.classes])
    return _files(root, paths, labels, found.classes, superclasses=superclasses, superclass_names=names)


def flowers(root: Path, split: str, level: str) -> FileImages:
    """Oxford 102 Flowers. The training split combines the official training and validation splits."""
    parts = ("train", "val") if split == "train" else ("test",)
    listings = [_listed(datasets.Flowers102(root, part)) for part in parts]
    paths, labels = ([each for listing in listings for each in listing[column]] for column in (0, 1))
    # torchvision 0.21 does not have the names of the classes.
    names = getattr(datasets.Flowers102, "classes", [str(label) for label in range(102)])
    return _files(root, paths, labels, names)


def cars(root: Path, split: str, level: str) -> FileImages:
    """Stanford Cars. The superclass is the make, such as Audi."""
    found = datasets.StanfordCars(root, "train" if split == "train" else "test")
    paths, labels = _listed(found)
    folder = root / "stanford_cars" / f"cars_{split}"
    if (folder / folder.name).is_dir():  # as in the copies on Kaggle
        paths = [folder / folder.name / Path(path).name for path in paths]
    superclasses, names = number_parents([make_of(name) for name in found.classes])
    return _files(root, paths, labels, found.classes, superclasses=superclasses, superclass_names=names)


def make_of(car: str) -> str:
    """The make of a car. Each class name of Stanford Cars begins with it.

    Example:
        >>> make_of("Audi S4 Sedan 2012"), make_of("Land Rover LR2 SUV 2012")
        ('Audi', 'Land Rover')
    """
    return next((make for make in CAR_MAKES if car.startswith(make)), car.split()[0])


def pets(root: Path, split: str, level: str) -> FileImages:
    """Oxford-IIIT Pets. The superclass is cat or dog."""
    found = datasets.OxfordIIITPet(root, "trainval" if split == "train" else "test")
    superclasses = torch.zeros(len(found.classes), dtype=torch.int64)
    superclasses[found._labels] = torch.tensor(found._bin_labels)
    return _files(
        root,
        found._images,
        found._labels,
        found.classes,
        superclasses=superclasses,
        superclass_names=("cat", "dog"),
    )


def caltech101(root: Path, split: str, level: str) -> FileImages:
    """Caltech-101 without its background class: 30 training images of each class, the others are test images."""
    found = datasets.Caltech101(root)
    labels = np.array(found.y)
    order = np.random.default_rng(CALTECH_SEED).permutation(len(labels))
    train = np.concatenate([order[labels[order] == label][:CALTECH_TRAIN] for label in range(len(found.categories))])
    rows = np.sort(train) if split == "train" else np.setdiff1d(np.arange(len(labels)), train)
    folder = Path(found.root) / "101_ObjectCategories"
    paths = [str(folder / found.categories[labels[row]] / f"image_{found.index[row]:04d}.jpg") for row in rows]
    return _files(root, paths, labels[rows].tolist(), found.categories)


def food101(root: Path, split: str, level: str) -> FileImages:
    """Food-101."""
    found = datasets.Food101(root, "train" if split == "train" else "test")
    return _files(root, *_listed(found), found.classes)


def _imagenet(root: Path, folder: str, wnids: tuple[str, ...] | None) -> FileImages:
    # `datasets.ImageNet` would unpack 150 GB of archives if the folder were missing. The catalogue has checked that it
    # exists.
    described = (root / "meta.bin").is_file() or (root / "ILSVRC2012_devkit_t12.tar.gz").is_file()
    with _unpacking_inside():
        found: Any = datasets.ImageNet(str(root), folder) if described else datasets.ImageFolder(str(root / folder))
    folders = list(getattr(found, "wnids", found.classes))
    if wnids is not None and (missing := sorted(set(wnids) - set(folders))):
        raise FileNotFoundError(
            f"expected {root / folder} to hold a folder for each of 100 classes, but it has none for "
            f"{', '.join(missing[:5])}"
        )
    kept = sorted(wnids or folders)
    number = {folders.index(wnid): label for label, wnid in enumerate(kept)}
    items = [(path, number[label]) for path, label in found.samples if label in number]
    class_names = [found.classes[folders.index(wnid)] for wnid in kept]
    return _files(
        root,
        [path for path, _ in items],
        [label for _, label in items],
        [name if isinstance(name, str) else name[0] for name in class_names],
        class_folders=kept,
    )


@contextmanager
def _unpacking_inside() -> Iterator[None]:
    """Prevents archives that torchvision unpacks from writing outside their folder."""
    archive: Any = tarfile.TarFile
    # Python has extraction filters since 3.11.4.
    name, ours = (
        ("extraction_filter", staticmethod(tarfile.data_filter))
        if hasattr(tarfile, "data_filter")
        else ("extractall", _extract_inside)
    )
    before = getattr(archive, name)
    setattr(archive, name, ours)
    try:
        yield
    finally:
        setattr(archive, name, before)


EXTRACT_ALL = tarfile.TarFile.extractall


def _extract_inside(archive: tarfile.TarFile, path: Any = ".", *arguments: Any, **options: Any) -> None:
    """`TarFile.extractall` that accepts only files and folders inside `path`."""
    folder = Path(path).resolve()
    for member in archive.getmembers():
        inside = (folder / member.name).resolve().is_relative_to(folder)
        if not (inside and (member.isfile() or member.isdir())):
            raise tarfile.ExtractError(f"the member {member.name} is not a file or folder inside {folder}")
    EXTRACT_ALL(archive, path, *arguments, **options)


def _inaturalist(root: Path, version: str, level: str) -> FileImages:
    found = datasets.INaturalist(root, version)
    found.index.sort()  # torchvision keeps the order of the file system, which differs between machines
    species = [" ".join(name.split("_")[-2:]) for name in found.all_categories]
    groups = torch.tensor([categories[level] for categories in found.categories_map])
    names = sorted(found.categories_index[level], key=lambda name: found.categories_index[level][name])
    folder = Path(found.root)
    paths = [str(folder / found.all_categories[label] / name) for label, name in found.index]
    labels = [label for label, _ in found.index]
    return _files(
        root,
        paths,
        labels,
        species,
        class_folders=found.all_categories,
        superclasses=groups,
        superclass_names=names,
    )


def _channels_first(pixels: np.ndarray) -> torch.Tensor:
    return torch.from_numpy(np.ascontiguousarray(pixels.transpose(0, 3, 1, 2)))


def _listed(found: Any) -> tuple[list[Any], list[Any]]:
    """Paths and labels, which some torchvision datasets hold in pairs and others in two lists."""
    if hasattr(found, "_samples"):
        return [path for path, _ in found._samples], [label for _, label in found._samples]
    return found._image_files, found._labels


def _files(
    root: Path, paths: Iterable[str | Path], labels: list[int], classes: Iterable[str], **more: Any
) -> FileImages:
    names = tuple(classes)
    below = [os.path.relpath(path, root) for path in paths]
    return FileImages(root, below, labels, len(names), class_names=names, **more)


Builder = Callable[[Path, str, str], ImageDataset]
"""Returns a dataset for its folder, a split, and the level of its tree of classes that gives the superclasses."""
