"""A short description of the images of a run, by which a resumed run detects that they have changed."""

import hashlib
from typing import Any

from hex_ssl.train.data.images import UNLABELLED, ImageDataset
from hex_ssl.train.data.module import PretrainData


def fingerprint(data: PretrainData) -> dict[str, Any]:
    """The number of images, their classes, and digests of their labels and file names, for each split.

    No image is decoded, so changed pixels under the same file name and label give the same fingerprint.

    Args:
        data: The images of a run.

    Returns:
        Values that JSON can represent. A split that does not exist is None.

    Example:
        >>> from hex_ssl.train.config import DataConfig
        >>> found = fingerprint(PretrainData(DataConfig(name="digits"), seed=0))
        >>> found["image_size"], found["train"]["images"], found["test"]["classes"][:3]
        (8, 1437, ['0', '1', '2'])
    """
    splits = {"train": _of_split(data.train), "test": None if data.test is None else _of_split(data.test)}
    return {"channels": data.channels, "image_size": data.image_size, **splits}


def _of_split(dataset: ImageDataset) -> dict[str, Any]:
    above = dataset.superclasses
    return {
        "images": len(dataset),
        "labelled": int((dataset.labels != UNLABELLED).sum()),
        "classes": list(dataset.class_names) or int(dataset.classes),
        "superclasses": None if above is None else above.tolist(),
        "labels": hashlib.sha256(dataset.labels.numpy().tobytes()).hexdigest(),
        "files": dataset.files_digest,
    }
