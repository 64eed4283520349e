"""The data of an analysis: the features of one set of images, at one or several epochs of training."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from hex_ssl.train.reading import reading

Array = NDArray[Any]

REPRESENTATION, PROJECTION = "representation", "projection"
"""The spaces: before and after the projector."""


@dataclass(frozen=True)
class Snapshot:
    """The features of the images at one epoch.

    Attributes:
        epoch: Number of epochs done. None if unknown.
        spaces: The features of each space, float [N, D].
    """

    epoch: int | None
    spaces: dict[str, Array]


@dataclass(frozen=True)
class Subject:
    """A set of images and their features.

    Attributes:
        name: Name of the set.
        snapshots: Function that yields the snapshots in the order of their epochs.
        classes: int64 [N], or None.
        superclasses: int64 [N], or None.
        class_names: Names of the classes, if known.
        superclass_names: Names of the superclasses, if known.
        images: Function that returns the images of rows as uint8 [n, H, W, 3], or None.
        description: Where the features come from: file or dataset, split, checkpoints, and number of images.
    """

    name: str
    snapshots: Callable[[], Iterator[Snapshot]]
    classes: NDArray[np.int64] | None = None
    superclasses: NDArray[np.int64] | None = None
    class_names: tuple[str, ...] = ()
    superclass_names: tuple[str, ...] = ()
    images: Callable[[NDArray[np.int64]], NDArray[np.uint8]] | None = None
    description: dict[str, Any] = field(default_factory=dict)

    def class_name(self, label: int) -> str:
        """A class's name, or its number."""
        return _name(self.class_names, label)

    def superclass_name(self, label: int) -> str:
        """A superclass's name, or its number."""
        return _name(self.superclass_names, label)


def _name(names: tuple[str, ...], label: int) -> str:
    return names[label] if 0 <= label < len(names) else str(label)


def subject_from_arrays(
    features: str | Path, labels: str | Path | None = None, superclasses: str | Path | None = None
) -> Subject:
    """Features and labels from .npy files.

    Args:
        features: Floats [N, D], or [E, N, D] for the epochs 0 to E - 1.
        labels: Integers [N], at least 0, the classes.
        superclasses: Integers, at least 0: [N], or one for each class.

    Returns:
        One space, called "features".

    Raises:
        FileNotFoundError: There is no such file.
        ValueError: A file is not a .npy array, or an array has the wrong shape or dtype.
    """
    array = _load(features, "features")
    if array.dtype.kind != "f" or array.ndim not in (2, 3) or 0 in array.shape:
        raise ValueError(
            f"expected `features` to be floats [N, D] or [epochs, N, D], but got {array.dtype} of shape "
            f"{list(array.shape)} in {features}"
        )
    rows = array.shape[-2]
    classes = None if labels is None else _labels(labels, "labels", rows)
    above = None
    if superclasses is not None:
        above = _labels(superclasses, "superclasses", None)
        if classes is not None and len(above) != rows and classes.max(initial=-1) < len(above):
            above = above[classes]
        if len(above) != rows:
            raise ValueError(
                f"expected `superclasses` to have shape [{rows}], but got [{len(above)}] in {superclasses}"
            )

    def snapshots() -> Iterator[Snapshot]:
        if array.ndim == 2:
            yield Snapshot(None, {"features": np.asarray(array)})
        else:
            for epoch, each in enumerate(array):
                yield Snapshot(epoch, {"features": np.asarray(each)})

    return Subject(
        Path(features).stem, snapshots, classes, above, description={"features": str(features), "images": rows}
    )


def _load(path: str | Path, name: str) -> Array:
    with reading(path, f"(`{name}`) to be a .npy file of numbers"):
        return np.lib.format.open_memmap(path, mode="r")


def _labels(path: str | Path, name: str, rows: int | None) -> NDArray[np.int64]:
    labels = _load(path, name)
    if labels.dtype.kind not in "iu" or labels.ndim != 1 or (rows is not None and len(labels) != rows):
        expected = "[N]" if rows is None else f"[{rows}]"
        raise ValueError(
            f"expected `{name}` to be integers {expected}, but got {labels.dtype} of shape {list(labels.shape)} "
            f"in {path}"
        )
    if labels.min(initial=0) < 0:
        raise ValueError(f"expected `{name}` to be at least 0, but got {labels.min()} in {path}")
    if labels.max(initial=0) > np.iinfo(np.int64).max:
        raise ValueError(f"expected `{name}` to be below 2**63, but got {labels.max()} in {path}")
    return np.asarray(labels, np.int64)
