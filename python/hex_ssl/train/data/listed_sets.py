"""Readers for datasets that torchvision does not have, in the layouts that their authors publish.

Each function takes the root folder, a split, "train" or "test", and the level of the superclasses, which has no effect
here.
"""

from pathlib import Path

import numpy as np
from scipy.io import loadmat

from hex_ssl.train.data.images import EXTENSIONS, FileImages
from hex_ssl.train.data.superclasses import number_parents
from hex_ssl.train.reading import reading


def tiny_imagenet(root: Path, split: str, level: str) -> FileImages:
    """Tiny ImageNet. The test split is its validation split, because the labels of the test images are unpublished."""
    folder = root / "tiny-imagenet-200"
    wnids = sorted((folder / "wnids.txt").read_text(encoding="utf-8").split())
    if split == "train":
        files = [
            (f"train/{wnid}/images/{file.name}", wnid)
            for wnid in wnids
            for file in sorted((folder / "train" / wnid / "images").iterdir())
            if file.suffix.lower() in EXTENSIONS
        ]
    else:
        rows = [line.split("\t") for line in _lines(folder / "val" / "val_annotations.txt")]
        files = [(f"val/images/{row[0]}", row[1]) for row in rows]
    words = dict(line.split("\t", 1) for line in _lines(folder / "words.txt"))
    return FileImages(
        folder,
        [path for path, _ in files],
        [wnids.index(wnid) for _, wnid in files],
        len(wnids),
        class_names=[words.get(wnid, wnid).split(",")[0] for wnid in wnids],
        class_folders=wnids,
        size=(64, 64),
    )


def dogs(root: Path, split: str, level: str) -> FileImages:
    """Stanford Dogs."""
    listed = root / f"{'train' if split == 'train' else 'test'}_list.mat"
    with reading(listed, "to be a MATLAB file with `file_list` and `labels`"):
        found = loadmat(listed, squeeze_me=True, variable_names=["file_list", "labels"])
        paths = [str(path) for path in np.atleast_1d(found["file_list"])]
        labels = np.atleast_1d(found["labels"]).astype(np.int64) - 1
    # Folders such as n02085620-Chihuahua. The labels number them in alphabetical order.
    breeds = sorted(each.name for each in (root / "Images").iterdir() if each.is_dir())
    return FileImages(
        root / "Images",
        paths,
        labels,
        len(breeds),
        class_names=[breed.split("-", 1)[1].replace("_", " ") for breed in breeds],
        class_folders=breeds,
    )


def cub(root: Path, split: str, level: str) -> FileImages:
    """CUB-200-2011."""
    folder = root / "CUB_200_2011"
    classes = _pairs(folder / "classes.txt")
    ids, labels = _split_of(folder, split)
    paths = _pairs(folder / "images.txt")
    numbers = list(classes)
    return FileImages(
        folder / "images",
        [paths[each] for each in ids],
        [numbers.index(label) for label in labels],
        len(classes),
        class_names=[name.split(".", 1)[1].replace("_", " ") for name in classes.values()],
        class_folders=list(classes.values()),
    )


def nabirds(root: Path, split: str, level: str) -> FileImages:
    """NABirds: the 555 visual categories that have images, below 22 groups of species."""
    folder = root / "nabirds"
    names, parents = _pairs(folder / "classes.txt"), _pairs(folder / "hierarchy.txt")
    # Labels are nodes of a tree of 1,011 nodes, of which 555 have images.
    leaves = sorted(set(_pairs(folder / "image_class_labels.txt").values()), key=int)
    label_of = {leaf: label for label, leaf in enumerate(leaves)}
    ids, labels = _split_of(folder, split)
    paths = _pairs(folder / "images.txt")
    with reading(folder / "hierarchy.txt", "to be a tree"):
        groups = [_group_of(leaf, parents) for leaf in leaves]
    superclasses, numbers = number_parents(groups)
    return FileImages(
        folder / "images",
        [paths[each] for each in ids],
        [label_of[label] for label in labels],
        len(leaves),
        class_names=[names[leaf] for leaf in leaves],
        superclasses=superclasses,
        superclass_names=[names[number] for number in numbers],
    )


def _group_of(node: str, parents: dict[str, str]) -> str:
    """The node's ancestor directly below the root, the only node without a parent."""
    for _ in range(len(parents) + 1):
        if parents[node] not in parents:
            return node
        node = parents[node]
    raise ValueError(f"{node} is its own ancestor")


def _split_of(folder: Path, split: str) -> tuple[list[str], list[str]]:
    wanted = "1" if split == "train" else "0"
    labels = _pairs(folder / "image_class_labels.txt")
    ids = [each for each, training in _pairs(folder / "train_test_split.txt").items() if training == wanted]
    return ids, [labels[each] for each in ids]


def _pairs(file: Path) -> dict[str, str]:
    """The lines `key value` of a file, as a dictionary."""
    with reading(file, "to hold lines with a key and a value"):
        return dict(line.split(maxsplit=1) for line in _lines(file))


def _lines(file: Path) -> list[str]:
    return [line.strip() for line in file.read_text(encoding="utf-8").splitlines() if line.strip()]
